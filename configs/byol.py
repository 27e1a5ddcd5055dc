"""BYOL on ImageNet: ResNet-50, batch 4096, 300 epochs, LARS (Grill et al., 2020).

`ssl-jax pretrain --config=byol --workdir=DIR` on a pod; the authors took 8 hours on 512 TPU v3 cores for 1000 epochs.
Published: linear 72.5 % (300 epochs), 74.3 % (1000 epochs). `:fashion_mnist` runs in minutes, `:test` in seconds on a
CPU.
"""

from ml_collections import ConfigDict

from ssl_jax.configs import common


def get_config(arg: str = "") -> ConfigDict:
    """Return the recipe, or its variant `fashion_mnist` or `test`."""
    variant = common.parse(arg, "fashion_mnist", "test")
    c = common.base("byol")
    c.method_args = ConfigDict(
        {"hidden": 4096, "dim": 256, "momentum": {"schedule": "cosine", "start": 0.99, "end": 1.0}}
    )
    c.encoder_args = ConfigDict({"zero_init_residual": True})
    c.augment = "byol"
    c.batch_size = 4096
    c.epochs = 300.0
    c.optimizer = "lars_byol"
    c.optimizer_args = ConfigDict({"weight_decay": 1e-6, "momentum": 0.9})
    c.learning_rate = 0.3
    c.learning_rate_scaling = "linear"
    c.warmup_epochs = 10.0
    if variant == "fashion_mnist":
        c = common.fashion_mnist(c)
        c.method_args.hidden = 512
        c.method_args.dim = 128
    if variant == "test":
        c = common.test(c)
        c.method_args.hidden = 32
        c.method_args.dim = 16
        c.augment_args = ConfigDict({"crop_scale": (0.4, 1.0), "flip": 0.0})
    return c
