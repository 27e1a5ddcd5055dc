"""A view as data, and the random numbers that one view of one image takes."""

import dataclasses
from numbers import Real
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from ssl_jax.augment import blur, color, crop, erase, resize
from ssl_jax.core import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class View:
    """How one view is made. The steps are applied in the order of the fields; the defaults only crop.

    Parts with probability 0 (or strengths 0) are not traced and cost nothing.

    Attributes:
      crop_scale: range of the crop's area as a share of the image's, or None to resize the whole image.
      crop_ratio: range of the crop's width / height (log-uniform).
      crop_side: a square anywhere instead of what these two say: range of its edge as a share of the image's shorter
        side, at most 1. `(224 / 256, 224 / 256)` is torchvision's `Resize(256)` and `RandomCrop(224)`.
      method: interpolation, "linear" or "cubic" (clipped to [0, 1] afterwards).
      antialias: widen the interpolation kernel when a crop shrinks.
      flip: probability of a mirror image.
      jitter: strengths of brightness, contrast, saturation and hue; each image has its own order.
      jitter_prob: probability of the jitter.
      brightness: its brightness multiplies values by 1 +- the strength ("multiply"), or adds as much ("add").
      grey_prob: probability of greyscale.
      blur_prob: probability of Gaussian blur.
      blur_sigma: range of its width in pixels.
      blur_taps: its kernel size, odd; None: a tenth of the view's size.
      solarize_prob: probability of inverting values at or above `solarize_threshold`.
      solarize_threshold: see there.
      erase_prob: probability of erasing a rectangle, after normalisation, to 0.
      erase_scale: range of its area as a share of the view's.
      erase_ratio: range of its height / width (log-uniform).
      noise: deviation of Gaussian noise on every value, before normalisation; the result is not clipped to [0, 1].
      drop: share of pixels that are set to 0 each by itself, after normalisation (masking noise).

    Raises:
      UserError: a probability outside [0, 1], a range that is not positive, or strengths that make no sense.
    """

    crop_scale: tuple[float, float] | None = (0.08, 1.0)
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    crop_side: tuple[float, float] | None = None
    method: str = "linear"
    antialias: bool = True
    flip: float = 0.0
    jitter: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    jitter_prob: float = 0.0
    brightness: str = "multiply"
    grey_prob: float = 0.0
    blur_prob: float = 0.0
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    blur_taps: int | None = None
    solarize_prob: float = 0.0
    solarize_threshold: float = 0.5
    erase_prob: float = 0.0
    erase_scale: tuple[float, float] = (0.02, 0.33)
    erase_ratio: tuple[float, float] = (0.3, 3.3)
    noise: float = 0.0
    drop: float = 0.0

    def __post_init__(self) -> None:
        for name in ("flip", "jitter_prob", "grey_prob", "blur_prob", "solarize_prob", "erase_prob", "drop"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"View({name}={getattr(self, name)}): a probability lies between 0 and 1")
        for name in ("crop_scale", "crop_ratio", "crop_side", "blur_sigma", "erase_scale", "erase_ratio"):
            pair = getattr(self, name)
            if pair is not None and not (_are_numbers(pair, 2) and 0 < pair[0] <= pair[1]):
                raise UserError(f"View({name}={pair}): give a positive range (low, high)")
        if self.crop_side is not None and self.crop_side[1] > 1:
            raise UserError(f"View(crop_side={self.crop_side}): a square's edge is at most 1, the image's shorter side")
        if not 0 <= self.noise < float("inf"):
            raise UserError(f"View(noise={self.noise}): a deviation is not negative")
        if not _are_numbers(self.jitter, 4):
            raise UserError(f"View(jitter={self.jitter}): give four strengths")
        if min(self.jitter) < 0 or self.jitter[3] > 0.5:
            raise UserError(f"View(jitter={self.jitter}): strengths are not negative, and the hue's is at most 0.5")
        if self.brightness not in ("multiply", "add"):
            raise UserError(f"View(brightness={self.brightness!r}): use multiply or add")
        if self.method not in resize.METHODS:
            raise UserError(f"View(method={self.method!r}): use one of {', '.join(resize.METHODS)}")

    @property
    def crops(self) -> bool:
        """Whether it shows a part of the image, drawn at random."""
        return self.crop_scale is not None or self.crop_side is not None

    def active_jitter(self, channels: int) -> tuple[int, ...]:
        """Return the jitter operations that change an image with so many channels."""
        return color.active_operations(self.jitter, channels) if self.jitter_prob > 0 else ()


def _are_numbers(values: Any, count: int) -> bool:
    return isinstance(values, tuple | list) and len(values) == count and all(isinstance(x, Real) for x in values)


Flag = Bool[Array, ""]


class Drawn(NamedTuple):
    """The random parameters of one view of one image; None for parts that the recipe does not have.

    Each part is a flag and its parameters. Where the flag is off the parameters are neutral (factor 1, ...), so that
    code without branches may apply the part anyway.
    """

    rows: resize.Taps | None  # of the crop; None if the image came cropped
    columns: resize.Taps | None
    flip: Flag | None = None
    jitter: tuple[Flag, Float[Array, "4"], Int[Array, " n"]] | None = None  # factors and order
    grey: tuple[Flag, Float[Array, ""]] | None = None  # saturation
    blur: tuple[Flag, Float[Array, " k"]] | None = None  # weights
    solarize: tuple[Flag, Float[Array, ""]] | None = None  # threshold
    erase: tuple[Flag, Float[Array, "4"]] | None = None  # rectangle
    noise: Float[Array, "c s s"] | None = None  # what is added
    drop: Bool[Array, "s s"] | None = None  # pixels that go


