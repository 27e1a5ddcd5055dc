"""Rotation prediction on ImageNet: ResNet-50, all four rotations of 128 images, 70 epochs, SGD (Gidaris et al., 2018).

`ssl-jax pretrain --config=rotation --workdir=DIR`. The paper has AlexNet; this is mmselfsup's recipe for ResNet-50.
Published: linear 47.0 %, and 54.2 % from the last stage but one (`ssl-jax evaluate --layer=stage3`).
`:paper` has the optimization of the authors' AlexNet: batch 192, 50 epochs, Nesterov momentum, weight decay 5e-4.
`:fashion_mnist` runs in minutes, `:test` in seconds on a CPU.
"""

from ml_collections import ConfigDict

from ssl_jax.configs import common


def get_config(arg: str = "") -> ConfigDict:
    """Return the recipe, or its variant `paper`, `fashion_mnist` or `test`."""
    variant = common.parse(arg, "paper", "fashion_mnist", "test")
    c = common.base("rotation")
    c.augment = "single"
    c.augment_args = ConfigDict({"flip": 0.5})
    c.batch_size = 128
    c.epochs = 70.0
    c.optimizer_args = ConfigDict({"weight_decay": 1e-4, "momentum": 0.9})
    c.learning_rate = 0.2
    c.warmup_epochs = 5.0
    c.schedule = "drops"
    c.drop_epochs = (30, 50)
    if variant == "paper":
        c.batch_size = 192
        c.epochs = 50.0
        c.optimizer_args = ConfigDict({"weight_decay": 5e-4, "momentum": 0.9, "nesterov": True})
        c.learning_rate = 0.1
        c.warmup_epochs = 0.0
        c.drop_epochs = (15, 30, 45)
    if variant == "fashion_mnist":
        c = common.fashion_mnist(c)
        c.schedule = "cosine"
        c.augment = "single"
        c.augment_args = ConfigDict({"crop_scale": (0.4, 1.0), "flip": 0.5})
    if variant == "test":
        c = common.test(c)
        c.schedule = "cosine"
        c.augment_args = ConfigDict({"crop_scale": (0.6, 1.0)})
    return c
