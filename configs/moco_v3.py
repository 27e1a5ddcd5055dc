"""MoCo v3 on ImageNet: ResNet-50, batch 4096, 300 epochs, LARS (Chen et al., 2021).

`ssl-jax pretrain --config=moco_v3 --workdir=DIR`; the authors used 16 V100. Published: linear 68.9 % (100 epochs),
72.8 % (300 epochs), 74.6 % (1000 epochs). `:epochs100` and `:epochs1000` are the authors' other lengths, each with a
rate, a decay and a momentum of its own.
`:vit` is ViT-S/16 with AdamW, 300 epochs (73.2 %). The authors' ViT-S has 12 heads of 32, so that is ours too.
`:fashion_mnist` runs in minutes, `:test` in seconds on a CPU.
"""

from ml_collections import ConfigDict

from ssl_jax.configs import common

LENGTHS = {  # epochs: learning rate, weight decay, first momentum (facebookresearch/moco-v3 `CONFIG.md`)
    100: (0.6, 1e-6, 0.99),
    300: (0.3, 1e-6, 0.99),
    1000: (0.3, 1.5e-6, 0.996),
}


def get_config(arg: str = "") -> ConfigDict:
    """Return the recipe, or its variant `epochs100`, `epochs1000`, `vit`, `fashion_mnist` or `test`."""
    variant = common.parse(arg, "epochs100", "epochs1000", "vit", "fashion_mnist", "test")
    epochs = common.epochs_of(variant, 300)
    rate, decay, start = LENGTHS[epochs]
    c = common.base("moco_v3")
    momentum = {"schedule": "cosine", "start": start, "end": 1.0}
    c.method_args = ConfigDict({"layers": 2, "hidden": 4096, "dim": 256, "temperature": 1.0, "momentum": momentum})
    c.method_args.predictor_norm = variant in (
        "vit",
        "fashion_mnist",
        "test",
    )  # the authors' `MoCo_ResNet` has none there, `MoCo_ViT` has
    c.encoder_args = ConfigDict({"zero_init_residual": True})
    c.augment = "byol"
    c.augment_args = ConfigDict({"method": "linear", "crop_scale": (0.2, 1.0)})
    c.batch_size = 4096
    c.epochs = float(epochs)
    c.optimizer = "lars_byol"
    c.optimizer_args = ConfigDict({"weight_decay": decay, "momentum": 0.9})
    c.learning_rate = rate
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
