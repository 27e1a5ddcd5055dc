"""Recipes: what happens to an image to make one view of it, and functions that make all views of a batch.

A recipe is data (`View`); `views` compiles it into one function of keys and uint8 images that runs inside the jitted
training step. Each example has its own key and its result depends on nothing else: not on the batch, its position in
it, or the number of devices. All random numbers of a view come from one draw per example, and parts with
probability 0 are not traced.
"""

import dataclasses
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, DTypeLike, Float, Key, PRNGKeyArray, Shaped

from ssl_jax.augment import blur, color, crop, erase
from ssl_jax.core import UserError

MakeViews = Callable[..., Array | tuple[Array, ...]]
Stats = tuple[float, ...] | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class View:
    """How one view is made. The steps are applied in the order of the fields; the defaults only crop.

    Attributes:
      crop_scale: range of the crop's area as a share of the image's, or None to resize the whole image.
      crop_ratio: range of the crop's width / height (log-uniform).
      method: interpolation, "linear" or "cubic" (clipped to [0, 1] afterwards).
      antialias: widen the interpolation kernel when a crop shrinks.
      flip: probability of a mirror image.
      jitter: strengths of brightness, contrast, saturation and hue; each image has its own order.
      jitter_prob: probability of the jitter.
      grey_prob: probability of greyscale.
      blur_prob: probability of Gaussian blur.
      blur_sigma: range of its width in pixels.
      blur_taps: its kernel size, odd; None: a tenth of the view's size.
      solarize_prob: probability of inverting values at or above `solarize_threshold`.
      solarize_threshold: see there.
      erase_prob: probability of erasing a rectangle, after normalisation, to 0.
      erase_scale: range of its area as a share of the view's.
      erase_ratio: range of its height / width (log-uniform).
    """

    crop_scale: tuple[float, float] | None = (0.08, 1.0)
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    method: str = "linear"
    antialias: bool = True
    flip: float = 0.0
    jitter: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    jitter_prob: float = 0.0
    grey_prob: float = 0.0
    blur_prob: float = 0.0
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    blur_taps: int | None = None
    solarize_prob: float = 0.0
    solarize_threshold: float = 0.5
    erase_prob: float = 0.0
    erase_scale: tuple[float, float] = (0.02, 0.33)
    erase_ratio: tuple[float, float] = (0.3, 3.3)

    def __post_init__(self) -> None:
        for name in ("flip", "jitter_prob", "grey_prob", "blur_prob", "solarize_prob", "erase_prob"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"View({name}={getattr(self, name)}): a probability lies between 0 and 1")
        for name in ("crop_scale", "crop_ratio", "blur_sigma", "erase_scale", "erase_ratio"):
            pair = getattr(self, name)
            if pair is not None and not 0 < pair[0] <= pair[1]:
                raise UserError(f"View({name}={pair}): give a positive range (low, high)")
        if min(self.jitter) < 0 or self.jitter[3] > 0.5:
            raise UserError(f"View(jitter={self.jitter}): strengths are not negative, and the hue's is at most 0.5")


class _Draws:
    """Hands out consecutive parts of one array of uniforms."""

    def __init__(self, uniforms: Float[Array, " n"]) -> None:
        self.uniforms, self.used = uniforms, 0

    def take(self, n: int) -> Float[Array, " n"]:
        self.used += n
        return self.uniforms[self.used - n : self.used]

    def chance(self, probability: float) -> Shaped[Array, ""] | bool:
        """Return whether an event of this probability happens; without a draw where that is certain."""
        return True if probability >= 1 else self.take(1)[0] < probability


MAX_DRAWS = crop.CROP_DRAWS + 1 + (1 + color.JITTER_DRAWS) + 1 + 2 + 1 + 1 + erase.ERASE_DRAWS


def _when(happens: Shaped[Array, ""] | bool, value: Array, otherwise: float) -> Array:
    """Return the value that does something, or the neutral one."""
    return value if happens is True else jnp.where(happens, value, otherwise)


