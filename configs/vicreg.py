"""VICReg on ImageNet: ResNet-50, batch 2048, 1000 epochs, LARS (Bardes et al., 2022).

`ssl-jax pretrain --config=vicreg --workdir=DIR`; the authors used 4 nodes of 8 GPUs.
Published: linear 73.2 % (1000 epochs). `:fashion_mnist` runs in minutes, `:test` in seconds on a CPU.
"""

from ml_collections import ConfigDict

from ssl_jax.configs import common


def get_config(arg: str = "") -> ConfigDict:
    """Return the recipe, or its variant `fashion_mnist` or `test`."""
    variant = common.parse(arg, "fashion_mnist", "test")
    c = common.base("vicreg")
    weights = {"invariance": 25.0, "variance": 25.0, "covariance": 1.0}
    c.method_args = ConfigDict({"layers": 3, "hidden": 8192, "dim": 8192, **weights})
    c.encoder_args = ConfigDict({"zero_init_residual": True})
    c.augment = "byol"
    c.batch_size = 2048
    c.epochs = 1000.0
    c.optimizer = "lars_byol"
    c.optimizer_args = ConfigDict({"weight_decay": 1e-6, "momentum": 0.9})
    c.learning_rate = 0.2
    c.learning_rate_scaling = "linear"
    c.warmup_epochs = 10.0
    c.final_learning_rate = 0.0016  # a thousandth of the peak
    if variant == "fashion_mnist":
        c = common.fashion_mnist(c)
        c.method_args = ConfigDict({"layers": 2, "hidden": 512, "dim": 512, **weights})
        c.final_learning_rate = 0.0
    if variant == "test":
        c = common.test(c)
        c.method_args = ConfigDict({"layers": 2, "hidden": 32, "dim": 16, **weights})
        c.final_learning_rate = 0.0
        c.augment_args = ConfigDict({"crop_scale": (0.4, 1.0), "flip": 0.0})
    return c
