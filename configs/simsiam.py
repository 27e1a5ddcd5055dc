"""SimSiam on ImageNet: ResNet-50, batch 512, 100 epochs, SGD (Chen & He, 2021).

`ssl-jax pretrain --config=simsiam --workdir=DIR`; the authors used 8 V100.
Published: linear 68.1 % (100 epochs), 71.3 % (800 epochs). `:cifar10` is the paper's recipe for CIFAR-10: ResNet-18,
batch 512, 800 epochs. `:fashion_mnist` runs in minutes, `:test` in seconds on a CPU.
"""

from ml_collections import ConfigDict

from ssl_jax.configs import common


def get_config(arg: str = "") -> ConfigDict:
    """Return the recipe, or its variant `cifar10`, `fashion_mnist` or `test`."""
    variant = common.parse(arg, "cifar10", "fashion_mnist", "test")
    c = common.base("simsiam")
    c.method_args = ConfigDict({"layers": 3, "dim": 2048, "bottleneck": 512})
    c.encoder_args = ConfigDict({"zero_init_residual": True})
    c.augment = "moco_v2"
    c.batch_size = 512
    groups = {"predictor": {"constant_rate": True}}
    c.optimizer_args = ConfigDict({"weight_decay": 1e-4, "momentum": 0.9, "groups": groups})  # decays all parameters
    c.learning_rate = 0.05
    c.learning_rate_scaling = "linear"
    if variant == "cifar10":
        c = common.cifar10(c)
        c.method_args.layers = 2
        c.augment_args = ConfigDict({"blur_prob": 0.0})
        c.optimizer_args.weight_decay = 5e-4
        c.learning_rate = 0.03
        c.epochs = 800.0
    if variant == "fashion_mnist":
        c = common.fashion_mnist(c)
        c.method_args = ConfigDict({"layers": 2, "dim": 512, "bottleneck": 128})
        c.optimizer_args.groups = groups
    if variant == "test":
        c = common.test(c)
        c.method_args = ConfigDict({"layers": 2, "dim": 32, "bottleneck": 8})
        c.optimizer_args.groups = groups
        c.augment_args = ConfigDict({"crop_scale": (0.4, 1.0), "flip": 0.0})
    return c