def _make_view(
    key: PRNGKeyArray, image: Shaped[Array, "h w c"], view: View, size: int, mean: Stats, std: Stats
) -> Float[Array, "c s s"]:
    """Make one view of one image, channels first: rows of pixels are then contiguous, which elementwise code likes.

    A part that does not happen gets neutral parameters (factor 1, width 0, ...) instead of a selection afterwards.
    """
    draws = _Draws(jax.random.uniform(key, (MAX_DRAWS,)))
    height, width, channels = image.shape
    if view.crop_scale is None:
        box = crop.whole((height, width))
    else:
        uniforms = draws.take(crop.CROP_DRAWS)
        box = crop.box_from_uniforms(uniforms, (height, width), scale=view.crop_scale, ratio=view.crop_ratio)
    flip = jnp.asarray(draws.chance(view.flip)) if view.flip > 0 else None
    x = crop.crop_and_resize_planes(image, box, (size, size), flip=flip, method=view.method, antialias=view.antialias)
    x = x * np.float32(1 / 255)
    if view.method == "cubic":
        x = jnp.clip(x, 0, 1)
    active = color.active_operations(view.jitter, channels)
    if view.jitter_prob > 0 and active:
        happens = draws.chance(view.jitter_prob)
        factors, order = color.jitter_from_uniforms(draws.take(color.JITTER_DRAWS), view.jitter, active)
        factors = factors if happens is True else jnp.where(happens, factors, jnp.array([1, 1, 1, 0], jnp.float32))
        x = color.color_jitter(x, factors, order, active=active, channel_axis=0)
    if view.grey_prob > 0 and channels == 3:
        x = color.adjust_saturation(x, _when(draws.chance(view.grey_prob), jnp.float32(0), 1.0), channel_axis=0)
    if view.blur_prob > 0:
        happens, uniform = draws.chance(view.blur_prob), draws.take(1)[0]
        sigma = view.blur_sigma[0] + uniform * (view.blur_sigma[1] - view.blur_sigma[0])
        x = blur.blur_planes(x, _when(happens, sigma, 0.0), taps=view.blur_taps or blur.kernel_size(size))
    if view.solarize_prob > 0:
        threshold = jnp.float32(view.solarize_threshold)
        x = color.solarize(x, _when(draws.chance(view.solarize_prob), threshold, 2.0))
    if mean is not None and std is not None:
        x = color.normalize(x, mean, std, channel_axis=0)
    if view.erase_prob > 0:
        happens, uniforms = draws.chance(view.erase_prob), draws.take(erase.ERASE_DRAWS)
        mask = erase.erase_mask_from_uniforms(uniforms, (size, size), scale=view.erase_scale, ratio=view.erase_ratio)
        x = jnp.where((mask & happens)[None], 0, x)
    return x


def check_images(image: Array, mean: Stats, std: Stats) -> None:
    """Raise UserError unless the images are uint8 `[b h w c]` and the statistics fit the channels."""
    if image.ndim != 4 or image.dtype != jnp.uint8:
        raise UserError(f"images must be uint8 [b h w c] with values 0..255, not {image.dtype}{list(image.shape)}")
    if (mean is None) != (std is None):
        raise UserError("give both mean and std, or neither")
    for name, value in (("mean", mean), ("std", std)):
        if value is not None and len(value) != image.shape[-1]:
            raise UserError(f"{name} has {len(value)} numbers, the images have {image.shape[-1]} channels")


def _with_size(view: View | tuple[View, int], size: int | None) -> tuple[View, int]:
    if isinstance(view, tuple):
        return view
    if size is None:
        raise UserError("views of one size need size=, for example size=32")
    return view, size


def views(
    recipe: Sequence[View] | Sequence[tuple[View, int]],
    *,
    size: int | None = None,
    mean: Stats = None,
    std: Stats = None,
    dtype: DTypeLike = jnp.float32,
) -> MakeViews:
    """Return a function that makes the views of a batch.

    Args:
      recipe: one `View` per view, all of `size` pixels; or `(View, size)` pairs when the views differ in size.
      size: height and width of the views in pixels.
      mean: per channel, for values in [0, 1]; None: no normalisation.
      std: likewise.
      dtype: of the result; the arithmetic is in float32.

    Returns:
      `(keys [b], image uint8 [b h w c]) -> float [b v s s c]`: in [0, 1], or normalised. With `(View, size)` pairs a
      tuple of such arrays, one for each size in order of first appearance.

    Raises:
      UserError: no views, no size, or images that are not uint8 `[b h w c]`.
    """
    if not recipe:
        raise UserError("a recipe needs at least one View")
    paired = isinstance(recipe[0], tuple)
    pairs = [_with_size(v, size) for v in recipe]
    sizes = list(dict.fromkeys(s for _, s in pairs))

    def make(keys: Key[Array, " b"], image: Shaped[Array, "b h w c"]) -> Array | tuple[Array, ...]:
        check_images(image, mean, std)
        keys = jax.vmap(lambda key: jax.random.split(key, len(pairs)))(keys)
        made: dict[int, list[Array]] = {s: [] for s in sizes}
        for i, (view, s) in enumerate(pairs):
            one = lambda key, im, view=view, s=s: _make_view(key, im, view, s, mean, std)  # noqa: E731
            made[s].append(jax.vmap(one)(keys[:, i], image))
        stacked = tuple(jnp.transpose(jnp.stack(v, axis=1), (0, 1, 3, 4, 2)).astype(dtype) for v in made.values())
        return stacked if paired else stacked[0]

    return make


def two_views(first: View, second: View | None = None, **kwargs: object) -> MakeViews:
    """Return `views` of two recipes, the second like the first unless given."""
    return views([first, second or first], **kwargs)  # type: ignore[arg-type]
