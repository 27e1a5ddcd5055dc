"""The first run: SimCLR on Fashion-MNIST, minutes on two CPU cores (`launch/quickstart.sh`).

`:digits` runs on scikit-learn's digits, which need no download. `:test` runs in seconds.
"""

from ml_collections import ConfigDict
from ssl_jax.configs import common


def get_config(arg: str = "") -> ConfigDict:
    """Return the recipe, or its variant `digits` or `test`."""
    variant = common.parse(arg, "digits", "test")
    c = common.small_images(common.base("simclr"))
    c.method_args = ConfigDict({"temperature": 0.2})
    c.augment_args = ConfigDict({"strength": 1.0, "blur": False, "crop_scale": (0.4, 1.0), "erase_prob": 0.5})
    c.batch_size = 256
    c.steps = 400
    c.optimizer = "adamw"
    c.learning_rate = 3e-3
    c.warmup_epochs = 0.25
    c.checkpoint_every = 200
    c.log_every = 20
    if variant == "digits":
        c.data = "digits"
        c.augment_args = ConfigDict({"strength": 1.0, "blur": False, "crop_scale": (0.4, 1.0), "flip": 0.0})
    if variant == "test":
        c = common.test(c)
        c.augment_args.flip = 0.0
    return c
