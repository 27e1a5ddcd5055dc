"""SimCLR on ImageNet: ResNet-50, batch 4096, 100 epochs, LARS (Chen et al., 2020).

`ssl-jax pretrain --config=simclr --workdir=DIR` on a pod; the paper took 1.5 hours on 128 TPU v3 cores for 100 epochs.
Published: linear 64.5 % (100 epochs, batch 4096), 69.1 % (1000 epochs).
`:v2` has the three-layer head of version 2. `:cifar10` is the authors' command for CIFAR-10: ResNet-18, batch 512, 1000
epochs, around 91 % linear. `:fashion_mnist` runs in minutes, `:test` in seconds on a CPU.
"""

from ml_collections import ConfigDict

from ssl_jax.configs import common


def get_config(arg: str = "") -> ConfigDict:
    """Return the recipe, or its variant `v2`, `cifar10`, `fashion_mnist` or `test`."""
    variant = common.parse(arg, "v2", "cifar10", "fashion_mnist", "test")
    v2 = variant == "v2"
    c = common.base("simclr")
    c.method_args = ConfigDict({"layers": 3 if v2 else 2, "dim": 128, "temperature": 0.1})
    if variant not in ("fashion_mnist", "test"):
        c.method_args.scale = 2.0  # the authors' code adds the two directions up
    c.encoder_args = ConfigDict({"zero_init_residual": True})
    # The authors' crops are cubic; linear ones are cut faster by the host.
    c.augment_args = ConfigDict({"strength": 1.0, "blur": True, "method": "linear"})
    c.augment_args.brightness = "multiply" if v2 else "add"
    c.normalize = "none"  # as the authors
    c.batch_size = 4096
    c.optimizer = "lars"
    c.optimizer_args = ConfigDict({"weight_decay": 1e-4 if v2 else 1e-6, "momentum": 0.9})
    c.learning_rate = 0.3
    c.learning_rate_scaling = "linear"
    c.warmup_epochs = 10.0
    if variant == "cifar10":
        c = common.cifar10(c)
        c.method_args.temperature = 0.5
        c.augment_args.strength, c.augment_args.blur = 0.5, False
        c.normalize = "none"
        c.epochs = 1000.0
        c.learning_rate = 1.0  # 2.0 with a batch of 512: the authors' scaling is linear there too
        c.warmup_epochs = 10.0
    if variant == "fashion_mnist":
        c = common.fashion_mnist(c)
        c.method_args.temperature = 0.2
    if variant == "test":
        c = common.test(c)
        c.augment_args = ConfigDict({"strength": 0.5, "blur": False, "crop_scale": (0.4, 1.0), "flip": 0.0})
    return c
