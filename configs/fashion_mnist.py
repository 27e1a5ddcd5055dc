"""SimCLR on Fashion-MNIST for those who wait: about 35 minutes on two CPU cores, minutes on a GPU.

`ssl-jax pretrain --config=fashion_mnist --workdir=DIR`, then `ssl-jax evaluate --workdir=DIR --k=10,20`.
Measured figures: `docs/benchmarks/fashion_mnist.md`. `:test` runs in seconds.
"""

from ml_collections import ConfigDict

from ssl_jax.configs import common


def get_config(arg: str = "") -> ConfigDict:
    """Return the recipe, or its variant `test`."""
    variant = common.parse(arg, "test")
    c = common.fashion_mnist(common.base("simclr"))
    c.method_args = ConfigDict({"temperature": 0.2})
    c.encoder_args = ConfigDict({"widths": (32, 64, 128, 256)})
    c.steps = 3500
    c.warmup_epochs = 1.0
    c.log_every = 50
    c.checkpoint_every = 250
    if variant == "test":
        c.augment_args.flip = 0.0
        c = common.test(c)
    return c
