"""Autoencoder on ImageNet: ResNet-50, a code of 128 numbers, batch 256, 100 epochs, AdamW.

`ssl-jax pretrain --config=autoencoder --workdir=DIR`; about as long as any ResNet-50 of 100 epochs at 128 pixels, a day
on one GPU of 2022. There is no published figure for this network; the recipe is this library's.
`:denoising` rebuilds from Gaussian noise and lost pixels (Vincent et al., 2008), `:inpainting` fills random holes of a
quarter of the image (Pathak et al., 2016: 56.5 on Pascal VOC 2007 classification, AlexNet fine-tuned, with an
adversarial loss beside). `:fashion_mnist` and `:fashion_mnist_inpainting` run in minutes, `:test` in seconds on a CPU.
"""

from ml_collections import ConfigDict

from ssl_jax.configs import common


def get_config(arg: str = "") -> ConfigDict:
    """Return the recipe, or one of its variants."""
    variants = ("denoising", "inpainting", "fashion_mnist", "fashion_mnist_inpainting", "test")
    variant = common.parse(arg, *variants)
    c = common.base("autoencoder")
    c.method_args = ConfigDict({"bottleneck": 128, "width": 32, "halvings": 4})
    c.view_size = 128
    c.augment = "clean"
    c.augment_args = ConfigDict({"crop_scale": (0.35, 1.0), "flip": 0.5})
    c.optimizer = "adamw"
    c.optimizer_args = ConfigDict({"weight_decay": 1e-4})
    c.learning_rate = 1e-3
    c.warmup_epochs = 1.0
    if variant == "denoising":
        c.augment = "perturbed"
        c.augment_args.update({"noise": 0.2, "drop": 0.25})
        c.method_args.bottleneck = 1024
    if variant.endswith("inpainting"):
        c.method_args.update({"hole": "random", "bottleneck": 1024})
    if variant.startswith("fashion_mnist"):
        c = common.fashion_mnist(c)
        c.augment = "clean"
        c.augment_args = ConfigDict({"crop_scale": (0.6, 1.0), "flip": 0.5})
        c.method_args.update({"bottleneck": 64, "width": 16, "halvings": 2})
    if variant == "fashion_mnist":
        # What is lost on purpose decides what is learned: intensities change, a block and a third of the pixels go.
        c.augment = "perturbed"
        c.augment_args.update({"jitter": (0.8, 0.8, 0.0, 0.0), "jitter_prob": 1.0, "erase_prob": 1.0, "drop": 0.3})
        c.method_args.bottleneck = None
    if variant == "test":
        c = common.test(c)
        c.augment = "perturbed"
        c.augment_args = ConfigDict({"crop_scale": (0.5, 1.0), "noise": 0.2, "drop": 0.2})
        c.method_args.update({"bottleneck": 8, "width": 8, "halvings": 1, "hole": "random", "hole_weight": 0.5})
    return c
