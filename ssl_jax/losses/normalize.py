"""L2 normalisation with a gradient that is finite at zero."""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float


def at_least_float32(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """Cast half precision to float32 (losses are never computed in less); leave float32 and float64 alone."""
    return x.astype(jnp.float32) if x.dtype.itemsize < 4 else x


def l2_normalize(x: Float[Array, "... d"], *, eps: float = 1e-12) -> Float[Array, "... d"]:
    """Divide by the Euclidean norm over the last axis, at least `eps` (as torch's `F.normalize`).

    Computed in at least float32, in which `eps**2` is not 0, and returned in the dtype of `x`.
    """
    inside = at_least_float32(x)
    squared = jnp.sum(inside * inside, axis=-1, keepdims=True)
    return (inside * lax.rsqrt(jnp.maximum(squared, eps**2))).astype(x.dtype)
