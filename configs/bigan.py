"""BiGAN on ImageNet at 64 pixels: ResNet-50 encoder, batch 128, 100 epochs, Adam (Donahue et al., 2017).

`ssl-jax pretrain --config=bigan --workdir=DIR`; the authors' encoder is an AlexNet, whose linear probes reach 31.0 % at
conv3, and their rate is constant for 50 epochs and then decays, where ours follows a cosine.
`:fashion_mnist` runs in minutes, `:test` in seconds on a CPU. The small form has a ViT, which learns much in a short
run; the ConvNet, whose filters are good as they are drawn, learns nothing then (docs/benchmarks/methods.md).
"""

from ml_collections import ConfigDict

from ssl_jax.configs import common


def get_config(arg: str = "") -> ConfigDict:
    """Return the recipe, or its variant `fashion_mnist` or `test`."""
    variant = common.parse(arg, "fashion_mnist", "test")
    c = common.base("bigan")
    c.method_args = ConfigDict({"dim": 200, "width": 64, "halvings": 4})
    c.view_size = 64
    c.augment = "clean"
    c.augment_args = ConfigDict({"crop_side": (64 / 72, 64 / 72), "flip": 0.5})  # 64 pixels of 72
    c.batch_size = 128
    c.optimizer = "adam"  # with decay in its gradient, as the authors'; there biases decay too, gains do not
    adam = ConfigDict({"weight_decay": 2.5e-5, "b1": 0.5, "groups": {"discriminator": {"rate_scale": 1.0}}})
    c.optimizer_args = ConfigDict({**adam, "decay": "kernels"})
    c.learning_rate = 2e-4
    if variant == "fashion_mnist":
        c = common.fashion_mnist(c)
        c.encoder = "vit_ti"
        c.encoder_args = ConfigDict({"patch": 4, "dim": 96, "depth": 4, "heads": 3, "pos": "sincos", "pool": "gap"})
        c.augment = "clean"
        c.augment_args = ConfigDict({"flip": 0.5})
        c.method_args.update({"dim": 64, "width": 16, "halvings": 2})
        c.method_args.update({"discriminator_width": 32, "discriminator_hidden": 256})
        c.optimizer_args = adam
        c.learning_rate = 1e-3
    if variant == "test":
        c = common.test(c)
        c.augment = "clean"
        c.augment_args = ConfigDict({})
        c.method_args.update({"dim": 8, "width": 8, "halvings": 1})
        c.method_args.update({"discriminator_width": 8, "discriminator_hidden": 32})
        c.optimizer_args = adam
    return c
