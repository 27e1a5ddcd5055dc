"""NNCLR on ImageNet: ResNet-50, batch 4096, 1000 epochs, LARS (Dwibedi et al., 2021).

`ssl-jax pretrain --config=nnclr --workdir=DIR` on a pod. Published: linear 75.4 % (1000 epochs).
The authors published no code; views and weight decay are BYOL's here. `:fashion_mnist` runs in minutes, `:test` in
seconds on a CPU.
"""

from ml_collections import ConfigDict

from ssl_jax.configs import common


def get_config(arg: str = "") -> ConfigDict:
    """Return the recipe, or its variant `fashion_mnist` or `test`."""
    variant = common.parse(arg, "fashion_mnist", "test")
    c = common.base("nnclr")
    c.method_args = ConfigDict(
        {"hidden": 2048, "predictor_hidden": 4096, "dim": 256, "queue_size": 98304, "temperature": 0.1}
    )
    c.augment = "byol"
    c.batch_size = 4096
    c.epochs = 1000.0
    c.optimizer = "lars"
    c.optimizer_args = ConfigDict({"weight_decay": 1e-6, "momentum": 0.9})
    c.learning_rate = 0.3
    c.learning_rate_scaling = "linear"
    c.warmup_epochs = 10.0
    if variant == "fashion_mnist":
        c = common.fashion_mnist(c)
        c.method_args.update({"hidden": 512, "predictor_hidden": 512, "dim": 128, "queue_size": 4096})
        c.method_args.temperature = 0.2
    if variant == "test":
        c = common.test(c)
        c.method_args.update({"hidden": 32, "predictor_hidden": 32, "dim": 16})
        c.method_args.queue_size = 150  # no multiple of the batch
        c.augment_args = ConfigDict({"crop_scale": (0.4, 1.0), "flip": 0.0})
    return c
