"""BoWNet on ImageNet: ResNet-50 in two rounds, of rotations and of 8192 visual words (Gidaris et al., 2020).

`ssl-jax pretrain --config=bownet --workdir=DIR`; the time was not measured here. The authors published no code, and
the schedule (two rounds of 100 epochs, batch 256, SGD) is our choice; so no figure is promised for it.
`:fashion_mnist` runs in minutes, `:test` in seconds on a CPU.
"""

from ml_collections import ConfigDict

from ssl_jax.configs import common


def get_config(arg: str = "") -> ConfigDict:
    """Return the recipe, or its variant `fashion_mnist` or `test`."""
    variant = common.parse(arg, "fashion_mnist", "test")
    c = common.base("bownet")
    c.method_args = ConfigDict({"words": 8192, "bag": "histogram", "cutmix": 0.5, "batches": 16})
    c.augment = "bownet"
    c.rounds = 2
    c.epochs = 200.0
    c.optimizer_args = ConfigDict({"weight_decay": 1e-4, "momentum": 0.9})
    c.learning_rate = 0.1
    c.warmup_epochs = 5.0
    if variant == "fashion_mnist":
        c = common.fashion_mnist(c)
        c.method_args = ConfigDict({"words": 512, "cutmix": 0.0, "batches": 4, "iterations": 10})
        c.augment = "bownet"
        c.augment_args = ConfigDict({"crop_scale": (0.4, 1.0), "jitter": (0.8, 0.8, 0.0, 0.0), "erase_prob": 0.5})
    if variant == "test":
        c = common.test(c)
        c.rounds = 3
        c.method_args = ConfigDict({"words": 30, "cutmix": 0.5, "batches": 2, "iterations": 5})
        c.augment_args = ConfigDict({"crop_scale": (0.5, 1.0), "flip": 0.0})
    return c
