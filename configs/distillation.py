"""Distillation on ImageNet: ResNet-50 from a larger classifier, "function matching" (Beyer et al., CVPR 2022).

`ssl-jax pretrain --config=distillation --config.teacher.path=resnet152.safetensors --workdir=DIR`, with torchvision's
weights (`docs/interop.md`). The authors' 300 epochs took 15 hours on 32 TPU v3 cores. Published: 82.8 % of the student
itself, from BiT-M R152x2. `:self` is SimCLR v2's last step on Fashion-MNIST: a run's encoder, with a head from ten
labels per class, labels all images for a student of its own kind. `:fashion_mnist` imitates a run's features. Both need
`--config.teacher.workdir=RUN` and take minutes on a CPU; `:test` brings its own teacher and takes seconds.
"""

from ml_collections import ConfigDict, config_dict

from ssl_jax.configs import common


def no_teacher() -> ConfigDict:
    """Return the fields that say which network teaches; `workdir` or `path` must be given."""
    c = ConfigDict()
    c.workdir = config_dict.placeholder(str)  # of a run
    c.step = config_dict.placeholder(int)  # its checkpoint, the newest by default
    c.network = "student"  # of a run that has a teacher itself: student or teacher
    c.path = config_dict.placeholder(str)  # of a file, .safetensors or .npz
    c.prefix = config_dict.placeholder(str)  # of its names, where it holds several encoders
    c.encoder = config_dict.placeholder(str)  # a file's architecture; the student's by default
    c.encoder_args = ConfigDict()
    c.labels_per_class = 0  # with so many labels of each class a classifier is fitted on top, for soft labels
    return c


def get_config(arg: str = "") -> ConfigDict:
    """Return the recipe, or its variant `self`, `fashion_mnist` or `test`."""
    variant = common.parse(arg, "self", "fashion_mnist", "test")
    c = common.base("distillation")
    c.teacher = no_teacher()
    c.teacher.encoder = "resnet152"
    c.method_args = ConfigDict({"loss": "soft", "temperature": 1.0, "mixup": True})
    # Crops and flips only; both networks see them.
    c.augment_args = ConfigDict({"crop_scale": (0.05, 1.0), "strength": 0.0, "grey_prob": 0.0, "blur": False})
    c.batch_size = 4096
    c.epochs = 1200.0
    c.optimizer = "adamw"
    c.optimizer_args = ConfigDict({"weight_decay": 0.01, "clip_norm": 1.0})  # 3e-4 over the rate, as it is meant there
    c.learning_rate = 0.03
    c.warmup_epochs = 16.0  # 5000 steps
    if variant:
        c.teacher = no_teacher()
        c.method_args = ConfigDict({"loss": "features", "layers": 2})
        c = common.test(c) if variant == "test" else common.fashion_mnist(c)
    if variant == "self":
        c.teacher.labels_per_class = 10
        c.method_args = ConfigDict({"loss": "soft", "temperature": 1.0})
    if variant == "test":
        c.teacher.path = "package:digits_teacher.npz"  # python -m benchmarks.digits_teacher
        c.augment_args = ConfigDict({"strength": 0.5, "blur": False, "crop_scale": (0.4, 1.0), "flip": 0.0})
    return c
