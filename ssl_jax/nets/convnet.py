"""A small convolutional encoder for images of about 28 to 32 pixels, sized for a CPU."""

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from ssl_jax.nets.conv import Conv
from ssl_jax.nets.norm import norm_layer
from ssl_jax.nets.pooling import grid_average


class ConvNet(nn.Module):
    """One 3x3 convolution, normalisation and ReLU per stage; stages after the first halve the map.

    Attributes:
      widths: channels of each stage.
      strides: stride of each stage's convolution; None is 1, then 2 for every other.
      pool: grids that the last map is averaged over, see `grid_average`.
      norm: "batch", or "layer", which normalises each example by itself (`ImageNorm`).
      bn_groups: groups of the batch with statistics of their own, see `BatchNorm`.
      dtype: of the arithmetic and of the maps. Parameters and the pooled features are float32.
    """

    widths: tuple[int, ...] = (24, 48, 96, 192)
    strides: tuple[int, ...] | None = None
    pool: tuple[int, ...] = (1, 2)
    norm: str = "batch"
    bn_groups: int = 1
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], train: bool
    ) -> tuple[Float[Array, "b d"], dict[str, Float[Array, "b _ _ _"]]]:
        """Encode images; the maps are "stage1", "stage2", ..., one per stage."""
        strides = self.strides or (1,) + (2,) * (len(self.widths) - 1)
        norm = norm_layer(self.norm, groups=self.bn_groups, dtype=self.dtype)
        maps = {}
        for stage, (width, stride) in enumerate(zip(self.widths, strides, strict=True), start=1):
            x = Conv(width, stride=stride, dtype=self.dtype, name=f"stage{stage}_conv")(x)
            x = norm(name=f"stage{stage}_norm")(x, train)
            maps[f"stage{stage}"] = x = nn.relu(x)
        return grid_average(x, self.pool), maps
