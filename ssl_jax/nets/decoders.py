"""Convolutional decoders: from a vector or a feature map back to an image."""

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from ssl_jax.core import UserError
from ssl_jax.nets.conv import Conv
from ssl_jax.nets.norm import BatchNorm
from ssl_jax.nets.precision import at_least_float32

lecun_normal = nn.initializers.lecun_normal()
MAX_WIDTH = 512


def double(x: Float[Array, "b p q c"]) -> Float[Array, "b 2*p 2*q c"]:
    """Repeat every row and column: nearest-neighbour upsampling, whose gradient is a sum and not a scatter."""
    b, p, q, c = x.shape
    return jnp.broadcast_to(x[:, :, None, :, None], (b, p, 2, q, 2, c)).reshape(b, 2 * p, 2 * q, c)


def halved(size: tuple[int, int], times: int) -> tuple[int, int]:
    """Sides after so many halvings, rounded up as a convolution of stride 2 rounds them."""
    return -(-size[0] // 2**times), -(-size[1] // 2**times)


class ConvDecoder(nn.Module):
    """Doublings, each followed by a 3x3 convolution, batch norm and ReLU; a last convolution makes the channels.

    Upsampling before a convolution leaves none of the checkerboards of transposed convolutions (Odena et al., 2016).
    Sides that are no powers of two are cut off after doubling, so every size of image comes out exactly.

    Attributes:
      size: height and width of the image.
      channels: of the image.
      width: channels of the layers at full size; twice as many at each halving, up to 512.
      halvings: how often the image is halved down to the map that a vector is turned into.
      dtype: of the arithmetic. Parameters and the image are float32.
    """

    size: tuple[int, int]
    channels: int
    width: int = 16
    halvings: int = 2
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b ..."], train: bool) -> Float[Array, "b h w c"]:
        """Decode vectors `[b d]`, or maps `[b p q d]` of any size up to the image's.

        Raises:
          UserError: the input is neither, or a map that is larger than the image.
        """
        x = x.astype(self.dtype)
        if x.ndim == 2:
            times = self.halvings
            x = self._from_vector(x, train)
        elif x.ndim == 4 and x.shape[1] <= self.size[0] and x.shape[2] <= self.size[1]:
            times = 0
            while any(side * 2**times < whole for side, whole in zip(x.shape[1:3], self.size, strict=True)):
                times += 1
        else:
            raise UserError(f"A decoder to {self.size} takes [b d], or maps of at most that size, not {x.shape}.")
        for left in reversed(range(times)):
            height, width = halved(self.size, left)
            x = double(x)[:, :height, :width]
            x = Conv(self._width(left), dtype=self.dtype, name=f"stage{left}_conv")(x)
            x = nn.relu(BatchNorm(dtype=self.dtype, name=f"stage{left}_norm")(x, train))
        bias = self.param("bias", nn.initializers.zeros, (self.channels,), jnp.float32)
        # He's rule over the fan-out would start an image of one channel far outside of its range.
        x = Conv(self.channels, dtype=self.dtype, kernel_init=lecun_normal, name="image")(x)
        wide = at_least_float32(self.dtype)
        return x[:, : self.size[0], : self.size[1]].astype(wide) + bias.astype(wide)[None, None, None]

    def _width(self, times: int) -> int:
        return min(self.width * 2**times, max(self.width, MAX_WIDTH))

    def _from_vector(self, x: Array, train: bool) -> Array:
        height, width = halved(self.size, self.halvings)
        depth = self._width(self.halvings)
        x = nn.Dense(height * width * depth, use_bias=False, dtype=self.dtype, name="dense")(x)
        x = BatchNorm(dtype=self.dtype, name="norm")(x.reshape(-1, height, width, depth), train)
        return nn.relu(x)
