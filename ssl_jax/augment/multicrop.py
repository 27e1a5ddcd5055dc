"""Multi-crop (Caron et al., NeurIPS 2020): two large views of much of an image, and several small ones of little of it.

The result is a tuple of arrays `[b v s s c]`, the large views first, one array for each size; other numbers and sizes
are lists of `(View, size)` pairs for `views`. Small views cost a fraction of a large one: (96 / 224)^2 = 0.18.

Sources: facebookresearch/dino `main_dino.py` `DataAugmentationDINO`, facebookresearch/swav `src/multicropdataset.py`.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from jaxtyping import DTypeLike

from ssl_jax.augment.presets import _with, byol_views, simclr_view
from ssl_jax.augment.recipe import MakeViews, Stats, views
from ssl_jax.augment.view import View
from ssl_jax.core import UserError

Scale = tuple[float, float]


def local_size(size: int) -> int:
    """Side of a small view beside one of `size` pixels: 96 beside 224, in whole patches of 16; half, up to 64.

    Half of 28 is 14, which patches of 7 and a network that halves the map three times still divide.
    """
    return size // 2 if size <= 64 else max(16 * round(size * 96 / 224 / 16), 16)


def multi_crop(
    large: Sequence[View], small: View | None, count: int, *, size: int, small_size: int | None = None, **kwargs: Any
) -> MakeViews:
    """Return `views` of the large views at `size` pixels and of `count` small ones alike.

    Args:
      large: one `View` for each.
      small: of all small views.
      count: of small views; 0 for none.
      size: side of the large views in pixels.
      small_size: side of the small views, below `size`; None: `local_size(size)`.
      **kwargs: of `views`.

    Raises:
      UserError: the number is negative, or small views are not smaller than large ones.
    """
    if count < 0:
        raise UserError(f"The number of small views can't be {count}; 0 stands for none.")
    small_size = small_size or local_size(size)
    if count and not 0 < small_size < size:
        raise UserError(f"Small views of {small_size} pixels must be smaller than the large ones of {size}.")
    pairs = [(view, size) for view in large]
    if small is not None:
        pairs += [(small, small_size)] * count
    return views(pairs, **kwargs)


def _check_scales(overrides: dict[str, Any]) -> None:
    for name in ("crop_scale", "crop_side"):
        if name in overrides:
            raise UserError(
                f"Large and small views have crops of their own, so {name}={overrides[name]} has no meaning; give "
                "global_scale and local_scale."
            )


def _jittered(view: View, strength: float) -> View:
    brightness, contrast, saturation, hue = (strength * s for s in view.jitter)
    return dataclasses.replace(view, jitter=(brightness, contrast, saturation, hue))


def dino(
    size: int,
    *,
    local_views: int = 8,
    local_size: int | None = None,
    global_scale: Scale = (0.4, 1.0),
    local_scale: Scale = (0.05, 0.4),
    strength: float = 1.0,
    blur: bool = True,
    mean: Stats = None,
    std: Stats = None,
    dtype: DTypeLike = jnp.float32,
    **overrides: Any,
) -> MakeViews:
    """Return DINO's views (arXiv 2104.14294): BYOL's two, and `local_views` small ones, half of them blurred.

    Args:
      size: side of the two global views in pixels.
      local_views: number of local views; the authors take 8 or 10. With 0, take `global_scale=(0.14, 1.0)`.
      local_size: side of local views; None: 96 beside 224, see `local_size`.
      global_scale: range of a global crop's area, as a share of the image's; (0.14, 1) with a ResNet.
      local_scale: likewise of a local crop; (0.05, 0.14) with a ResNet.
      strength: of the colour jitter, 1 as the authors'.
      blur: with Gaussian blur.
      mean: per channel; None: values stay in [0, 1].
      std: likewise.
      dtype: of the result.
      **overrides: fields of `View` to replace in all views, but for `crop_scale` and `crop_side`.

    The authors blur with PIL, whose kernel is not cut off; here it is cut at a tenth of the view, as in SimCLR.

    Raises:
      UserError: `crop_scale` or `crop_side` is given, the number is negative, or local views are not smaller.
    """
    _check_scales(overrides)
    first, second = (_jittered(view, strength) for view in byol_views())
    changes = {"blur_prob": 0.0, **overrides} if not blur else overrides
    large = [_with(view, {"crop_scale": global_scale, **changes}) for view in (first, second)]
    small = _with(first, {"crop_scale": local_scale, "blur_prob": 0.5, **changes})
    return multi_crop(large, small, local_views, size=size, small_size=local_size, mean=mean, std=std, dtype=dtype)


def swav(
    size: int,
    *,
    local_views: int = 6,
    local_size: int | None = None,
    global_scale: Scale = (0.14, 1.0),
    local_scale: Scale = (0.05, 0.14),
    strength: float = 1.0,
    blur: bool = True,
    mean: Stats = None,
    std: Stats = None,
    dtype: DTypeLike = jnp.float32,
    **overrides: Any,
) -> MakeViews:
    """Return SwAV's views (arXiv 2006.09882): SimCLR's colours for all; arguments and errors as for `dino`."""
    _check_scales(overrides)
    view = _with(simclr_view(strength, blur), overrides)
    large, small = (dataclasses.replace(view, crop_scale=scale) for scale in (global_scale, local_scale))
    return multi_crop(
        (large, large), small, local_views, size=size, small_size=local_size, mean=mean, std=std, dtype=dtype
    )
