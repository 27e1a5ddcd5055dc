"""MoCo v3 on ImageNet: ResNet-50, batch 4096, 300 epochs, LARS (Chen et al., 2021).

`ssl-jax pretrain --config=moco_v3 --workdir=DIR`; the authors used 16 V100. Published: linear 68.9 % (100 epochs, with
a rate of 0.6), 72.8 % (300 epochs), 74.6 % (1000 epochs, with a weight decay of 1.5e-6 and a momentum from 0.996).
`:vit` is ViT-S/16 with AdamW, 300 epochs (73.2 %). The authors' ViT-S has 12 heads of 32, so that is ours too.
`:fashion_mnist` runs in minutes, `:test` in seconds on a CPU.
"""

from ml_collections import ConfigDict

from ssl_jax.configs import common


def get_config(arg: str = "") -> ConfigDict:
    """Return the recipe, or its variant `vit`, `fashion_mnist` or `test`."""
    variant = common.parse(arg, "vit", "fashion_mnist", "test")
    c = common.base("moco_v3")
    momentum = {"schedule": "cosine", "start": 0.99, "end": 1.0}
    c.method_args = ConfigDict({"layers": 2, "hidden": 4096, "dim": 256, "temperature": 1.0, "momentum": momentum})
    c.method_args.predictor_norm = bool(variant)  # the authors' `MoCo_ResNet` has none there, `MoCo_ViT` has
    c.encoder_args = ConfigDict({"zero_init_residual": True})
    c.augment = "byol"
    c.augment_args = ConfigDict({"method": "linear", "crop_scale": (0.2, 1.0)})
    c.batch_size = 4096
    c.epochs = 300.0
    c.optimizer = "lars_byol"
    c.optimizer_args = ConfigDict({"weight_decay": 1e-6, "momentum": 0.9})
    c.learning_rate = 0.3
    c.learning_rate_scaling = "linear"
    c.warmup_epochs = 10.0
    if variant == "vit":
        c.encoder = "vit_s"
        c.encoder_args = ConfigDict({"heads": 12, "pos": "sincos", "freeze_patches": True})
        c.method_args.layers = 3
        c.method_args.temperature = 0.2
        c.augment_args.crop_scale = (0.08, 1.0)
        c.optimizer = "adamw"
        # Weight decay would shrink what the gradient leaves alone.
        groups = {f"encoder/patch_{name}": {"weight_decay": 0.0} for name in ("kernel", "bias")}
        c.optimizer_args = ConfigDict({"weight_decay": 0.1, "decay": "all", "groups": groups})
        c.learning_rate = 1.5e-4
        c.warmup_epochs = 40.0
    if variant == "fashion_mnist":
        c = common.fashion_mnist(c)
        c.method_args.update({"hidden": 512, "dim": 128, "temperature": 0.2})
    if variant == "test":
        c = common.test(c)
        c.method_args.update({"hidden": 32, "dim": 16, "temperature": 0.2})
        c.augment_args = ConfigDict({"crop_scale": (0.4, 1.0), "flip": 0.0})
    return c
