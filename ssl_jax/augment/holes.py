"""Holes for inpainting: the masks of context encoders (Pathak et al., CVPR 2016), as functions of a key."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, PRNGKeyArray


def central_hole(size: tuple[int, int], share: float = 0.25) -> Bool[np.ndarray, "h w"]:
    """A centred block with `share` of the area; True is the hole. The paper's has half of each side."""
    rows, columns = (_span(n, share) for n in size)
    return rows[:, None] & columns[None]


def _span(length: int, share: float) -> Bool[np.ndarray, " n"]:
    """The middle `sqrt(share)` of a side, at least one pixel and never all of them."""
    hole = min(max(round(length * share**0.5), 1), max(length - 1, 1))
    at = np.arange(length) - (length - hole) // 2
    return (at >= 0) & (at < hole)


def random_holes(key: PRNGKeyArray, size: tuple[int, int], share: float = 0.25, blocks: int = 5) -> Bool[Array, "h w"]:
    """Several blocks at random places, which may overlap; True is the hole.

    Each has `share / blocks` of the area, so that together they cover at most about `share` (the paper: a quarter).
    """
    heights = [max(round(n * (share / blocks) ** 0.5), 1) for n in size]
    uniforms = jax.random.uniform(key, (2, blocks), jnp.float32)

    def spans(axis: int) -> Array:
        length, hole = size[axis], heights[axis]
        start = jnp.floor(uniforms[axis] * (length - hole + 1)).astype(jnp.int32)
        at = jnp.arange(length, dtype=jnp.int32)[None] - start[:, None]
        return (at >= 0) & (at < hole)

    return jnp.any(spans(0)[:, :, None] & spans(1)[:, None], axis=0)
