"""Instance discrimination with a memory bank on ImageNet: ResNet-50, batch 256, 200 epochs, SGD (Wu et al., 2018).

`ssl-jax pretrain --config=memory_bank --workdir=DIR`. Slots for all images take 0.7 GB. Published: linear 54.0 %,
k-NN 46.5 %. `:fashion_mnist` runs in minutes, `:test` in seconds on a CPU.
"""

from ml_collections import ConfigDict

from ssl_jax.configs import common


def get_config(arg: str = "") -> ConfigDict:
    """Return the recipe, or its variant `fashion_mnist` or `test`."""
    variant = common.parse(arg, "fashion_mnist", "test")
    c = common.base("memory_bank")
    c.method_args = ConfigDict({"dim": 128, "noise": 4096, "temperature": 0.07, "momentum": 0.5})
    c.augment = "instance"
    c.epochs = 200.0
    c.optimizer_args = ConfigDict({"weight_decay": 1e-4, "momentum": 0.9})
    c.learning_rate = 0.03
    c.schedule = "drops"
    c.drop_epochs = (120, 160)
    if variant == "fashion_mnist":
        c = common.fashion_mnist(c)
        c.schedule = "cosine"
        # A slot holds something only from the second time on that its image is seen: 4,096 images, 25 times each.
        c.train_split = "train[:4096]"
        c.method_args.noise = None  # few enough for the exact softmax
        c.method_args.temperature = 0.1
    if variant == "test":
        c = common.test(c)
        c.schedule = "cosine"
        c.method_args.update({"dim": 16, "noise": 64})
        c.augment_args = ConfigDict({"crop_scale": (0.4, 1.0), "flip": 0.0})
    return c