def _uniforms(key: PRNGKeyArray, view: View, channels: int) -> dict[str, Float[Array, " n"]]:
    """Draw all uniforms of a view at once; for parts with a probability the first one decides."""
    counts = {
        "crop": crop.CROP_DRAWS * view.crops,
        "flip": 1 * (view.flip > 0),
        "jitter": (1 + color.JITTER_DRAWS) * (len(view.active_jitter(channels)) > 0),
        "grey": 1 * (view.grey_prob > 0 and channels == 3),
        "blur": 2 * (view.blur_prob > 0),
        "solarize": 1 * (view.solarize_prob > 0),
        "erase": (1 + erase.ERASE_DRAWS) * (view.erase_prob > 0),
    }
    uniforms = jax.random.uniform(key, (sum(counts.values()),), jnp.float32)
    parts, used = {}, 0
    for name, n in counts.items():
        if n > 0:
            parts[name] = uniforms[used : used + n]
            used += n
    return parts


def draw(
    key: PRNGKeyArray, view: View, image_shape: tuple[int, int, int], size: int, *, like: Drawn | None = None
) -> Drawn:
    """Draw the parameters of one view of one image `[h w c]`; they depend on the key alone.

    With `like`, crop and flip are those of that view, of the same size, instead of the view's own.
    """
    u = _uniforms(key, view, image_shape[2])
    drawn = _geometry(u, view, image_shape[:2], size) if like is None else Drawn(like.rows, like.columns, like.flip)
    return _appearance(key, u, drawn, view, (image_shape[2], size, size))


def draw_uncropped(key: PRNGKeyArray, view: View, channels: int, size: int, *, like: Drawn | None = None) -> Drawn:
    """Draw all but the crop of one view; with `like`, the flip is that view's."""
    u = _uniforms(key, dataclasses.replace(view, crop_scale=None, crop_side=None), channels)
    flip = like.flip if like is not None else u["flip"][0] < view.flip if "flip" in u else None
    return _appearance(key, u, Drawn(None, None, flip), view, (channels, size, size))


def _geometry(u: dict[str, Array], view: View, image_size: tuple[int, int], size: int) -> Drawn:
    box = crop.whole(image_size)
    if view.crops:
        scale = view.crop_scale or (1.0, 1.0)  # not looked at beside a `crop_side`
        ratio, side = view.crop_ratio, view.crop_side
        box = crop.box_from_uniforms(u["crop"], image_size, scale=scale, ratio=ratio, side=side)
    rows, columns = resize.box_taps(box, image_size, (size, size), method=view.method, antialias=view.antialias)
    return Drawn(rows, columns, u["flip"][0] < view.flip if "flip" in u else None)


def _appearance(key: PRNGKeyArray, u: dict[str, Array], drawn: Drawn, view: View, shape: tuple[int, int, int]) -> Drawn:
    """Add what changes the pixels of a view `[c s s]` where they are."""
    channels, size, _ = shape
    if "jitter" in u:
        happens = u["jitter"][0] < view.jitter_prob
        factors, order = color.jitter_from_uniforms(u["jitter"][1:], view.jitter, view.active_jitter(channels))
        neutral = jnp.array([1, 1, 1, 0], jnp.float32)
        drawn = drawn._replace(jitter=(happens, jnp.where(happens, factors, neutral), order))
    if "grey" in u:
        happens = u["grey"][0] < view.grey_prob
        drawn = drawn._replace(grey=(happens, jnp.where(happens, jnp.float32(0), 1)))
    if "blur" in u:
        happens = u["blur"][0] < view.blur_prob
        sigma = view.blur_sigma[0] + u["blur"][1] * (view.blur_sigma[1] - view.blur_sigma[0])
        n_taps = view.blur_taps or blur.kernel_size(size)
        blur.check_fit(n_taps, (size, size))
        weights = blur.gaussian_weights(jnp.where(happens, sigma, 0), n_taps)
        drawn = drawn._replace(blur=(happens, weights))
    if "solarize" in u:
        happens = u["solarize"][0] < view.solarize_prob
        drawn = drawn._replace(solarize=(happens, jnp.where(happens, jnp.float32(view.solarize_threshold), 2)))
    if "erase" in u:
        happens = u["erase"][0] < view.erase_prob
        rectangle = erase.rectangle_from_uniforms(
            u["erase"][1:], (size, size), scale=view.erase_scale, ratio=view.erase_ratio
        )
        drawn = drawn._replace(erase=(happens, jnp.where(happens, rectangle, 0)))
    # Keys of their own: the uniforms above stay what they are without these parts.
    if view.noise > 0:
        drawn = drawn._replace(noise=view.noise * jax.random.normal(jax.random.fold_in(key, 1), shape, jnp.float32))
    if view.drop > 0:
        drawn = drawn._replace(drop=jax.random.bernoulli(jax.random.fold_in(key, 2), view.drop, shape[1:]))
    return drawn
