"""Pooling of feature maps."""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from ssl_jax.core import UserError
from ssl_jax.nets.precision import at_least_float32


def max_pool(x: Float[Array, "b h w c"], size: int, stride: int, padding: int) -> Float[Array, "b p q c"]:
    """Maximum over windows, with `padding` on every side that never wins: torch's `max_pool2d`."""
    pads = ((padding, padding), (padding, padding))
    return nn.max_pool(x, (size, size), (stride, stride), pads)


def grid_average(x: Float[Array, "b h w c"], grids: tuple[int, ...] = (1,)) -> Float[Array, "b d"]:
    """Average a map over a g x g grid of cells for every g in `grids`; concatenate, `d = c * sum(g * g)`.

    `(1,)` is global average pooling; `(1, 2)` also keeps the four quarters, a spatial pyramid (Lazebnik et al., 2006).
    Cells are those of torch's `adaptive_avg_pool2d`: cell i of n covers rows floor(i h / n) to ceil((i + 1) h / n).
    At least float32 inside and out.

    Raises:
      UserError: the map has fewer rows or columns than a grid has cells.
    """
    height, width = x.shape[1:3]
    if min(height, width) < max(grids):
        raise UserError(
            f"pool={grids} needs a last feature map of at least {max(grids)} x {max(grids)}, but the images give "
            f"{height} x {width}: give larger images or a coarser pool"
        )
    x = x.astype(at_least_float32(x.dtype))
    cells = []
    for n in grids:
        rows = [(i * height // n, -(-(i + 1) * height // n)) for i in range(n)]
        columns = [(i * width // n, -(-(i + 1) * width // n)) for i in range(n)]
        cells += [x[:, r0:r1, c0:c1].mean((1, 2)) for r0, r1 in rows for c0, c1 in columns]
    return jnp.concatenate(cells, axis=-1)
