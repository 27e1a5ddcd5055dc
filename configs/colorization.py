"""Colorization on ImageNet: batch 40, 450,000 steps of Adam (Zhang et al., 2016).

`ssl-jax pretrain --config=colorization --workdir=DIR`; the authors' networks are VGG-like and, for comparison with
other methods, AlexNet; here it is a ResNet-50, without their dilated last stages. Time is not measured.
Published for ResNet-50: linear 40.1 % (Goyal et al., 2019).
`:regression` predicts ab itself. `:photos` runs in minutes (on patches of photographs, with scikit-image), `:test` in
seconds on a CPU.
"""

from ml_collections import ConfigDict

from ssl_jax.configs import common


def get_config(arg: str = "") -> ConfigDict:
    """Return the recipe, or its variant `regression`, `photos` or `test`."""
    variant = common.parse(arg, "regression", "photos", "test")
    c = common.base("colorization")
    c.method_args = ConfigDict({"regression": variant == "regression", "neighbors": 10, "temperature": 0.38})
    c.method_args.prior_momentum = 0.999
    c.view_size = 176
    c.augment = "clean"
    c.augment_args = ConfigDict({"crop_side": (176 / 256, 176 / 256), "flip": 0.5})  # 176 pixels of 256
    c.normalize = "none"  # colours as they are
    c.batch_size = 40
    c.epochs = 14.05  # 450,000 steps
    c.optimizer = "adam"  # with decay in its gradient, as in Caffe
    c.optimizer_args = ConfigDict({"weight_decay": 1e-3, "b1": 0.9, "b2": 0.99})
    c.learning_rate = 3e-5
    c.schedule = "drops"
    c.drop_epochs = (6.25, 12.0)  # steps 200,000 and about 375,000
    c.drop_factor = 0.316
    if variant == "photos":
        c = common.photos(c)
        c.augment = "clean"
        c.augment_args = ConfigDict({"crop_scale": (0.4, 1.0), "flip": 0.5})
        c.normalize = "none"
        c.schedule = "cosine"
        c.method_args = ConfigDict({"hidden": 128, "prior_momentum": 0.95})
    if variant == "test":
        c = common.test(c)
        c.data = "photos"
        c.view_size = 16
        c.normalize = "none"
        c.schedule = "cosine"
        c.augment_args = ConfigDict({"crop_scale": (0.4, 1.0), "flip": 0.5})
        c.method_args = ConfigDict({"hidden": 64, "prior_momentum": 0.9})
    return c
