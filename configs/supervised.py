"""Supervised training on ImageNet: ResNet-50, batch 256, 90 epochs, SGD with drops (He et al., 2016).

`ssl-jax pretrain --config=supervised --workdir=DIR`; the yardstick for the linear accuracy of the other methods.
Published: torchvision's ResNet-50 with this optimization reaches 76.1 % top-1.
`:smoothing` spreads a tenth of each label over all classes. `:fashion_mnist` runs in minutes, `:test` in seconds on a
CPU.
"""

from ml_collections import ConfigDict

from ssl_jax.configs import common


def get_config(arg: str = "") -> ConfigDict:
    """Return the recipe, or its variant `smoothing`, `fashion_mnist` or `test`."""
    variant = common.parse(arg, "smoothing", "fashion_mnist", "test")
    c = common.base("supervised")
    c.method_args = ConfigDict({"label_smoothing": 0.1 if variant == "smoothing" else 0.0})
    c.augment = "single"
    c.augment_args = ConfigDict({"flip": 0.5})
    c.epochs = 90.0
    c.optimizer_args = ConfigDict({"weight_decay": 1e-4, "momentum": 0.9})
    c.learning_rate = 0.1
    c.learning_rate_scaling = "linear"
    c.schedule = "drops"
    c.drop_epochs = (30, 60)
    if variant == "fashion_mnist":
        c = common.fashion_mnist(c)
        c.schedule = "cosine"
        c.augment = "single"
        c.augment_args = ConfigDict({"crop_scale": (0.6, 1.0), "flip": 0.5})
    if variant == "test":
        c = common.test(c)
        c.schedule = "cosine"
        c.augment_args = ConfigDict({"crop_scale": (0.6, 1.0)})
    return c
