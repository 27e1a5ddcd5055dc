"""MoCo v2 on ImageNet: ResNet-50, batch 256, 200 epochs, SGD (Chen et al., 2020).

`ssl-jax pretrain --config=moco --workdir=DIR`; the authors took 53 hours on 8 V100.
Published: linear 67.5 % (200 epochs), 71.1 % (800 epochs). `:v1` is MoCo v1 (60.8 %), whose rate falls at epochs 120
and 160. `:cifar10` is the authors' demonstration on CIFAR-10: ResNet-18, a linear head, batch 512, 200 epochs, 82.6 %
by nearest neighbours (800 epochs: 88.7 %). `:fashion_mnist` runs in minutes, `:test` in seconds on a CPU.
"""

from ml_collections import ConfigDict

from ssl_jax.configs import common


def get_config(arg: str = "") -> ConfigDict:
    """Return the recipe, or its variant `v1`, `cifar10`, `fashion_mnist` or `test`."""
    variant = common.parse(arg, "v1", "cifar10", "fashion_mnist", "test")
    v1 = variant == "v1"
    c = common.base("moco")
    c.method_args = ConfigDict(
        {"mlp": not v1, "temperature": 0.07 if v1 else 0.2, "queue_size": 65536, "momentum": 0.999}
    )
    c.encoder_args = ConfigDict({"bn_groups": 8})  # the authors' 8 GPUs, between which keys are shuffled
    c.augment = "moco_v1" if v1 else "moco_v2"
    c.epochs = 200.0
    c.optimizer_args = ConfigDict({"weight_decay": 1e-4, "momentum": 0.9})
    c.learning_rate = 0.03
    c.learning_rate_scaling = "linear"  # as the authors advise for fewer GPUs
    if v1:
        c.schedule = "drops"
        c.drop_epochs = (120, 160)
    if variant == "cifar10":
        c = common.cifar10(c)
        c.method_args.update({"mlp": False, "temperature": 0.1, "queue_size": 4096, "momentum": 0.99})
        c.augment_args = ConfigDict({"crop_scale": (0.08, 1.0), "blur_prob": 0.0})
        c.optimizer_args.weight_decay = 5e-4
    if variant == "fashion_mnist":
        c = common.fashion_mnist(c)
        c.method_args.queue_size = 4096
        c.method_args.momentum = 0.99
    if variant == "test":
        c = common.test(c)
        c.encoder_args.bn_groups = 2
        c.method_args.queue_size = 150  # no multiple of the batch
        c.method_args.momentum = 0.9
        c.augment_args = ConfigDict({"crop_scale": (0.4, 1.0), "flip": 0.0})
    return c
