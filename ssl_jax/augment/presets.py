"""The recipes of the papers, as functions of a few numbers; every other field of `View` can be overridden.

Sources: google-research/simclr `data_util.py`, facebookresearch/moco `main_moco.py`, deepmind-research/byol
`utils/augmentations.py` and configs. Operations follow torchvision's definitions (see `color`), where SimCLR v1 and
BYOL, written in TensorFlow, add brightness and pivot contrast on each channel.
"""

import dataclasses
from typing import Any

import jax.numpy as jnp
from jaxtyping import DTypeLike

from ssl_jax.augment.recipe import MakeViews, Stats, two_views
from ssl_jax.augment.view import View


def _with(view: View, overrides: dict[str, Any]) -> View:
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


def moco_v1(
    size: int, *, mean: Stats = None, std: Stats = None, dtype: DTypeLike = jnp.float32, **overrides: Any
) -> MakeViews:
    """Return MoCo v1's two views (arXiv 1911.05722): crop from 0.2, grey 0.2, jitter 0.4 always, flip; see `simclr`."""
    view = View(crop_scale=(0.2, 1.0), flip=0.5, jitter=(0.4, 0.4, 0.4, 0.4), jitter_prob=1.0, grey_prob=0.2)
    return two_views(_with(view, overrides), size=size, mean=mean, std=std, dtype=dtype)


def moco_v2(
    size: int, *, mean: Stats = None, std: Stats = None, dtype: DTypeLike = jnp.float32, **overrides: Any
) -> MakeViews:
    """Return MoCo v2's two views (arXiv 2003.04297; also SimSiam's): weaker hue, blur half the time; see `simclr`."""
    view = View(
        crop_scale=(0.2, 1.0),
        flip=0.5,
        jitter=(0.4, 0.4, 0.4, 0.1),
        jitter_prob=0.8,
        grey_prob=0.2,
        blur_prob=0.5,
    )
    return two_views(_with(view, overrides), size=size, mean=mean, std=std, dtype=dtype)


def byol(
    size: int, *, mean: Stats = None, std: Stats = None, dtype: DTypeLike = jnp.float32, **overrides: Any
) -> MakeViews:
    """Return BYOL's two views (arXiv 2006.07733): one always blurred, one rarely blurred and sometimes solarized.

    Overrides apply to both views; see `simclr` for the arguments.
    """
    view = View(
        crop_scale=(0.08, 1.0),
        method="cubic",
        flip=0.5,
        jitter=(0.4, 0.4, 0.2, 0.1),
        jitter_prob=0.8,
        grey_prob=0.2,
    )
    first = _with(dataclasses.replace(view, blur_prob=1.0), overrides)
    second = _with(dataclasses.replace(view, blur_prob=0.1, solarize_prob=0.2), overrides)
    return two_views(first, second, size=size, mean=mean, std=std, dtype=dtype)
