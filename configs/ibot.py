"""iBOT on ImageNet: ViT-S/16, multi-crop, batch 1024, 800 epochs, AdamW (Zhou et al., 2022).

`ssl-jax pretrain --config=ibot --workdir=DIR`, for 16 GPUs as the authors had.
Published: linear 77.9 %, k-NN 75.2 %. `:dinov2` has DINOv2's objective (two heads, Sinkhorn-Knopp, KoLeo) on the same
network and data; its authors trained larger ones. `:fashion_mnist` runs in minutes, `:test` in seconds on a CPU, both
with a small ViT.
"""

from ml_collections import ConfigDict

from ssl_jax.configs import common


def get_config(arg: str = "") -> ConfigDict:
    """Return the recipe, or its variant `dinov2`, `fashion_mnist` or `test`."""
    variant = common.parse(arg, "dinov2", "fashion_mnist", "test")
    c = common.base("ibot")
    warmed = {"schedule": "linear", "start": 0.04, "end": 0.07, "epochs": 30}
    c.method_args = ConfigDict(
        {
            "prototypes": 8192,
            "train_norms": True,
            "teacher_temperature": warmed,
            "patch_temperature": warmed,
            "momentum": {"schedule": "cosine", "start": 0.996, "end": 1.0},
        }
    )
    c.encoder = "vit_s"
    c.encoder_args = ConfigDict({"drop_path": 0.1})
    c.augment = "dino"
    c.augment_args = ConfigDict({"local_views": 10, "global_scale": (0.25, 1.0), "local_scale": (0.05, 0.25)})
    c.batch_size = 1024
    c.epochs = 800.0
    c.optimizer = "adamw"
    c.optimizer_args = ConfigDict(
        {
            "weight_decay": {"schedule": "cosine", "start": 0.04, "end": 0.4},
            "clip_each_norm": 3.0,
            "groups": {"head/last": {"frozen_epochs": 1}},
        }
    )
    c.learning_rate = 5e-4
    c.learning_rate_scaling = "linear"
    c.warmup_epochs = 10.0
    c.final_learning_rate = 1e-6
    if variant == "dinov2":
        c.method_args.update({"shared_head": False, "sinkhorn": True, "koleo": 0.1})
        c.optimizer_args.groups["patch_head/last"] = {"frozen_epochs": 1}
    if variant == "fashion_mnist":
        c = small(common.fashion_mnist(c))
        c.augment = "dino"
        c.augment_args = ConfigDict(
            {"local_views": 4, "global_scale": (0.4, 1.0), "local_scale": (0.1, 0.4), "blur": False}
        )
        c.encoder = "vit_ti"
        c.encoder_args = ConfigDict({"patch": 7, "dim": 96, "depth": 4, "heads": 3, "drop_path": 0.1})
        c.learning_rate = 1e-3
    if variant == "test":
        c = small(common.test(c))
        c.method_args.update({"prototypes": 64, "hidden": 32, "bottleneck": 16})
        c.encoder = "vit_ti"
        c.encoder_args = ConfigDict({"patch": 2, "dim": 16, "depth": 2, "heads": 2, "drop_path": 0.1})
        c.augment_args = ConfigDict({"local_views": 2, "flip": 0.0})
    return c


def small(c: ConfigDict) -> ConfigDict:
    """A smaller head, held for a shorter time, and what belongs to the size of the data left to it (`small_data`)."""
    c.method_args = ConfigDict({"hidden": 256, "bottleneck": 64})
    c.method_args.update({"prototypes": None, "teacher_temperature": None, "patch_temperature": None, "momentum": None})
    c.optimizer_args = ConfigDict(
        {"weight_decay": 1e-4, "clip_each_norm": 3.0, "groups": {"head/last": {"frozen_epochs": 0.25}}}
    )
    return c
