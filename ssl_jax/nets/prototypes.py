"""The head of DINO and iBOT: a perceptron with a bottleneck, and scores against prototypes."""

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from ssl_jax.nets.norm import BatchNorm
from ssl_jax.nets.precision import at_least_float32
from ssl_jax.nets.transformer import Dense, gelu

# Uniform in +-1 / sqrt(fan_in), torch's default for linear layers, from which the last layer's directions start.
LAST_INIT = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


class PrototypeHead(nn.Module):
    """Dense layers with GELU, L2 normalisation, and a weight-normalised layer without bias (DINO's `DINOHead`).

    Scores are cosines with the prototypes, since both sides have norm 1, unless norms are trained.

    Attributes:
      prototypes: number of outputs.
      hidden: width of the hidden layers.
      bottleneck: width before the last layer.
      layers: layers of the perceptron, the bottleneck's included.
      norm: batch norm after the hidden layers.
      train_norms: let the prototypes' norms be trained (the authors' `norm_last_layer` false); they start at 1.
      dtype: of the arithmetic. Parameters and the output are float32.
      scored: give scores; else None in their place, and the last layer's parameters need not be there.
    """

    prototypes: int
    hidden: int = 2048
    bottleneck: int = 256
    layers: int = 3
    norm: bool = False
    train_norms: bool = False
    dtype: DTypeLike = jnp.float32
    scored: bool = True

    @nn.compact
    def __call__(self, x: Float[Array, "b i"], train: bool) -> tuple[Float[Array, "b k"] | None, Float[Array, "b d"]]:
        """Return scores `[b k]` and the normalised bottleneck `[b d]`."""
        for i in range(self.layers - 1):
            x = Dense(self.hidden, self.dtype, name=f"dense{i}")(x)
            if self.norm:
                x = BatchNorm(dtype=self.dtype, name=f"norm{i}")(x, train)
            x = gelu(x)
        inside = at_least_float32(self.dtype)
        x = unit(Dense(self.bottleneck, self.dtype, name=f"dense{self.layers - 1}")(x).astype(inside), axis=-1)
        return Prototypes(self.prototypes, self.train_norms, self.dtype, name="last")(x) if self.scored else None, x


class Prototypes(nn.Module):
    """Scores against prototypes, the columns of "kernel", whose norms are 1 or the trained "scale"."""

    features: int
    train_norms: bool = False
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b d"], train: bool = True) -> Float[Array, "b k"]:
        """Map unit vectors to scores; `train` changes nothing."""
        params = {"kernel": self.param("kernel", LAST_INIT, (x.shape[-1], self.features), jnp.float32)}
        if self.train_norms:
            params["scale"] = self.param("scale", nn.initializers.ones, (self.features,), jnp.float32)
        return scores(x, columns(params, self.dtype))


def columns(params: dict[str, Array], dtype: DTypeLike = jnp.float32) -> Float[Array, "d k"]:
    """The prototypes, from the parameters of `Prototypes`, in the dtype that scores are made in."""
    inside = at_least_float32(dtype)
    kernel = unit(params["kernel"].astype(inside), axis=0)
    if "scale" in params:
        kernel = kernel * params["scale"][None].astype(inside)
    return kernel.astype(dtype)


def scores(x: Float[Array, "b d"], prototypes: Float[Array, "d k"]) -> Float[Array, "b k"]:
    """Inner products with `columns`, taken in their dtype and added up in at least float32."""
    inside = at_least_float32(prototypes.dtype)
    return jnp.matmul(x.astype(prototypes.dtype), prototypes, precision="highest", preferred_element_type=inside)


def unit(x: Float[Array, "n d"], axis: int, eps: float = 1e-12) -> Float[Array, "n d"]:
    """Divide by the Euclidean norm along an axis, at least `eps`."""
    squared = jnp.sum(x * x, axis=axis, keepdims=True)
    return x / jnp.sqrt(jnp.maximum(squared, eps**2))
