"""A masked convolutional network that sums up what lies above, for predicting what lies below (CPC v2)."""

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from ssl_jax.nets.precision import at_least_float32


class Context(nn.Module):
    """Residual blocks over a grid of features whose row r sees rows 0..r only, of all columns the more the deeper.

    A block is that of the pseudocode in CPC v2's appendix, like a PixelCNN without a mask along the row: 1 x 1, ReLU;
    1 x 3 along the row; 2 x 1, the row above and the row itself; ReLU, 1 x 1; added to its input. A ReLU ends it.
    Convolutions are written as dense layers on shifted copies, since grids are small and channels many.

    Attributes:
      width: channels inside a block; outside they are the input's.
      depth: number of blocks.
      dtype: of the arithmetic. Parameters and the output are float32.
    """

    width: int = 256
    depth: int = 5
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w d"], train: bool) -> Float[Array, "b h w d"]:
        """Sum up each place's surroundings above."""
        x = x.astype(self.dtype)
        for i in range(self.depth):
            y = nn.relu(nn.Dense(self.width, dtype=self.dtype, name=f"block{i + 1}_in")(x))
            y = jnp.concatenate([_shift(y, 2, 1), y, _shift(y, 2, -1)], axis=-1)
            y = nn.Dense(self.width, dtype=self.dtype, name=f"block{i + 1}_row")(y)
            y = jnp.concatenate([_shift(y, 1, 1), y], axis=-1)
            y = nn.relu(nn.Dense(self.width, dtype=self.dtype, name=f"block{i + 1}_column")(y))
            x = x + nn.Dense(x.shape[-1], dtype=self.dtype, name=f"block{i + 1}_out")(y)
        return nn.relu(x).astype(at_least_float32(self.dtype))


def _shift(x: Array, axis: int, by: int) -> Array:
    """Move a map by one place along an axis, zeros coming in."""
    pads = [(0, 0)] * x.ndim
    pads[axis] = (1, 0) if by > 0 else (0, 1)
    padded = jnp.pad(x, pads)
    n = x.shape[axis]
    return padded[(slice(None),) * axis + (slice(0, n) if by > 0 else slice(1, n + 1),)]
