"""Redundancy reduction: the cross-correlation of two views made the identity (Zbontar et al., ICML 2021, eq. 1)."""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from ssl_jax.losses.normalize import at_least_float32


def cross_correlation(
    z1: Float[Array, "b d"], z2: Float[Array, "b d"], *, epsilon: float = 1e-5
) -> Float[Array, "d d"]:
    """Correlation over the batch of every coordinate of `z1` with every one of `z2`, -1..1.

    Each view is standardised by its own mean and (biased) variance, as batch norm does; statistics over both views
    together give another matrix wherever the views differ in mean or scale.
    """
    z1, z2 = (_standardize(at_least_float32(z), epsilon) for z in (z1, z2))
    return jnp.matmul(z1.T, z2, precision="highest") / len(z1)


def barlow_twins(
    z1: Float[Array, "b d"], z2: Float[Array, "b d"], *, redundancy: float = 0.0051
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """`sum_i (1 - C_ii)^2 + redundancy * sum_{i != j} C_ij^2` of the views' cross-correlation C, and its two sums.

    Sums over coordinates and not means, as the authors' code: the value grows with d, from about d when the views have
    nothing in common.

    Args:
      z1: embeddings of the first view.
      z2: embeddings of the second view, rows in the same order.
      redundancy: weight of the off-diagonal sum, the paper's lambda.

    Returns:
      The loss and `{"invariance": ..., "redundancy": ...}`, the sums on and off the diagonal, unweighted.
    """
    c = cross_correlation(z1, z2)
    on = jnp.sum((1.0 - jnp.diagonal(c)) ** 2)
    # Masked rather than subtracted from the sum of all squares, which would lose the small ones' digits.
    off = jnp.sum(jnp.where(jnp.eye(len(c), dtype=bool), 0.0, c) ** 2)
    return on + redundancy * off, {"invariance": on, "redundancy": off}


def _standardize(z: Float[Array, "b d"], epsilon: float) -> Float[Array, "b d"]:
    z = z - jnp.mean(z, axis=0, keepdims=True)
    return z * lax.rsqrt(jnp.mean(z * z, axis=0, keepdims=True) + epsilon)
