"""The recipes of the papers, as functions of a few numbers; every other field of `View` can be overridden.

Sources: google-research/simclr `data_util.py`, facebookresearch/moco `main_moco.py`, deepmind-research/byol
`utils/augmentations.py` and configs. Operations follow torchvision's definitions (see `color`), where SimCLR and BYOL
pivot contrast on each channel, resize crops with bicubic interpolation (`method="cubic"`), and in SimCLR v1 and BYOL
add brightness (`brightness="add"`). Recipes in `configs/` say which of the two they take.
"""

import dataclasses
from typing import Any

import jax.numpy as jnp
from jaxtyping import DTypeLike

from ssl_jax.augment.recipe import MakeViews, Stats, two_views, views
from ssl_jax.augment.view import View
from ssl_jax.core import UserError


def _with(view: View, overrides: dict[str, Any]) -> View:
    unknown = sorted(set(overrides) - {field.name for field in dataclasses.fields(View)})
    if unknown:
        raise UserError(f"View has no field {unknown[0]!r}; see the documentation of ssl_jax.augment.View")
    return dataclasses.replace(view, **overrides)


def simclr_view(strength: float = 1.0, blur: bool = True) -> View:
    """Return SimCLR's view (arXiv 2002.05709, appendix A); CIFAR-10 takes strength 0.5 and no blur."""
    s = strength
    return View(
        crop_scale=(0.08, 1.0),
        flip=0.5,
        jitter=(0.8 * s, 0.8 * s, 0.8 * s, 0.2 * s),
        jitter_prob=0.8,
        grey_prob=0.2,
        blur_prob=0.5 if blur else 0.0,
    )


def simclr(
    size: int,
    *,
    strength: float = 1.0,
    blur: bool = True,
    mean: Stats = None,
    std: Stats = None,
    dtype: DTypeLike = jnp.float32,
    **overrides: Any,
) -> MakeViews:
    """Return SimCLR's two views: `(keys [b], image uint8 [b h w c]) -> float [b 2 size size c]`.

    Args:
      size: height and width of a view in pixels.
      strength: of the colour jitter (1.0 on ImageNet, 0.5 on CIFAR-10).
      blur: with Gaussian blur (not on CIFAR-10).
      mean: per channel; None: values stay in [0, 1].
      std: likewise.
      dtype: of the result.
      **overrides: fields of `View` to replace.
    """
    view = _with(simclr_view(strength, blur), overrides)
    return two_views(view, size=size, mean=mean, std=std, dtype=dtype)


def single(
    size: int, *, mean: Stats = None, std: Stats = None, dtype: DTypeLike = jnp.float32, **overrides: Any
) -> MakeViews:
    """Return one view of each image: `(keys [b], image uint8 [b h w c]) -> float [b 1 size size c]`.

    A random resized crop and nothing else, unless `overrides` say so: what pretext tasks and supervised training start
    from (no mirror image by default, nor any other change that could be part of a task).

    Args:
      size: height and width of the view in pixels.
      mean: per channel; None: values stay in [0, 1].
      std: likewise.
      dtype: of the result.
      **overrides: fields of `View` to replace, such as `crop_scale`, `flip`, `jitter`, `grey_prob`.
    """
    return views([_with(View(), overrides)], size=size, mean=mean, std=std, dtype=dtype)


def moco_v1_view() -> View:
    """Return MoCo v1's view (arXiv 1911.05722): the jitter always happens, with a strong hue; no blur."""
    return View(crop_scale=(0.2, 1.0), flip=0.5, jitter=(0.4, 0.4, 0.4, 0.4), jitter_prob=1.0, grey_prob=0.2)


def moco_v2_view() -> View:
    """Return MoCo v2's view (arXiv 2003.04297), which SimSiam uses too.

    The authors blur with PIL, whose kernel is not cut off; here it is cut at a tenth of the image, as in SimCLR.
    """
    return View(
        crop_scale=(0.2, 1.0),
        flip=0.5,
        jitter=(0.4, 0.4, 0.4, 0.1),
        jitter_prob=0.8,
        grey_prob=0.2,
        blur_prob=0.5,
    )


