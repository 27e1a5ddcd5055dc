"""Normalisation of feature maps: over the batch or groups of it, or over each example by itself."""

import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from ssl_jax.core import UserError
from ssl_jax.nets.precision import at_least_float32


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _normalise(x: Array, scale: Array, bias: Array, epsilon: float) -> tuple[Array, Array, Array]:
    """Normalise `x` [... n c] over n, with scale and bias; also returns mean and variance [... 1 c], without gradients.

    The gradient is written out: two sums over the data, where differentiating the formulas takes four. The variance is
    taken about the mean, in a second pass over the data; flax's E[x^2] - E[x]^2 loses digits when means are large, and
    then differs visibly between one device and several.
    """
    return _forward(x, scale, bias, epsilon)[0]


def _forward(x: Array, scale: Array, bias: Array, epsilon: float) -> tuple[tuple, tuple]:
    wide = x.astype(scale.dtype)
    mean = wide.mean(-2, keepdims=True)
    var = jnp.square(wide - mean).mean(-2, keepdims=True)
    inverse = lax.rsqrt(var + epsilon)
    return (_affine(x, scale, bias, mean, inverse), mean, var), (x, scale, mean, inverse)


def _affine(x: Array, scale: Array, bias: Array, mean: Array, inverse: Array) -> Array:
    factor = _as_row(scale, x) * inverse
    return x.astype(factor.dtype) * factor + (_as_row(bias, x) - mean * factor)


def _as_row(vector: Array, x: Array) -> Array:
    return jnp.expand_dims(vector, tuple(range(x.ndim - 1)))


def _backward(epsilon: float, residuals: tuple, cotangents: tuple) -> tuple[Array, Array, Array]:
    """With y = (x - mean) * inverse: dx = scale * inverse * (g - mean(g) - y * mean(g * y))."""
    (x, scale, mean, inverse), g = residuals, cotangents[0]
    wide = x.astype(mean.dtype)
    dbias = g.sum(-2, keepdims=True)
    dscale = (g * (wide - mean)).sum(-2, keepdims=True) * inverse
    factor = _as_row(scale, x) * inverse
    slope = -factor * inverse * dscale / x.shape[-2]
    dx = g * factor + wide * slope - (factor * dbias / x.shape[-2] + slope * mean)
    dscale, dbias = (a.reshape(-1, a.shape[-1]).sum(0) for a in (dscale, dbias))
    return dx.astype(x.dtype), dscale, dbias


_normalise.defvjp(_forward, _backward)


class BatchNorm(nn.Module):
    """Batch normalisation over all axes but the last; at least float32 inside, returned in `dtype` (None: that of `x`).

    flax's and torch's definition: biased batch variance to normalise, `running = momentum * running + (1 - momentum) *
    batch` for evaluation. As in flax, the running variance takes the biased batch variance (torch takes the unbiased
    one).

    With `groups` G > 1, statistics are those of G blocks of b / G consecutive examples, as if G devices normalised
    locally; the running statistics then take the mean of the groups' statistics. The number of groups belongs to the
    recipe: results do not depend on how many devices share the batch. With one group and a sharded batch, statistics
    are global ("synchronised").

    Variables: params `scale`, `bias`; batch_stats `mean`, `var`; all [c], float32.
    """

    groups: int = 1
    momentum: float = 0.9
    epsilon: float = 1e-5
    use_bias: bool = True
    use_scale: bool = True
    scale_init: nn.initializers.Initializer = nn.initializers.ones
    dtype: DTypeLike | None = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b ... c"], train: bool) -> Float[Array, "b ... c"]:
        """Normalise `x`, `[b ... c]`; with `train` by its own statistics, which also move the running ones.

        Raises:
          UserError: `groups` does not divide the batch.
        """
        shape = (x.shape[-1],)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, shape, jnp.float32)
        running_var = self.variable("batch_stats", "var", jnp.ones, shape, jnp.float32)
        dtype = x.dtype if self.dtype is None else self.dtype
        inside = at_least_float32(dtype)
        scale = self.param("scale", self.scale_init, shape, jnp.float32) if self.use_scale else jnp.ones(shape)
        bias = self.param("bias", nn.initializers.zeros, shape, jnp.float32) if self.use_bias else jnp.zeros(shape)
        scale, bias, mean, var = (a.astype(inside) for a in (scale, bias, running_mean.value, running_var.value))
        if not train:
            mean, inverse = (
                jnp.expand_dims(a, tuple(range(x.ndim - 1))) for a in (mean, lax.rsqrt(var + self.epsilon))
            )
            return _affine(x, scale, bias, mean, inverse).astype(dtype)
        # Any batch will do to initialise with, since its statistics enter nothing.
        groups = 1 if self.is_initializing() else self.groups
        if x.shape[0] % groups:
            raise UserError(f"bn_groups={groups} does not divide the batch of {x.shape[0]}: change one of them")
        # Without groups no axis for them: XLA's CPU backend is four times slower with one, even of length 1.
        blocks = x.reshape(*([groups] if groups > 1 else []), -1, x.shape[-1])
        y, batch_mean, batch_var = _normalise(blocks, scale, bias, self.epsilon)
        if not self.is_initializing():
            for running, batch in ((running_mean, batch_mean), (running_var, batch_var)):
                batch = batch.reshape(-1, x.shape[-1]).mean(0).astype(jnp.float32)
                running.value = self.momentum * running.value + (1 - self.momentum) * batch
        return y.reshape(x.shape).astype(dtype)


