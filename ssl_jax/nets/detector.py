"""A feature pyramid and an anchor-free detection head on the maps of any encoder."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from ssl_jax.nets.conv import Conv
from ssl_jax.nets.norm import GroupNorm
from ssl_jax.nets.precision import at_least_float32

LARGEST = 6.0  # of the logarithm of a distance in strides: exp never overflows, and no image is that large


class _BiasedConv(nn.Module):
    """A 3 x 3 convolution with bias."""

    features: int
    stride: int = 1
    dtype: DTypeLike = jnp.float32
    kernel_init: nn.initializers.Initializer = nn.initializers.normal(0.01)
    bias: float = 0.0

    @nn.compact
    def __call__(self, x: Float[Array, "b h w i"]) -> Float[Array, "b p q o"]:
        bias = self.param("bias", nn.initializers.constant(self.bias), (self.features,), jnp.float32)
        conv = Conv(self.features, stride=self.stride, dtype=self.dtype, kernel_init=self.kernel_init, name="conv")
        return conv(x) + bias.astype(self.dtype)[None, None, None]


class FeaturePyramid(nn.Module):
    """Feature pyramid (Lin et al., CVPR 2017, arXiv:1612.03144): coarse maps are enlarged and added to finer ones.

    Attributes:
      width: channels of all levels.
      extra: further levels, each half as large, by convolutions of stride 2 on the coarsest.
      dtype: of the arithmetic.
    """

    width: int = 64
    extra: int = 0
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, maps: tuple[Float[Array, "b _ _ _"], ...]) -> tuple[Float[Array, "b _ _ d"], ...]:
        """From maps, finest first, to levels, finest first."""
        conv = nn.initializers.variance_scaling(1.0, "fan_in", "uniform")
        levels: list[Array] = []
        above = None
        for i in reversed(range(len(maps))):
            x = nn.Dense(self.width, dtype=self.dtype, name=f"lateral{i}")(maps[i].astype(self.dtype))
            above = x if above is None else x + jax.image.resize(above, x.shape, "nearest")
            levels.insert(0, _BiasedConv(self.width, dtype=self.dtype, kernel_init=conv, name=f"level{i}")(above))
        for i in range(len(maps), len(maps) + self.extra):
            x = nn.relu(levels[-1]) if i > len(maps) else levels[-1]
            levels.append(_BiasedConv(self.width, 2, dtype=self.dtype, kernel_init=conv, name=f"level{i}")(x))
        return tuple(levels)


class DetectorHead(nn.Module):
    """Head of FCOS (Tian et al., ICCV 2019, arXiv:1904.01355), shared by all levels.

    Two towers of 3 x 3 convolutions with group norm and ReLU: one says the class of each place, the other the distances
    from there to the four sides of its object's box, and the centre-ness.

    Attributes:
      classes: number of classes.
      width: channels of the towers, a multiple of 8.
      depth: convolutions of a tower; 4 in the paper.
      prior: probability of each class that it begins with.
      dtype: of the arithmetic; the output is at least float32.
    """

    classes: int
    width: int = 64
    depth: int = 2
    prior: float = 0.01
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, levels: tuple[Float[Array, "b _ _ _"], ...]) -> dict[str, Float[Array, "b n ..."]]:
        """Predictions at the n places of all levels, finest first and row by row.

        Returns:
          `class_logits` `[b n classes]`, `centre_logits` `[b n]`, and `distances` `[b n 4]`, in strides of the level,
          to the left, upper, right and lower side.
        """
        towers = [
            [
                (
                    Conv(self.width, dtype=self.dtype, name=f"{kind}_conv{i}"),
                    GroupNorm(dtype=self.dtype, name=f"{kind}_norm{i}"),
                )
                for i in range(self.depth)
            ]
            for kind in ("class", "box")
        ]
        bias = -math.log((1 - self.prior) / self.prior)
        to_class = _BiasedConv(self.classes, dtype=self.dtype, bias=bias, name="class")
        to_box = _BiasedConv(4, dtype=self.dtype, name="box")
        to_centre = _BiasedConv(1, dtype=self.dtype, name="centre")
        scales = self.param("scales", nn.initializers.ones, (len(levels),), jnp.float32)
        parts: dict[str, list[Array]] = {"class_logits": [], "centre_logits": [], "distances": []}
        for level, scale in zip(levels, scales, strict=True):
            class_features = box_features = level
            for (conv, norm), (box_conv, box_norm) in zip(*towers, strict=True):
                class_features = nn.relu(norm(conv(class_features)))
                box_features = nn.relu(box_norm(box_conv(box_features)))
            exponent = to_box(box_features).astype(at_least_float32(self.dtype))
            parts["class_logits"].append(_flat(to_class(class_features)))
            parts["centre_logits"].append(_flat(to_centre(box_features))[..., 0])
            parts["distances"].append(_flat(jnp.exp(jnp.minimum(scale * exponent, LARGEST))))
        return {name: jnp.concatenate(part, axis=1) for name, part in parts.items()}


class Detector(nn.Module):
    """`FeaturePyramid` and `DetectorHead` on an encoder's maps; attributes as there."""

    classes: int
    width: int = 64
    depth: int = 2
    extra: int = 0
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, maps: tuple[Float[Array, "b _ _ _"], ...], train: bool
    ) -> tuple[dict[str, Float[Array, "b n ..."]], tuple[tuple[int, int], ...]]:
        """Return the head's predictions, and height and width of each level; training and evaluation are the same."""
        levels = FeaturePyramid(self.width, self.extra, self.dtype, name="pyramid")(maps)
        head = DetectorHead(self.classes, self.width, self.depth, dtype=self.dtype, name="head")
        return head(levels), tuple((x.shape[1], x.shape[2]) for x in levels)


def _flat(x: Float[Array, "b h w c"]) -> Float[Array, "b n c"]:
    return x.reshape(len(x), -1, x.shape[-1]).astype(at_least_float32(x.dtype))
