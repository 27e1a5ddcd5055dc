"""A head that predicts something at every place of a map."""

from typing import Any

import flax.linen as nn
import jax
from jaxtyping import Array, Float

from ssl_jax.nets.conv import Conv
from ssl_jax.nets.norm import BatchNorm
from ssl_jax.nets.precision import at_least_float32


class DenseHead(nn.Module):
    """A 3 x 3 convolution with batch norm and ReLU, bilinear resizing, and a 1 x 1 convolution.

    Attributes:
      hidden: channels of the 3 x 3 convolution.
      features: channels of the output.
      size: height and width of the output.
      dtype: of the arithmetic (None: the input's); parameters are float32 and the output is at least float32.
    """

    hidden: int
    features: int
    size: tuple[int, int]
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b p q o"]:
        """Map a feature map to predictions at `size` places."""
        dtype = self.dtype or x.dtype
        x = Conv(self.hidden, dtype=dtype, name="conv")(x)
        x = nn.relu(BatchNorm(dtype=dtype, name="norm")(x, train))
        x = jax.image.resize(x, (len(x), *self.size, self.hidden), "linear")
        x = nn.Dense(self.features, dtype=dtype, name="out")(x)
        return x.astype(at_least_float32(x.dtype))
