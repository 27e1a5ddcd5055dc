"""The first run: SimCLR on Fashion-MNIST, minutes on two CPU cores (`launch/quickstart.sh`).

`:digits` runs on scikit-learn's digits, which need no download. `:test` runs in seconds.
"""

from ml_collections import ConfigDict

from ssl_jax.configs import common


def get_config(arg: str = "") -> ConfigDict:
    """Return the recipe, or its variant `digits` or `test`."""
    variant = common.parse(arg, "digits", "test")
    c = common.fashion_mnist(common.base("simclr"))
    c.method_args = ConfigDict({"temperature": 0.2})
    if variant:
        c.data = "digits"
        c.encoder_args = ConfigDict({"widths": (32, 64)})  # 8 x 8 pixels bear no more halving
        c.augment_args = ConfigDict({"strength": 1.0, "blur": False, "crop_scale": (0.4, 1.0), "flip": 0.0})
    else:
        c.knn_every = 200  # each check takes seconds
    return common.test(c) if variant == "test" else c
