"""Batch normalisation whose statistics may be taken over groups of the batch."""

import flax.linen as nn
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from ssl_jax.core import UserError
from ssl_jax.nets.precision import at_least_float32


def _statistic(groups: Array) -> Array:
    return lax.stop_gradient(groups.mean(0)).astype(jnp.float32)


class BatchNorm(nn.Module):
    """Batch normalisation over all axes but the last, in float32 inside, returned in `dtype` (None: that of `x`).

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
        """Normalise `x`, `[b ... c]`; with `train` by its own statistics, which also move the running ones."""
        channels = x.shape[-1]
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, (channels,), jnp.float32)
        running_var = self.variable("batch_stats", "var", jnp.ones, (channels,), jnp.float32)
        dtype = x.dtype if self.dtype is None else self.dtype
        inside = at_least_float32(dtype)
        groups = self.groups if train else 1
        if x.shape[0] % groups:
            raise UserError(f"bn_groups={groups} does not divide the batch of {x.shape[0]}: change one of them")
        blocks = x.astype(inside).reshape(groups, -1, channels)
        if train:
            mean = blocks.mean(1)
            var = jnp.square(blocks - mean[:, None]).mean(1)
            if not self.is_initializing():
                keep = self.momentum
                running_mean.value = keep * running_mean.value + (1 - keep) * _statistic(mean)
                running_var.value = keep * running_var.value + (1 - keep) * _statistic(var)
        else:
            mean, var = running_mean.value[None].astype(inside), running_var.value[None].astype(inside)
        factor = lax.rsqrt(var + self.epsilon)
        if self.use_scale:
            factor = factor * self.param("scale", self.scale_init, (channels,), jnp.float32)[None].astype(inside)
        shift = -mean * factor
        if self.use_bias:
            shift = shift + self.param("bias", nn.initializers.zeros, (channels,), jnp.float32)[None].astype(inside)
        return (blocks * factor[:, None] + shift[:, None]).reshape(x.shape).astype(dtype)
