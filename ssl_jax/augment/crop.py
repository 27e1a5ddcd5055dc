"""Random resized crop and flip, with the boxes of torchvision's `transforms.RandomResizedCrop`.

Boxes are `(top, left, height, width)` in pixels. Every function takes one image; `jax.vmap` makes a batch of it.
(TensorFlow codes draw a uniform ratio instead of a log-uniform one, and smaller areas.)
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray, Shaped

from ssl_jax.augment.resize import crop_and_resize

TRIES = 10  # torchvision's number of attempts before the central fallback
CROP_DRAWS = 2 * TRIES + 2  # uniforms that one box consumes


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
    side: tuple[float, float] | None = None,
) -> Int[Array, "4"]:
    """Turn 22 uniforms into a crop box: ten tries of (area, log-ratio), then the position; all ten at once.

    Args:
      uniforms: draws in [0, 1).
      image_size: height and width of the image.
      scale: range of the area, as a share of the image's.
      ratio: range of width / height; its logarithm is uniform.
      side: a square instead: range of its edge, as a share of the image's shorter side; the first draw says which.
    """
    height, width = image_size
    if side is not None:
        edge = jnp.round(min(height, width) * (side[0] + uniforms[0] * (side[1] - side[0])))
        edge = jnp.maximum(edge, 1)
        return jnp.stack([*_place(uniforms, image_size, edge, edge), edge, edge]).astype(jnp.int32)
    areas, ratios = uniforms[:TRIES], uniforms[TRIES : 2 * TRIES]
    area = height * width * (scale[0] + areas * (scale[1] - scale[0]))
    half_log = 0.5 * (math.log(ratio[0]) + ratios * (math.log(ratio[1]) - math.log(ratio[0])))
    root = jnp.sqrt(area)
    w = jnp.round(root * jnp.exp(half_log))
    h = jnp.round(root * jnp.exp(-half_log))
    fits = (w > 0) & (w <= width) & (h > 0) & (h <= height)
    first = jnp.argmax(fits)
    h, w = h[first], w[first]
    top, left = _place(uniforms, image_size, h, w)
    fallback = jnp.array(_central_box(height, width, ratio), jnp.int32)
    return jnp.where(jnp.any(fits), jnp.stack([top, left, h, w]).astype(jnp.int32), fallback)


def _place(
    uniforms: Float[Array, "22"], image_size: tuple[int, int], h: Float[Array, ""], w: Float[Array, ""]
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Top and left of a box of `h x w` pixels, anywhere in the image, by the last two draws."""
    height, width = image_size
    top = jnp.minimum(jnp.floor(uniforms[-2] * (height - h + 1)), height - h)
    left = jnp.minimum(jnp.floor(uniforms[-1] * (width - w + 1)), width - w)
    return top, left


def crop_box(
    key: PRNGKeyArray,
    image_size: tuple[int, int],
    *,
    scale: tuple[float, float] = (0.08, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> Int[Array, "4"]:
    """Draw `(top, left, height, width)` as torchvision's `RandomResizedCrop.get_params` does."""
    return box_from_uniforms(jax.random.uniform(key, (CROP_DRAWS,), jnp.float32), image_size, scale=scale, ratio=ratio)


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
