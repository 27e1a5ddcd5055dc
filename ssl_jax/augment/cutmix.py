"""CutMix (Yun et al., ICCV 2019, arXiv 1905.04899): a rectangle of one image pasted into another."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray


def cutmix(
    rng: PRNGKeyArray, image: Float[Array, "b h w c"], *, probability: float = 1.0
) -> tuple[Float[Array, "b h w c"], Float[Array, " b"]]:
    """Paste a rectangle of the next image of the batch (of the first into the last) into every image.

    Each image has a rectangle of its own, whose area is uniform before the image's edges cut it; it covers the same
    place in both images.

    Args:
      rng: key; draws depend on it and the batch's size alone.
      image: any range of values.
      probability: with which an image is changed.

    Returns:
      The images, and the share of each that is still its own, 0..1; the rest is of `jnp.roll(image, -1, axis=0)`.
    """
    b, height, width, _ = image.shape
    area, top, left, chance = jax.random.uniform(rng, (4, b), jnp.float32)
    side = jnp.sqrt(area)

    def covered(centre: Array, n: int) -> Array:
        place = jnp.arange(n, dtype=jnp.float32)[None]
        half = 0.5 * side * n
        return (place >= jnp.round(centre * n - half)[:, None]) & (place < jnp.round(centre * n + half)[:, None])

    happens = (chance < probability)[:, None, None]
    mask = covered(top, height)[:, :, None] & covered(left, width)[:, None, :] & happens
    share = 1 - jnp.mean(mask.astype(jnp.float32), axis=(1, 2))
    return jnp.where(mask[..., None], jnp.roll(image, -1, axis=0), image), share
