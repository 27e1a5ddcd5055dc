"""MAE on ImageNet: ViT-B/16, batch 4096, 800 epochs, AdamW (He et al., 2022).

`ssl-jax pretrain --config=mae --workdir=DIR` on a pod; the authors took 31 hours on 128 TPU v3 cores for 1600 epochs of
ViT-L. Published: fine-tuned 83.6 %, linear 68.0 % (1600 epochs), the class token's. `:large` is ViT-L/16 (fine-tuned
84.9 %, linear 73.5 %). `:fashion_mnist` runs in minutes, `:test` in seconds on a CPU.
"""

from ml_collections import ConfigDict

from ssl_jax.configs import common


def get_config(arg: str = "") -> ConfigDict:
    """Return the recipe, or its variant `large`, `fashion_mnist` or `test`."""
    variant = common.parse(arg, "large", "fashion_mnist", "test")
    c = common.base("mae")
    c.method_args = ConfigDict({"mask_ratio": 0.75, "dim": 512, "depth": 8, "heads": 16})
    c.encoder = "vit_l" if variant == "large" else "vit_b"
    c.encoder_args = ConfigDict({"patch": 16, "pos": "sincos", "pool": "cls"})
    c.augment = "clean"
    c.augment_args = ConfigDict({"crop_scale": (0.2, 1.0), "flip": 0.5, "method": "cubic"})
    c.batch_size = 4096
    c.epochs = 800.0
    c.optimizer = "adamw"
    c.optimizer_args = ConfigDict({"weight_decay": 0.05, "b1": 0.9, "b2": 0.95})
    c.learning_rate = 1.5e-4
    c.learning_rate_scaling = "linear"
    c.warmup_epochs = 40.0
    vit = {"encoder": "vit_ti", "augment": "clean"}
    if variant == "fashion_mnist":
        c = common.fashion_mnist(c)
        c.update(vit)
        c.encoder_args = ConfigDict({"patch": 4, "dim": 96, "depth": 4, "heads": 3, "pos": "sincos", "pool": "gap"})
        c.augment_args = ConfigDict({"crop_scale": (0.6, 1.0), "flip": 0.5})
        c.method_args.update({"dim": 64, "depth": 1, "heads": 2})
        c.optimizer_args = ConfigDict({"weight_decay": 0.05, "b1": 0.9, "b2": 0.95})
    if variant == "test":
        c = common.test(c)
        c.update(vit)
        c.encoder_args = ConfigDict({"patch": 2, "dim": 16, "depth": 2, "heads": 2, "pos": "sincos", "pool": "gap"})
        c.augment_args = ConfigDict({"crop_scale": (0.5, 1.0)})
        c.method_args.update({"dim": 16, "depth": 1, "heads": 2})
    return c
