"""Residual networks (He et al., 2016, arXiv:1512.03385), laid out as in torchvision.

Padding is explicit and strides sit where torchvision has them, so that weights carry over.
"""

from functools import partial

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from ssl_jax.core import UserError
from ssl_jax.nets.conv import Conv
from ssl_jax.nets.norm import norm_layer
from ssl_jax.nets.pooling import grid_average, max_pool
from ssl_jax.nets.remat import recomputed

BLOCKS = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
    200: (3, 24, 36, 3),
}


class Block(nn.Module):
    """A residual block: two 3x3 convolutions, or with `bottleneck` 1x1, 3x3, 1x1 (four times the width).

    The stride sits in the first 3x3 convolution (torchvision's "v1.5"; the paper puts a bottleneck's in its first 1x1).
    """

    width: int
    stride: int
    bottleneck: bool
    zero_init_residual: bool
    norm: str
    bn_groups: int
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Float[Array, "b h w i"], train: bool) -> Float[Array, "b p q o"]:
        """Apply the block."""
        conv = partial(Conv, dtype=self.dtype)
        norm = norm_layer(self.norm, groups=self.bn_groups, dtype=self.dtype)
        if self.bottleneck:
            layers = [(self.width, 1, 1), (self.width, 3, self.stride), (4 * self.width, 1, 1)]
        else:
            layers = [(self.width, 3, self.stride), (self.width, 3, 1)]
        y = x
        for i, (features, size, stride) in enumerate(layers, start=1):
            last = i == len(layers)
            zero = last and self.zero_init_residual
            y = conv(features, size, stride, name=f"conv{i}")(y)
            y = norm(scale_init=nn.initializers.zeros if zero else nn.initializers.ones, name=f"norm{i}")(y, train)
            y = y if last else nn.relu(y)
        if x.shape[-1] != y.shape[-1] or self.stride != 1:
            x = conv(y.shape[-1], 1, self.stride, name="shortcut_conv")(x)
            x = norm(name="shortcut_norm")(x, train)
        return nn.relu(x.astype(y.dtype) + y)


class ResNet(nn.Module):
    """ResNet-18, 34 (basic blocks) and 50, 101, 152, 200 (bottlenecks).

    Attributes:
      depth: 18, 34, 50, 101, 152 or 200.
      width: multiplies the channels of every layer (x1, x2, x4 as in SimCLR and BYOL).
      base_width: channels of the first stage's 3x3 convolutions before `width`; each later stage doubles them.
      stem: "imagenet", 7x7 convolution of stride 2 and 3x3 max pooling of stride 2; or "small", one 3x3 convolution
        of stride 1 without pooling, for images of about 32 pixels (SimCLR, appendix B.9).
      stem_width: channels of the stem before `width`; None is `base_width`.
      stage_widths: four channel counts in place of `base_width` and its doubling; before `width`.
      blocks: four block counts in place of those that `depth` stands for.
      pool: grids that the last map is averaged over, see `grid_average`.
      norm: "batch", or "layer", which normalises each example by itself (`ImageNorm`).
      bn_groups: groups of the batch with statistics of their own, see `BatchNorm`.
      zero_init_residual: begin with residual branches that give zero (Goyal et al., 2017, arXiv:1706.02677).
      dtype: of the arithmetic and of the maps. Parameters and the pooled features are float32.
      remat: what of the blocks is computed again for the gradient, see `recomputed`.
    """

    depth: int = 50
    width: int = 1
    base_width: int = 64
    stem: str = "imagenet"
    stem_width: int | None = None
    stage_widths: tuple[int, ...] | None = None
    blocks: tuple[int, ...] | None = None
    pool: tuple[int, ...] = (1,)
    norm: str = "batch"
    bn_groups: int = 1
    zero_init_residual: bool = False
    dtype: DTypeLike = jnp.float32
    remat: str = "none"

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], train: bool
    ) -> tuple[Float[Array, "b d"], dict[str, Float[Array, "b _ _ _"]]]:
        """Encode images; the maps are "stem" (what the first stage sees) and "stage1" to "stage4"."""
        if self.depth not in BLOCKS:
            raise UserError(f"there is no ResNet-{self.depth}: choose a depth from {sorted(BLOCKS)}")
        widths = self.stage_widths or tuple(self.base_width * 2**i for i in range(4))
        x = self._stem(x, train)
        maps = {"stem": x}
        make = recomputed(Block, self.remat)
        for stage, count in enumerate(self.blocks or BLOCKS[self.depth]):
            for block in range(count):
                x = make(
                    width=self.width * widths[stage],
                    stride=2 if stage > 0 and block == 0 else 1,
                    bottleneck=self.depth >= 50,
                    zero_init_residual=self.zero_init_residual,
                    norm=self.norm,
                    bn_groups=self.bn_groups,
                    dtype=self.dtype,
                    name=f"stage{stage + 1}_block{block + 1}",
                )(x, train)
            maps[f"stage{stage + 1}"] = x
        return grid_average(x, self.pool), maps

    def _stem(self, x: Array, train: bool) -> Array:
        features = self.width * (self.stem_width or self.base_width)
        if self.stem not in ("imagenet", "small"):
            raise UserError(f'stem="{self.stem}" is unknown: choose "imagenet" or "small"')
        size, stride = (7, 2) if self.stem == "imagenet" else (3, 1)
        x = Conv(features, size, stride, dtype=self.dtype, name="stem_conv")(x)
        norm = norm_layer(self.norm, groups=self.bn_groups, dtype=self.dtype)
        x = nn.relu(norm(name="stem_norm")(x, train))
        return max_pool(x, 3, 2, 1) if self.stem == "imagenet" else x
