"""The light transformer that rebuilds masked patches (He et al., CVPR 2022, arXiv:2111.06377)."""

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from ssl_jax.core import UserError
from ssl_jax.nets import positions
from ssl_jax.nets.precision import at_least_float32
from ssl_jax.nets.transformer import SMALL, Block, Dense, LayerNorm


class MAEDecoder(nn.Module):
    """Encoded tokens go back to their places, one learned token stands at all others, and every patch is predicted.

    Attributes:
      grid: rows and columns of patches.
      features: numbers to predict of each patch.
      dim: width of the tokens.
      depth: number of blocks.
      heads: attention heads; they divide `dim`.
      dtype: of the arithmetic. Parameters and the prediction are float32.
    """

    grid: tuple[int, int]
    features: int
    dim: int = 512
    depth: int = 8
    heads: int = 16
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, tokens: Float[Array, "b k d"], train: bool, restore: Int[Array, "b n"] | None = None
    ) -> Float[Array, "b n p"]:
        """Predict all patches, in row-major order.

        Args:
          tokens: the encoder's, class token first and then the patches that it saw.
          train: whether in training; nothing depends on it.
          restore: for each patch its place among the patches seen (0 .. k - 2), or a number beyond if it was not.
            None: all were seen, in order.

        Raises:
          UserError: `heads` does not divide `dim`.
        """
        if self.dim % self.heads:
            raise UserError(f"the decoder's heads={self.heads} do not divide its dim={self.dim}")
        x = Dense(self.dim, self.dtype, name="embed")(tokens)
        mask = self.param("mask", SMALL, (self.dim,), jnp.float32).astype(self.dtype)
        cls, seen = x[:, :1], x[:, 1:]
        n, k = self.grid[0] * self.grid[1], seen.shape[1]
        if restore is not None:
            rest = jnp.broadcast_to(mask[None, None], (len(x), n - k, self.dim))
            seen = jnp.take_along_axis(jnp.concatenate([seen, rest], axis=1), restore[:, :, None], axis=1)
        place = jnp.asarray(positions.sincos(*self.grid, self.dim)).reshape(1, n, self.dim).astype(self.dtype)
        x = jnp.concatenate([cls, seen + place], axis=1)
        for i in range(self.depth):
            x = Block(self.heads, dtype=self.dtype, name=f"block{i + 1}")(x, train)
        x = LayerNorm(dtype=self.dtype, name="norm")(x)[:, 1:]
        return Dense(self.features, self.dtype, name="image")(x).astype(at_least_float32(self.dtype))
