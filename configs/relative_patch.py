"""Relative patch prediction on ImageNet: ResNet-50, batch 512, 70 epochs, SGD (Doersch et al., 2015).

`ssl-jax pretrain --config=relative_patch --workdir=DIR`. The paper has a network like AlexNet; this is mmselfsup's
recipe for ResNet-50. Published: linear 40.4 %, and 51.2 % from the last stage but one (`ssl-jax evaluate
--layer=stage3`). `:fashion_mnist` runs in minutes, `:test` in seconds on a CPU.
"""

from ml_collections import ConfigDict

from ssl_jax.configs import common


def get_config(arg: str = "") -> ConfigDict:
    """Return the recipe, or its variant `fashion_mnist` or `test`."""
    variant = common.parse(arg, "fashion_mnist", "test")
    c = common.base("relative_patch")
    c.method_args = ConfigDict({"patch": 64, "gap": 21, "jitter": 21, "hidden": 4096, "dropout": 0.5})
    c.image_size = 292
    c.view_size = 255
    c.augment = "single"
    # 255 pixels of 292; where the image is of that size, the crop is not resized.
    c.augment_args = ConfigDict({"crop_side": (255 / 292, 255 / 292), "grey_prob": 0.66})
    c.batch_size = 512
    c.epochs = 70.0
    c.optimizer_args = ConfigDict({"weight_decay": 1e-4, "momentum": 0.9, "groups": {"head": {"weight_decay": 5e-4}}})
    c.learning_rate = 0.2
    c.warmup_epochs = 5.0
    c.schedule = "drops"
    c.drop_epochs = (30, 50)
    if variant == "fashion_mnist":
        c = common.fashion_mnist(c)
        c.schedule = "cosine"
        c.method_args = ConfigDict({"patch": 8, "gap": 1, "jitter": 2, "hidden": 256, "dropout": 0.0})
        c.encoder_args = ConfigDict({"strides": (1, 2, 2, 1)})  # a patch still gives a map of 2 x 2
        c.augment = "single"
        c.augment_args = ConfigDict({"crop_scale": (0.6, 1.0), "flip": 0.5})
    if variant == "test":
        c = common.test(c)
        c.schedule = "cosine"
        c.method_args = ConfigDict({"patch": 3, "gap": -1, "jitter": 1, "hidden": 32, "dropout": 0.0})
        c.augment_args = ConfigDict({"crop_scale": (0.6, 1.0)})
    return c
