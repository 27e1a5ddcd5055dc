"""Augmentation on the accelerator: uint8 images in, float views out, inside the jitted training step.

    make_views = augment.simclr(size=32, strength=0.5, blur=False)
    views = make_views(keys, image)            # keys [b], image uint8 [b h w c] -> float [b 2 32 32 c]

`View` and `views` describe other recipes; the functions below act on one float image `[h w c]` in [0, 1] and are
vmapped by the caller: `adjust_*` and friends are deterministic, `random_*` take a key first.
"""

from ssl_jax.augment.blur import gaussian_blur, random_gaussian_blur
from ssl_jax.augment.color import (
    adjust_brightness,
    adjust_contrast,
    adjust_hue,
    adjust_saturation,
    color_jitter,
    normalize,
    random_color_jitter,
    solarize,
    to_grey,
)
from ssl_jax.augment.crop import (
    crop_box,
    flip_left_right,
    random_flip_left_right,
    random_resized_crop,
)
from ssl_jax.augment.cutmix import cutmix
from ssl_jax.augment.erase import random_erasing
from ssl_jax.augment.masking import block_mask
from ssl_jax.augment.mixing import mix, mixup
from ssl_jax.augment.multicrop import dino, local_size, multi_crop, swav
from ssl_jax.augment.obow import grid_patches, obow
from ssl_jax.augment.patch import random_patch
from ssl_jax.augment.prepared import prepare
from ssl_jax.augment.presets import (
    bownet,
    bownet_view,
    byol,
    byol_views,
    clean,
    instance,
    moco_v1,
    moco_v1_view,
    moco_v2,
    moco_v2_view,
    perturbed,
    simclr,
    simclr_view,
    single,
)
from ssl_jax.augment.recipe import Recipe, two_views, views
from ssl_jax.augment.resize import crop_and_resize
from ssl_jax.augment.view import View

__all__ = [
    "Recipe",
    "View",
    "adjust_brightness",
    "adjust_contrast",
    "adjust_hue",
    "adjust_saturation",
    "block_mask",
    "bownet",
    "bownet_view",
    "byol",
    "byol_views",
    "clean",
    "color_jitter",
    "crop_and_resize",
    "crop_box",
    "cutmix",
    "dino",
    "flip_left_right",
    "gaussian_blur",
    "grid_patches",
    "instance",
    "local_size",
    "mix",
    "mixup",
    "moco_v1",
    "moco_v1_view",
    "moco_v2",
    "moco_v2_view",
    "multi_crop",
    "normalize",
    "obow",
    "perturbed",
    "prepare",
    "random_color_jitter",
    "random_erasing",
    "random_flip_left_right",
    "random_gaussian_blur",
    "random_patch",
    "random_resized_crop",
    "simclr",
    "simclr_view",
    "single",
    "solarize",
    "swav",
    "to_grey",
    "two_views",
    "views",
]
