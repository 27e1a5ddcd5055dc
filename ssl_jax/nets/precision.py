"""The dtype for sums, statistics and outputs."""

import jax.numpy as jnp
from jax.typing import DTypeLike


def at_least_float32(dtype: DTypeLike) -> jnp.dtype:
    """Float64 for float64, else float32 (`jnp.promote_types` refuses bfloat16 under strict promotion)."""
    return jnp.dtype(jnp.float64 if jnp.dtype(dtype) == jnp.float64 else jnp.float32)
