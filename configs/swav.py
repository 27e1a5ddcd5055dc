"""SwAV on ImageNet: ResNet-50, multi-crop, batch 4096, 800 epochs, LARS (Caron et al., 2020).

`ssl-jax pretrain --config=swav --workdir=DIR`; the authors took 3 min 40 s an epoch on 64 V100 GPUs, 49 hours.
Published: linear 75.3 %; 72.1 after 100 epochs. Their optimizer's trust ratio (LARC) covers biases and norms too, and
their warm-up starts at 0.3 instead of 0. `:small_batch` is their recipe for a batch of 256 on 4 GPUs with a queue, 200
epochs (72.7 %). `:fashion_mnist` runs in minutes, `:test` in seconds on a CPU.
"""

from ml_collections import ConfigDict

from ssl_jax.configs import common

EPOCH = 1_281_167 / 256  # steps in batches of 256


def get_config(arg: str = "") -> ConfigDict:
    """Return the recipe, or its variant `small_batch`, `fashion_mnist` or `test`."""
    variant = common.parse(arg, "small_batch", "fashion_mnist", "test")
    c = common.base("swav")
    c.method_args = ConfigDict({"prototypes": 3000, "temperature": 0.1, "epsilon": 0.05})
    c.encoder_args = ConfigDict({"bn_groups": 8})  # the authors' batch statistics are of 8 GPUs with 64 images each
    c.augment = "swav"
    c.augment_args = ConfigDict({"local_views": 6})
    c.batch_size = 4096
    c.epochs = 800.0
    c.optimizer = "lars_byol"  # LARC, before torch's SGD: the rate multiplies the momentum
    c.optimizer_args = ConfigDict({"weight_decay": 1e-6, "groups": {"prototypes": {"frozen_steps": 313}}})
    c.learning_rate = 4.8
    c.warmup_epochs = 10.0
    c.final_learning_rate = 4.8e-3
    if variant == "small_batch":
        c.method_args.update({"queue_size": 3840, "queue_start": round(15 * EPOCH)})
        c.optimizer_args.groups.prototypes.frozen_steps = 5005
        c.encoder_args = ConfigDict()
        c.batch_size = 256
        c.epochs = 200.0
        c.learning_rate = 0.6
        c.warmup_epochs = 0.0
        c.final_learning_rate = 6e-4
    if variant == "fashion_mnist":
        c = common.fashion_mnist(c)
        c.augment = "swav"
        c.augment_args = ConfigDict(
            {"local_views": 4, "global_scale": (0.4, 1.0), "local_scale": (0.1, 0.4), "blur": False, "erase_prob": 0.5}
        )
        c.method_args = ConfigDict({"prototypes": None, "hidden": 512, "epsilon": 0.05})
        c.optimizer_args = ConfigDict({"weight_decay": 1e-4, "groups": {"prototypes": {"frozen_steps": 50}}})
        c.final_learning_rate = 0.0
    if variant == "test":
        c = common.test(c)
        c.augment_args = ConfigDict({"local_views": 2, "strength": 0.5, "flip": 0.0, "blur": False})
        c.method_args.update({"prototypes": 30, "hidden": 32, "dim": 16, "queue_size": 100, "queue_start": 3})
        c.final_learning_rate = 0.0
    return c
