"""A grid of square tiles cut out of each image, with gaps or overlap and jitter."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Key, Shaped

from ssl_jax.core import UserError
from ssl_jax.losses import at_least_float32


def tiles(
    image: Shaped[Array, "b h w c"],
    *,
    grid: int,
    size: int,
    gap: int = 0,
    jitter: int = 0,
    keys: Key[Array, " b"] | None = None,
) -> Shaped[Array, "b n size size c"]:
    """Cut `grid` x `grid` tiles of `size` pixels out of the middle of each image, row by row.

    Each tile may lie anywhere in a cell of `size + jitter` pixels; cells begin every `size + gap` pixels. So tiles are
    apart by `gap - jitter` to `gap + jitter` pixels, and overlap where that is negative; none leaves the image.

    Args:
      image: of any dtype.
      grid: tiles in a row, and rows.
      size: side of a tile.
      gap: mean distance between neighbouring tiles; negative for tiles that overlap.
      jitter: number of pixels by which a tile may be moved, in each direction on its own.
      keys: one per example, from which its jitter is drawn; None puts every tile in the middle of its cell.

    Raises:
      UserError: the grid is larger than the image, or makes no sense.
    """
    check_tiles(grid=grid, size=size, gap=gap, jitter=jitter)
    height, width, channels = image.shape[1:]
    span = (grid - 1) * (size + gap) + size + jitter
    if span > min(height, width):
        raise UserError(
            f"A grid of {grid} x {grid} tiles of {size} pixels (gap {gap}, jitter {jitter}) takes {span} x {span} "
            f"pixels, but the images have {height} x {width}; give larger images or smaller tiles."
        )
    steps = np.arange(grid, dtype=np.int32) * (size + gap)
    rows, columns = (steps + (side - span) // 2 for side in (height, width))
    corners = np.stack([np.repeat(rows, grid), np.tile(columns, grid)], axis=1)
    if keys is None or not jitter:
        middle = corners + jitter // 2
        return jnp.stack([image[:, y : y + size, x : x + size] for y, x in middle], axis=1)

    def cut(key: Array, image: Array) -> Array:
        at = corners + jax.random.randint(key, corners.shape, 0, jitter + 1, jnp.int32)
        zero = jnp.zeros((), jnp.int32)
        return jax.vmap(lambda yx: lax.dynamic_slice(image, (yx[0], yx[1], zero), (size, size, channels)))(at)

    return jax.vmap(cut)(keys, image)


def standardize(x: Float[Array, "... h w c"], *, epsilon: float = 1e-5) -> Float[Array, "... h w c"]:
    """Mean 0 and deviation 1 of every channel of every tile by itself; a flat tile becomes 0.

    It takes away what would tell a tile's place without a look at what it shows: brightness, contrast, vignetting.
    """
    x = at_least_float32(x)
    centred = x - x.mean((-3, -2), keepdims=True)
    return centred * lax.rsqrt(jnp.square(centred).mean((-3, -2), keepdims=True) + epsilon)


def check_tiles(*, grid: int, size: int, gap: int = 0, jitter: int = 0, encoder: Any = None) -> None:
    """Raise a `UserError` for a grid that makes no sense, or whose tiles a vision transformer can't divide."""
    if min(grid, size, size + gap) < 1 or jitter < 0:
        raise UserError(
            f"Tiles need a grid, a size and a size plus gap of at least 1 and a jitter of at least 0, but were given "
            f"grid {grid}, size {size}, gap {gap}, jitter {jitter}."
        )
    patch = getattr(encoder, "patch", None)
    if isinstance(patch, int) and size % patch:
        raise UserError(
            f"Tiles of {size} pixels do not divide into the encoder's patches of {patch} pixels; change one of them."
        )
