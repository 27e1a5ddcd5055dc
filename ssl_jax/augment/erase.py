"""Random erasing (arXiv 1708.04896) by torchvision's definition: one rectangle set to a value."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

TRIES = 10
ERASE_DRAWS = 2 * TRIES + 2  # uniforms that one rectangle consumes


def rectangle_from_uniforms(
    uniforms: Float[Array, "22"],
    image_size: tuple[int, int],
    *,
    scale: tuple[float, float] = (0.02, 0.33),
    ratio: tuple[float, float] = (0.3, 3.3),
) -> Float[Array, "4"]:
    """Turn 22 uniforms into `(top, left, height, width)`: area uniform, height / width log-uniform, position uniform.

    Ten tries for one that is smaller than the image on both sides; if none is, its height is 0.
    """
    height, width = image_size
    area = height * width * (scale[0] + uniforms[:TRIES] * (scale[1] - scale[0]))
    log_ratio = math.log(ratio[0]) + uniforms[TRIES : 2 * TRIES] * (math.log(ratio[1]) - math.log(ratio[0]))
    root = jnp.sqrt(area)
    h, w = jnp.round(root * jnp.exp(0.5 * log_ratio)), jnp.round(root * jnp.exp(-0.5 * log_ratio))
    fits = (h < height) & (w < width)
    first = jnp.argmax(fits)
    h, w = jnp.where(jnp.any(fits), h[first], 0), w[first]
    top = jnp.floor(uniforms[-2] * (height - h + 1))
    left = jnp.floor(uniforms[-1] * (width - w + 1))
    return jnp.stack([top, left, h, w])


def erase(
    image: Float[Array, "*s"], rectangle: Float[Array, "4"], *, value: float = 0.0, channel_axis: int = -1
) -> Float[Array, "*s"]:
    """Set the rectangle `(top, left, height, width)` to `value`."""
    top, left, h, w = rectangle
    height, width = (n for axis, n in enumerate(image.shape) if axis != channel_axis % 3)
    rows, columns = jnp.arange(height, dtype=jnp.float32), jnp.arange(width, dtype=jnp.float32)
    mask = ((rows >= top) & (rows < top + h))[:, None] & ((columns >= left) & (columns < left + w))[None]
    return jnp.where(jnp.expand_dims(mask, channel_axis), jnp.asarray(value, image.dtype), image)


def random_erasing(
    key: PRNGKeyArray,
    image: Float[Array, "h w c"],
    *,
    scale: tuple[float, float] = (0.02, 0.33),
    ratio: tuple[float, float] = (0.3, 3.3),
    value: float = 0.0,
) -> Float[Array, "h w c"]:
    """Set a random rectangle to `value`; torchvision's `RandomErasing(p=1)`."""
    uniforms = jax.random.uniform(key, (ERASE_DRAWS,), jnp.float32)
    rectangle = rectangle_from_uniforms(uniforms, (image.shape[0], image.shape[1]), scale=scale, ratio=ratio)
    return erase(image, rectangle, value=value)
