"""Barlow Twins on ImageNet: ResNet-50, batch 2048, 1000 epochs, LARS (Zbontar et al., 2021).

`ssl-jax pretrain --config=barlow_twins --workdir=DIR`; the authors took 124 hours on 32 V100.
Published: linear 73.2 % (1000 epochs). Constants are those of the authors' code; the paper's text has a weight decay of
1.5e-6 and a lambda of 0.005. `:cifar10` is for CIFAR-10: ResNet-18, batch 512, 200 epochs. The authors have no such
recipe, so it is that of lightly's benchmark (82.7 % by 200 nearest neighbours). `:fashion_mnist` runs in minutes,
`:test` in seconds on a CPU.
"""

from ml_collections import ConfigDict

from ssl_jax.configs import common


def get_config(arg: str = "") -> ConfigDict:
    """Return the recipe, or its variant `cifar10`, `fashion_mnist` or `test`."""
    variant = common.parse(arg, "cifar10", "fashion_mnist", "test")
    c = common.base("barlow_twins")
    c.method_args = ConfigDict({"layers": 3, "hidden": 8192, "dim": 8192, "redundancy": 0.0051})
    c.encoder_args = ConfigDict({"zero_init_residual": True})
    c.augment = "byol"
    c.batch_size = 2048
    c.epochs = 1000.0
    c.optimizer = "lars_byol"
    # Biases and norm parameters have a rate of 0.0048 where weights have 0.2.
    c.optimizer_args = ConfigDict({"weight_decay": 1e-6, "momentum": 0.9, "bias_rate_scale": 0.024})
    c.learning_rate = 0.2
    c.learning_rate_scaling = "linear"
    c.warmup_epochs = 10.0
    c.final_learning_rate = 0.0016  # a thousandth of the peak
    if variant == "cifar10":
        c = common.cifar10(c)
        c.method_args = ConfigDict({"layers": 2, "hidden": 2048, "dim": 2048, "redundancy": 0.005})
        c.encoder_args.zero_init_residual = False
        c.augment = "simclr"
        c.augment_args = ConfigDict({"strength": 0.5, "blur": False})
        c.epochs = 200.0
        c.optimizer = "sgd"
        c.optimizer_args = ConfigDict({"weight_decay": 5e-4, "momentum": 0.9})
        c.learning_rate = 0.12  # 0.06 for 128 images
        c.final_learning_rate = 0.0
    if variant == "fashion_mnist":
        c = common.fashion_mnist(c)
        c.method_args = ConfigDict({"layers": 2, "hidden": 512, "dim": 512, "redundancy": 0.02})
        c.final_learning_rate = 0.0
    if variant == "test":
        c = common.test(c)
        c.method_args = ConfigDict({"layers": 2, "hidden": 32, "dim": 16, "redundancy": 0.02})
        c.final_learning_rate = 0.0
        c.augment_args = ConfigDict({"crop_scale": (0.4, 1.0), "flip": 0.0})
    return c
