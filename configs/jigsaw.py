"""Jigsaw puzzles on ImageNet: ResNet-50, 2000 permutations, batch 256, 105 epochs, SGD (Noroozi and Favaro, 2016).

`ssl-jax pretrain --config=jigsaw --workdir=DIR`. The paper has AlexNet; this is VISSL's recipe for ResNet-50, whose
linear accuracy is 46.7 % (`:permutations100`: 48.6 %). `:fashion_mnist` runs in minutes, `:test` in seconds on a CPU.
"""

from ml_collections import ConfigDict

from ssl_jax.configs import common


def get_config(arg: str = "") -> ConfigDict:
    """Return the recipe, or its variant `permutations100`, `fashion_mnist` or `test`."""
    variant = common.parse(arg, "permutations100", "fashion_mnist", "test")
    c = common.base("jigsaw")
    c.method_args = ConfigDict(
        {"permutations": 100 if variant == "permutations100" else 2000, "tile": 64, "gap": 21, "jitter": 21}
    )
    c.view_size = 255
    c.augment = "single"
    # 255 pixels of 256; where the image is of that size, the crop is not resized.
    c.augment_args = ConfigDict({"crop_side": (255 / 256, 255 / 256), "flip": 0.5, "grey_prob": 0.66})
    c.epochs = 105.0
    c.optimizer_args = ConfigDict({"weight_decay": 1e-4, "momentum": 0.9, "decay": "kernels"})  # VISSL: no norms
    c.learning_rate = 0.1
    c.learning_rate_scaling = "linear"
    c.warmup_epochs = 5.0
    c.schedule = "drops"
    c.drop_epochs = (30, 60, 90, 100)
    if variant == "fashion_mnist":
        c = common.fashion_mnist(c)
        c.schedule = "cosine"
        c.method_args = ConfigDict({"permutations": 100, "per_image": 4, "tile": 8, "gap": 1, "jitter": 2, "dim": 64})
        c.encoder_args = ConfigDict({"strides": (1, 2, 2, 1)})  # a tile still gives a map of 2 x 2
        c.augment = "single"
        c.augment_args = ConfigDict({"crop_scale": (0.6, 1.0), "flip": 0.5})
    if variant == "test":
        c = common.test(c)
        c.schedule = "cosine"
        c.method_args = ConfigDict(
            {"permutations": 6, "per_image": 2, "grid": 2, "tile": 3, "gap": 1, "jitter": 1, "dim": 16}
        )
        c.augment_args = ConfigDict({"crop_scale": (0.6, 1.0)})
    return c
