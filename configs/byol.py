"""BYOL on ImageNet: ResNet-50, batch 4096, 300 epochs, LARS (Grill et al., 2020).

`ssl-jax pretrain --config=byol --workdir=DIR` on a pod; the authors took 8 hours on 512 TPU v3 cores for 1000 epochs.
Published: linear 61.5 % (40 epochs), 72.5 % (300 epochs), 74.3 % (1000 epochs). `:epochs40`, `:epochs100` and
`:epochs1000` are the authors' other lengths, each with a rate, a decay and a momentum of its own. `:cifar10` is for
CIFAR-10: ResNet-18, batch 512, 200 epochs. The authors have no such recipe, so it is that of lightly's benchmark
(87.2 % by 200 nearest neighbours). `:fashion_mnist` runs in minutes, `:test` in seconds on a CPU.
"""

from ml_collections import ConfigDict

from ssl_jax.configs import common

LENGTHS = {  # epochs: learning rate, weight decay, first momentum (deepmind-research/byol `configs/byol.py`)
    40: (0.45, 1e-6, 0.97),
    100: (0.45, 1e-6, 0.99),
    300: (0.3, 1e-6, 0.99),
    1000: (0.2, 1.5e-6, 0.996),
}


def get_config(arg: str = "") -> ConfigDict:
    """Return the recipe, or its variant `epochs40`, `epochs100`, `epochs1000`, `cifar10`, `fashion_mnist` or `test`."""
    variant = common.parse(arg, "epochs40", "epochs100", "epochs1000", "cifar10", "fashion_mnist", "test")
    epochs = common.epochs_of(variant, 300)
    rate, decay, momentum = LENGTHS[epochs]
    c = common.base("byol")
    c.method_args = ConfigDict(
        {"hidden": 4096, "dim": 256, "momentum": {"schedule": "cosine", "start": momentum, "end": 1.0}}
    )
    c.encoder_args = ConfigDict({"zero_init_residual": True})
    c.augment = "byol"
    c.augment_args = ConfigDict({"brightness": "add"})
    c.batch_size = 4096
    c.epochs = float(epochs)
    c.optimizer = "lars_byol"
    c.optimizer_args = ConfigDict({"weight_decay": decay, "momentum": 0.9})
    c.learning_rate = rate
    c.learning_rate_scaling = "linear"
    c.warmup_epochs = 10.0
    if variant == "cifar10":
        c = common.cifar10(c)
        c.method_args = ConfigDict({"hidden": 1024, "dim": 256, "momentum": 0.99})
        c.encoder_args.zero_init_residual = False
        c.augment = "simclr"
        c.augment_args = ConfigDict({"strength": 0.5, "blur": False})
        c.epochs = 200.0
        # There the loss is a quarter of this one, the rate 0.06 for 128 images and the decay 5e-4: the same step.
        c.optimizer = "sgd"
        c.optimizer_args = ConfigDict({"weight_decay": 2e-3, "momentum": 0.9})
        c.learning_rate = 0.03
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
