"""Sinkhorn-Knopp: soft assignments that use all clusters alike (Cuturi, NeurIPS 2013; SwAV's online codes)."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from ssl_jax.losses.normalize import at_least_float32


def sinkhorn(
    scores: Float[Array, "n k"],
    *,
    epsilon: float | Float[Array, ""] = 0.05,
    iterations: int = 3,
    where: Bool[Array, " n"] | None = None,
) -> Float[Array, "n k"]:
    """Assign n examples to k clusters of equal weight: `exp(scores / epsilon)`, its columns and rows scaled in turn.

    Works with logarithms, so that no epsilon overflows: the authors' code exponentiates first, which in float32 is
    infinite below an epsilon of 0.0113 for cosines. With scores sharded over devices the columns are still those of
    the whole batch.

    Args:
      scores: similarities of examples and clusters, any scale.
      epsilon: smoothness; > 0. Small values give nearly hard assignments.
      iterations: number of times that columns, then rows are scaled.
      where: which examples count for the columns; all by default. The others get an assignment too.

    Returns:
      Assignments, whose rows sum to 1; their columns sum to about n / k. The authors' `distributed_sinkhorn`
      transposed. Not differentiable in a useful way: take it as a constant.
    """
    scores = at_least_float32(scores)
    scores = scores / jnp.asarray(epsilon, scores.dtype)
    mask = None if where is None else where[:, None]
    for _ in range(iterations):
        weight = jax.nn.logsumexp(scores, axis=0, keepdims=True, where=mask)
        scores = scores - jnp.where(jnp.isfinite(weight), weight, 0)  # infinite where no example counts
        scores = jax.nn.log_softmax(scores, axis=1)
    return jnp.exp(scores)