class ImageNorm(nn.Module):
    """Layer normalisation of a map: over all positions and channels of one example (Ba et al., 2016, arXiv:1607.06450).

    Group normalisation with one group. No example sees another, and training and evaluation are the same. At least
    float32 inside, returned in `dtype`. Variables: params `scale`, `bias`, [c], float32.
    """

    epsilon: float = 1e-5
    scale_init: nn.initializers.Initializer = nn.initializers.ones
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b ... c"], train: bool = True) -> Float[Array, "b ... c"]:
        """Normalise `x`; `train` is there for the sake of `BatchNorm`'s signature."""
        inside = at_least_float32(self.dtype)
        scale = self.param("scale", self.scale_init, x.shape[-1:], jnp.float32).astype(inside)
        bias = self.param("bias", nn.initializers.zeros, x.shape[-1:], jnp.float32).astype(inside)
        axes = tuple(range(1, x.ndim))
        wide = x.astype(inside)
        centred = wide - wide.mean(axes, keepdims=True)
        y = centred * lax.rsqrt(jnp.square(centred).mean(axes, keepdims=True) + self.epsilon)
        return (y * _as_row(scale, y) + _as_row(bias, y)).astype(self.dtype)


class GroupNorm(nn.Module):
    """Group normalisation (Wu & He, 2018, arXiv:1803.08494): over all positions and `size` channels of one example.

    At least float32 inside, returned in `dtype`. Variables: params `scale`, `bias`, [c], float32.
    """

    size: int = 8
    epsilon: float = 1e-5
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b ... c"]) -> Float[Array, "b ... c"]:
        """Normalise `x`, whose channels are a multiple of `size`."""
        inside = at_least_float32(self.dtype)
        scale = self.param("scale", nn.initializers.ones, x.shape[-1:], jnp.float32).astype(inside)
        bias = self.param("bias", nn.initializers.zeros, x.shape[-1:], jnp.float32).astype(inside)
        groups = x.astype(inside).reshape(len(x), -1, x.shape[-1] // self.size, self.size)
        centred = groups - groups.mean((1, 3), keepdims=True)
        y = centred * lax.rsqrt(jnp.square(centred).mean((1, 3), keepdims=True) + self.epsilon)
        y = y.reshape(x.shape)
        return (y * _as_row(scale, y) + _as_row(bias, y)).astype(self.dtype)


def norm_layer(kind: str, *, groups: int, dtype: DTypeLike) -> Callable[..., nn.Module]:
    """Return `BatchNorm` ("batch") or `ImageNorm` ("layer") with the encoder's settings.

    Raises:
      UserError: another kind.
    """
    kinds: dict[str, Callable[..., nn.Module]] = {
        "batch": functools.partial(BatchNorm, groups, dtype=dtype),
        "layer": functools.partial(ImageNorm, dtype=dtype),
    }
    if kind not in kinds:
        raise UserError(f'norm="{kind}" is unknown: choose "batch" or "layer"')
    return kinds[kind]
