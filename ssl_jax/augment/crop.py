"""Random resized crop: torchvision's boxes, and its bilinear or bicubic resize with or without antialiasing.

Source of the definition: torchvision `transforms.RandomResizedCrop` and `functional.resized_crop`; the crop happens
before the resize, so pixels outside the box never contribute. Images are float or uint8; boxes are `(top, left,
height, width)` in pixels. Every function takes one image; `jax.vmap` makes a batch of it.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray, Shaped

from ssl_jax.augment import platform
from ssl_jax.core import UserError

TRIES = 10  # torchvision's number of attempts before the central fallback
CROP_DRAWS = 2 * TRIES + 2  # uniforms that one box consumes
FILTERS = ("linear", "cubic")

Box = Float[Array, "4"] | Int[Array, "4"]
Taps = tuple[Int[Array, "o k"], Float[Array, "o k"]]


def _central_box(height: int, width: int, ratio: tuple[float, float]) -> tuple[int, int, int, int]:
    """Return torchvision's fallback: the largest central box whose ratio is allowed."""
    h, w = height, width
    if width / height < ratio[0]:
        h = round(width / ratio[0])
    elif width / height > ratio[1]:
        w = round(height * ratio[1])
    return (height - h) // 2, (width - w) // 2, h, w


def box_from_uniforms(
    uniforms: Float[Array, "22"],
    image_size: tuple[int, int],
    *,
    scale: tuple[float, float] = (0.08, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> Int[Array, "4"]:
    """Turn 22 uniforms into a crop box: ten tries of (area, log-ratio), then the position; all ten at once.

    Args:
      uniforms: draws in [0, 1).
      image_size: height and width of the image.
      scale: range of the area, as a share of the image's.
      ratio: range of width / height; its logarithm is uniform.
    """
    height, width = image_size
    areas, ratios = uniforms[:TRIES], uniforms[TRIES : 2 * TRIES]
    area = height * width * (scale[0] + areas * (scale[1] - scale[0]))
    half_log = 0.5 * (math.log(ratio[0]) + ratios * (math.log(ratio[1]) - math.log(ratio[0])))
    root = jnp.sqrt(area)
    w = jnp.round(root * jnp.exp(half_log))
    h = jnp.round(root * jnp.exp(-half_log))
    fits = (w > 0) & (w <= width) & (h > 0) & (h <= height)
    first = jnp.argmax(fits)
    h, w = h[first], w[first]
    top = jnp.minimum(jnp.floor(uniforms[-2] * (height - h + 1)), height - h)
    left = jnp.minimum(jnp.floor(uniforms[-1] * (width - w + 1)), width - w)
    fallback = jnp.array(_central_box(height, width, ratio), jnp.int32)
    return jnp.where(jnp.any(fits), jnp.stack([top, left, h, w]).astype(jnp.int32), fallback)


def crop_box(
    key: PRNGKeyArray,
    image_size: tuple[int, int],
    *,
    scale: tuple[float, float] = (0.08, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> Int[Array, "4"]:
    """Draw `(top, left, height, width)` as torchvision's `RandomResizedCrop.get_params` does."""
    return box_from_uniforms(jax.random.uniform(key, (CROP_DRAWS,)), image_size, scale=scale, ratio=ratio)


def _linear(x: Float[Array, "*s"]) -> Float[Array, "*s"]:
    return jnp.maximum(1 - jnp.abs(x), 0)


def _cubic(a: float) -> Callable[[Float[Array, "*s"]], Float[Array, "*s"]]:
    """Keys' cubic; torch takes a = -0.75 without antialiasing and PIL's -0.5 with it."""

    def kernel(x: Float[Array, "*s"]) -> Float[Array, "*s"]:
        x = jnp.abs(x)
        inner = ((a + 2) * x - (a + 3)) * x * x + 1
        outer = a * (((x - 5) * x + 8) * x - 4)
        return jnp.where(x < 1, inner, jnp.where(x < 2, outer, jnp.zeros_like(x)))

    return kernel


def _taps(
    start: Shaped[Array, ""],
    length: Shaped[Array, ""],
    n_in: int,
    n_out: int,
    *,
    flip: Shaped[Array, ""] | None,
    method: str,
    antialias: bool,
) -> Taps:
    """Return, for every output position, the input positions that it reads and their weights.

    Positions run over the whole image, but never leave `[start, start + length)`.
    """
    radius, kernel = (1, _linear) if method == "linear" else (2, _cubic(-0.5 if antialias else -0.75))
    start, length = start.astype(jnp.float32), length.astype(jnp.float32)
    out = jnp.arange(n_out, dtype=jnp.float32)
    if flip is not None:
        out = jnp.where(flip, n_out - 1 - out, out)
    step = length / n_out
    centre = (out + 0.5) * step - 0.5
    # Antialiasing widens the kernel when it shrinks the crop; a crop is at most the image, which bounds the taps.
    stretch = jnp.maximum(step, 1) if antialias else jnp.ones_like(step)
    n_taps = math.ceil(2 * radius * (max(n_in / n_out, 1) if antialias else 1))
    lowest = jnp.floor(centre - radius * stretch) + 1
    index = lowest[:, None] + jnp.arange(n_taps, dtype=jnp.float32)[None]
    weight = kernel((index - centre[:, None]) / stretch)
    if antialias:  # PIL drops what lies outside; without antialiasing torch repeats the edge
        weight = jnp.where((index >= 0) & (index < length), weight, 0)
        weight = weight / jnp.sum(weight, axis=1, keepdims=True)
    return (start + jnp.clip(index, 0, length - 1)).astype(jnp.int32), weight


def _dense(index: Int[Array, "o k"], weight: Float[Array, "o k"], n_in: int) -> Float[Array, "o i"]:
    """Write the taps into a matrix, for machines with matrix units."""
    hit = index[:, :, None] == jnp.arange(n_in)[None, None]
    return jnp.sum(jnp.where(hit, weight[:, :, None], 0), axis=1)


def _resample_matmul(image: Shaped[Array, "h w c"], rows: Taps, columns: Taps) -> Float[Array, "c p q"]:
    height, width = image.shape[:2]
    x = image.astype(jnp.float32)
    x = jnp.einsum("ph,hwc->cpw", _dense(*rows, height), x)
    return jnp.einsum("qw,cpw->cpq", _dense(*columns, width), x)


def _resample_gather(image: Shaped[Array, "h w c"], rows: Taps, columns: Taps) -> Float[Array, "c p q"]:
    (iy, wy), (ix, wx) = rows, columns
    x = sum(image[iy[:, k]].astype(jnp.float32) * wy[:, k, None, None] for k in range(iy.shape[1]))
    x = jnp.transpose(x, (2, 0, 1))
    return sum(x[:, :, ix[:, k]] * wx[None, None, :, k] for k in range(ix.shape[1]))


def crop_and_resize_planes(
    image: Shaped[Array, "h w c"],
    box: Box,
    size: tuple[int, int],
    *,
    flip: Shaped[Array, ""] | None = None,
    method: str = "linear",
    antialias: bool = True,
) -> Float[Array, "c p q"]:
    """Do `crop_and_resize`, with an optional mirror and the channels first: the form that later steps want."""
    if method not in FILTERS:
        raise UserError(f"unknown interpolation {method!r}: use one of {', '.join(FILTERS)}")
    rows = _taps(box[0], box[2], image.shape[0], size[0], flip=None, method=method, antialias=antialias)
    columns = _taps(box[1], box[3], image.shape[1], size[1], flip=flip, method=method, antialias=antialias)
    return platform.choose(cpu=_resample_gather, default=_resample_matmul)(image, rows, columns)


def crop_and_resize(
    image: Shaped[Array, "h w c"],
    box: Box,
    size: tuple[int, int],
    *,
    method: str = "linear",
    antialias: bool = True,
) -> Float[Array, "p q c"]:
    """Cut `box` out of the image and resize it to `size`, in the image's own value range.

    Args:
      image: any dtype.
      box: `(top, left, height, width)`, inside the image.
      size: output height and width.
      method: `linear`, or `cubic`, which overshoots and is not clipped here.
      antialias: widen the kernel when the crop shrinks, as PIL does and torchvision by default.

    Raises:
      UserError: unknown method.
    """
    planes = crop_and_resize_planes(image, box, size, method=method, antialias=antialias)
    return jnp.transpose(planes, (1, 2, 0))


def random_resized_crop(
    key: PRNGKeyArray,
    image: Float[Array, "h w c"],
    *,
    size: tuple[int, int],
    scale: tuple[float, float] = (0.08, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
    method: str = "linear",
    antialias: bool = True,
) -> Float[Array, "p q c"]:
    """Crop a random box and resize it; torchvision's `RandomResizedCrop`."""
    box = crop_box(key, (image.shape[0], image.shape[1]), scale=scale, ratio=ratio)
    return crop_and_resize(image, box, size, method=method, antialias=antialias)


def flip_left_right(image: Shaped[Array, "h w c"]) -> Shaped[Array, "h w c"]:
    """Mirror the image."""
    return image[:, ::-1]


def random_flip_left_right(
    key: PRNGKeyArray, image: Shaped[Array, "h w c"], *, probability: float = 0.5
) -> Shaped[Array, "h w c"]:
    """Mirror the image with a probability."""
    return jnp.where(jax.random.bernoulli(key, probability), flip_left_right(image), image)


def whole(image_size: tuple[int, int]) -> Int[Array, "4"]:
    """Return the box that covers the whole image."""
    return jnp.asarray(np.array([0, 0, *image_size], np.int32))
