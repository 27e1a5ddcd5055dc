"""Random erasing (arXiv 1708.04896) by torchvision's definition: one rectangle set to a value."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray

TRIES = 10
ERASE_DRAWS = 2 * TRIES + 2  # uniforms that one rectangle consumes


def erase_mask_from_uniforms(
    uniforms: Float[Array, "22"],
    image_size: tuple[int, int],
    *,
    scale: tuple[float, float] = (0.02, 0.33),
    ratio: tuple[float, float] = (0.3, 3.3),
) -> Bool[Array, "h w"]:
    """Turn 22 uniforms into the mask of a rectangle: area uniform, height / width log-uniform, position uniform.

    Ten tries for one that is smaller than the image on both sides; if none is, nothing is erased.
    """
    height, width = image_size
    area = height * width * (scale[0] + uniforms[:TRIES] * (scale[1] - scale[0]))
    log_ratio = math.log(ratio[0]) + uniforms[TRIES : 2 * TRIES] * (math.log(ratio[1]) - math.log(ratio[0]))
    root = jnp.sqrt(area)
    h, w = jnp.round(root * jnp.exp(0.5 * log_ratio)), jnp.round(root * jnp.exp(-0.5 * log_ratio))
    fits = (h < height) & (w < width)
    first = jnp.argmax(fits)
    h = jnp.where(jnp.any(fits), h[first], 0)
    w = w[first]
    top = jnp.floor(uniforms[-2] * (height - h + 1))
    left = jnp.floor(uniforms[-1] * (width - w + 1))
    rows, columns = jnp.arange(height, dtype=jnp.float32), jnp.arange(width, dtype=jnp.float32)
    return ((rows >= top) & (rows < top + h))[:, None] & ((columns >= left) & (columns < left + w))[None]


def random_erasing(
    key: PRNGKeyArray,
    image: Float[Array, "h w c"],
    *,
    scale: tuple[float, float] = (0.02, 0.33),
    ratio: tuple[float, float] = (0.3, 3.3),
    value: float = 0.0,
) -> Float[Array, "h w c"]:
    """Set a random rectangle to `value`; torchvision's `RandomErasing(p=1)`."""
    uniforms = jax.random.uniform(key, (ERASE_DRAWS,))
    mask = erase_mask_from_uniforms(uniforms, (image.shape[0], image.shape[1]), scale=scale, ratio=ratio)
    return jnp.where(mask[:, :, None], jnp.asarray(value, image.dtype), image)
