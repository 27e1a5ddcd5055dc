"""Masks over the patches of an image, for transformers that predict what is hidden."""

import math

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, PRNGKeyArray

from ssl_jax.core import UserError

PROPOSALS = 40  # blocks tried for one mask; the authors try each block up to ten times


def block_mask(
    key: PRNGKeyArray,
    grid: tuple[int, int],
    *,
    ratio: tuple[float, float] = (0.1, 0.5),
    probability: float = 0.5,
    aspect: tuple[float, float] = (0.3, 1 / 0.3),
) -> Bool[Array, "h w"]:
    """Hide rectangles of patches until a drawn share of the image is covered (BEiT, arXiv:2106.08254; iBOT).

    Args:
      key: of one image; vmap for more.
      grid: height and width of the image in patches.
      ratio: range of the share that is hidden, at most; blocks that would exceed it are left out.
      probability: of hiding anything at all.
      aspect: range of a block's height / width (log-uniform).

    Blocks have at least a ninth of the shorter side's square, and are smaller than the image in both directions. The
    authors draw until a block fits or ten tries in a row fail; here a fixed number is drawn, as compiled code needs.

    Raises:
      UserError: a range or the probability makes no sense.
    """
    if not 0 <= ratio[0] <= ratio[1] <= 1 or not 0 <= probability <= 1 or not 0 < aspect[0] <= aspect[1]:
        raise UserError(f"Masks need ratios and a probability in 0..1, not ratio={ratio}, probability={probability}.")
    height, width = grid
    key, block_key = jax.random.split(key)
    happens, share = jax.random.uniform(key, (2,), jnp.float32)
    budget = jnp.where(happens < probability, (ratio[0] + share * (ratio[1] - ratio[0])) * height * width, 0.0)
    smallest = float((min(grid) // 3) ** 2)
    rows, columns = jnp.arange(height, dtype=jnp.float32), jnp.arange(width, dtype=jnp.float32)

    def propose(mask: Array, uniforms: Array) -> tuple[Array, None]:
        left = budget - jnp.sum(mask, dtype=jnp.float32)
        area = smallest + uniforms[0] * jnp.maximum(left - smallest, 0.0)
        half_log = 0.5 * (math.log(aspect[0]) + uniforms[1] * (math.log(aspect[1]) - math.log(aspect[0])))
        h, w = (jnp.round(jnp.sqrt(area) * jnp.exp(sign * half_log)) for sign in (1, -1))
        top, start = (jnp.floor(u * (n - k + 1)) for u, n, k in ((uniforms[2], height, h), (uniforms[3], width, w)))
        inside = [(x >= first) & (x < first + n) for x, first, n in ((rows, top, h), (columns, start, w))]
        block = inside[0][:, None] & inside[1][None]
        added = jnp.sum(block & ~mask, dtype=jnp.float32)
        fits = (h < height) & (w < width) & (added > 0) & (added <= left)
        return jnp.where(fits, mask | block, mask), None

    uniforms = jax.random.uniform(block_key, (PROPOSALS, 4), jnp.float32)
    return lax.scan(propose, jnp.zeros(grid, bool), uniforms)[0]
