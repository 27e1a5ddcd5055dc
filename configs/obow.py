"""OBoW on ImageNet: ResNet-50, batch 256, 200 epochs, SGD (Gidaris et al., 2021).

`ssl-jax pretrain --config=obow --workdir=DIR`; the time on any machine was not measured here.
Published: linear 73.8 % (the authors' repository). The rate is not scaled with the batch.
`:imagenet20_rn18` and `:imagenet20_rn18_vanilla` are the authors' ResNet-18 on a fifth of ImageNet (260 images of each
class, 80 epochs; here the first fifth of the images), the latter with one crop and one level. `:fashion_mnist` runs in
minutes, `:test` in seconds on a CPU.
"""

from ml_collections import ConfigDict

from ssl_jax.configs import common


def get_config(arg: str = "") -> ConfigDict:
    """Return the recipe, or its variant for ResNet-18, Fashion-MNIST or tests."""
    variant = common.parse(arg, "imagenet20_rn18", "imagenet20_rn18_vanilla", "fashion_mnist", "test")
    c = common.base("obow")
    momentum = ConfigDict({"schedule": "cosine", "start": 0.99, "end": 1.0})
    c.method_args = ConfigDict(
        {"levels": 2, "words": 8192, "inverse_temperature": 15.0, "kappa": 8.0, "momentum": momentum}
    )
    c.augment = "obow"
    c.epochs = 200.0
    c.optimizer_args = ConfigDict({"weight_decay": 1e-4, "momentum": 0.9})
    c.learning_rate = 0.03
    c.final_learning_rate = 3e-5
    c.warmup_epochs = 10.0
    if variant.startswith("imagenet20"):
        vanilla = variant.endswith("vanilla")
        c.encoder = "resnet18"
        c.train_split = "train[:20%]"
        c.method_args.inverse_temperature = 10.0
        c.method_args.kappa = 5.0
        c.method_args.levels = 1 if vanilla else 2
        c.augment_args = ConfigDict({"crops": 1, "patches": 0} if vanilla else {})
        c.batch_size = 256 if vanilla else 128
        c.epochs = 80.0
        c.optimizer_args.weight_decay = 5e-4
        c.learning_rate = 0.05
        c.final_learning_rate = 0.0
        c.warmup_epochs = 0.0
    if variant == "fashion_mnist":
        c = common.fashion_mnist(c)
        c.method_args.words = 1024
        c.method_args.hidden = 256
        c.augment = "obow"
        c.augment_args = ConfigDict({"centre": 1.0, "blur": False, "patch_size": 14, "crop_scale": (0.3, 1.0)})
    if variant == "test":
        c = common.test(c)
        c.method_args.words = 100  # no multiple of the batch
        c.method_args.hidden = 32
        c.method_args.momentum.start = 0.9
        c.augment_args = ConfigDict(
            {"centre": 1.0, "blur": False, "patch_size": 4, "crop_scale": (0.4, 1.0), "flip": 0.0}
        )
    return c
