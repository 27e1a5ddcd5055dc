"""CPC v2 on ImageNet: ResNet-50 with layer norm on 6 x 6 patches of 80 pixels, Adam (Henaff et al., 2020).

`ssl-jax pretrain --config=cpc --workdir=DIR`. Published: linear 63.8 % (ResNet-50), 71.5 % (ResNet-161).
The paper's code was not released. From the paper: 260 pixels, patches of 80 every 36 ((260 - 80) / 36 + 1 = 6), layer
norm, four directions, the context network and the loss of its pseudocode. Not verified: batch 512, 200 epochs, Adam
at 4e-4, and the probabilities of the patch augmentations. `:fashion_mnist` runs in minutes, `:test` in seconds on
a CPU.
"""

from ml_collections import ConfigDict

from ssl_jax.configs import common


def get_config(arg: str = "") -> ConfigDict:
    """Return the recipe, or its variant `fashion_mnist` or `test`."""
    variant = common.parse(arg, "fashion_mnist", "test")
    c = common.base("cpc")
    c.method_args = ConfigDict({"patch": 80, "stride": 36, "ahead": (3,), "dim": 64})
    c.encoder_args = ConfigDict({"norm": "layer"})
    c.image_size = 300
    c.view_size = 260
    c.normalize = "none"  # colours are changed patch by patch, in the method
    c.augment = "single"
    c.augment_args = ConfigDict({"crop_scale": (0.3, 1.0), "flip": 0.5})
    c.batch_size = 512
    c.epochs = 200.0
    c.optimizer = "adamw"
    c.optimizer_args = ConfigDict({"weight_decay": 0.0})
    c.learning_rate = 4e-4
    if variant == "fashion_mnist":
        c = common.fashion_mnist(c)
        c.normalize = "none"
        # 4 x 4 patches; those two rows ahead share no pixels.
        c.method_args = ConfigDict({"patch": 8, "stride": 6, "ahead": (2,), "dim": 64, "width": 64, "depth": 2})
        c.encoder_args = ConfigDict({"strides": (1, 2, 2, 1), "norm": "layer"})  # a patch gives a map of 2 x 2
        c.augment = "single"
        c.augment_args = ConfigDict({"crop_scale": (0.6, 1.0), "flip": 0.5})
    if variant == "test":
        c = common.test(c)
        c.normalize = "none"
        c.method_args = ConfigDict({"patch": 4, "stride": 2, "ahead": (1, 2), "dim": 32, "width": 16, "depth": 2})
        c.method_args.scale = 1.0  # the steps are too few for predictions to grow
        c.encoder_args.norm = "layer"
        c.augment_args = ConfigDict({"crop_scale": (0.6, 1.0)})
    return c