def byol_views() -> tuple[View, View]:
    """Return BYOL's two views (arXiv 2006.07733, table 6): one always blurred, one sometimes solarized instead."""
    view = View(
        crop_scale=(0.08, 1.0),
        method="cubic",
        flip=0.5,
        jitter=(0.4, 0.4, 0.2, 0.1),
        jitter_prob=0.8,
        grey_prob=0.2,
    )
    return _with(view, {"blur_prob": 1.0}), _with(view, {"blur_prob": 0.1, "solarize_prob": 0.2})


def moco_v1(
    size: int, *, mean: Stats = None, std: Stats = None, dtype: DTypeLike = jnp.float32, **overrides: Any
) -> MakeViews:
    """Return MoCo v1's two views; arguments as for `simclr`."""
    return two_views(_with(moco_v1_view(), overrides), size=size, mean=mean, std=std, dtype=dtype)


def instance(
    size: int, *, mean: Stats = None, std: Stats = None, dtype: DTypeLike = jnp.float32, **overrides: Any
) -> MakeViews:
    """Return the one view of instance discrimination (arXiv 1805.01978), `[b 1 size size c]`: MoCo v1's.

    The authors draw greyscale before the jitter; here it comes after. Arguments as for `simclr`.
    """
    return views([_with(moco_v1_view(), overrides)], size=size, mean=mean, std=std, dtype=dtype)


def moco_v2(
    size: int, *, mean: Stats = None, std: Stats = None, dtype: DTypeLike = jnp.float32, **overrides: Any
) -> MakeViews:
    """Return MoCo v2's two views; arguments as for `simclr`."""
    return two_views(_with(moco_v2_view(), overrides), size=size, mean=mean, std=std, dtype=dtype)


def byol(
    size: int, *, mean: Stats = None, std: Stats = None, dtype: DTypeLike = jnp.float32, **overrides: Any
) -> MakeViews:
    """Return BYOL's two views; arguments as for `simclr`, overrides apply to both."""
    first, second = (_with(view, overrides) for view in byol_views())
    return two_views(first, second, size=size, mean=mean, std=std, dtype=dtype)


def clean(
    size: int,
    *,
    crop_scale: tuple[float, float] | None = None,
    flip: float = 0.0,
    mean: Stats = None,
    std: Stats = None,
    dtype: DTypeLike = jnp.float32,
    **overrides: Any,
) -> MakeViews:
    """Return one view, `[b 1 size size c]`: the whole image unless `crop_scale` or `flip` are given.

    Other arguments as for `simclr`.
    """
    view = _with(View(crop_scale=crop_scale, flip=flip), overrides)
    return views([view], size=size, mean=mean, std=std, dtype=dtype)


def bownet_view() -> View:
    """Return BoWNet's perturbed view (arXiv 2002.12247): jitter, grey, crop and flip.

    The authors published no code; the strengths are those of OBoW's, their later work.
    """
    return View(crop_scale=(0.2, 1.0), flip=0.5, jitter=(0.4, 0.4, 0.4, 0.1), jitter_prob=0.8, grey_prob=0.2)


def bownet(
    size: int, *, mean: Stats = None, std: Stats = None, dtype: DTypeLike = jnp.float32, **overrides: Any
) -> MakeViews:
    """Return the whole image, clean, and BoWNet's perturbed view; overrides apply to the second."""
    whole = View(crop_scale=None)
    return two_views(whole, _with(bownet_view(), overrides), size=size, mean=mean, std=std, dtype=dtype)


def perturbed(
    size: int,
    *,
    crop_scale: tuple[float, float] | None = None,
    flip: float = 0.0,
    mean: Stats = None,
    std: Stats = None,
    dtype: DTypeLike = jnp.float32,
    **overrides: Any,
) -> MakeViews:
    """Return two aligned views, `[b 2 size size c]`: a clean one, and the same crop and flip of it perturbed.

    Args:
      size: height and width of a view in pixels.
      crop_scale: of both views, see `View`; None: the whole image.
      flip: probability that both are mirrored.
      mean: per channel; None: values stay in [0, 1].
      std: likewise.
      dtype: of the result.
      **overrides: fields of `View` that perturb the second view: noise, drop, erasing, jitter, grey, blur, solarize;
        those of the crop (`crop_ratio`, `method`, `antialias`) hold for both.
    """
    crop = {name: value for name, value in overrides.items() if name in ("crop_ratio", "method", "antialias")}
    first = _with(View(crop_scale=crop_scale, flip=flip), crop)
    return views([first, _with(first, overrides)], size=size, mean=mean, std=std, dtype=dtype, aligned=True)
