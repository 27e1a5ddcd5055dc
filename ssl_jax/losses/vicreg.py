"""Variance, invariance and covariance of two views' embeddings (Bardes et al., ICLR 2022, eq. 1 to 5)."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ssl_jax.losses.normalize import at_least_float32


def vicreg_terms(
    z1: Float[Array, "b d"], z2: Float[Array, "b d"], *, epsilon: float = 1e-4
) -> dict[str, Float[Array, ""]]:
    """The three terms of VICReg, unweighted, on the scale of the authors' code.

    Args:
      z1: embeddings of the first view; at least two rows.
      z2: embeddings of the second view, rows in the same order.
      epsilon: added to variances before the root.

    Returns:
      `invariance`: mean squared difference over all b * d entries (the paper's equation 5 divides by b only).
      `variance`: mean over coordinates of `max(0, 1 - deviation)`, 0..1, averaged over both views (equation 6 adds the
        views up, which is twice this).
      `covariance`: sum of squared off-diagonal covariances over d, added up over both views.
      Variances and covariances divide by b - 1.
    """
    z1, z2 = at_least_float32(z1), at_least_float32(z2)
    parts = [(_variance(z, epsilon), _covariance(z)) for z in (z1, z2)]
    return {
        "invariance": jnp.mean((z1 - z2) ** 2),
        "variance": (parts[0][0] + parts[1][0]) / 2,
        "covariance": parts[0][1] + parts[1][1],
    }


def vicreg(
    z1: Float[Array, "b d"],
    z2: Float[Array, "b d"],
    *,
    invariance: float = 25.0,
    variance: float = 25.0,
    covariance: float = 1.0,
) -> Float[Array, ""]:
    """Weighted sum of `vicreg_terms`."""
    terms = vicreg_terms(z1, z2)
    return invariance * terms["invariance"] + variance * terms["variance"] + covariance * terms["covariance"]


def _variance(z: Float[Array, "b d"], epsilon: float) -> Float[Array, ""]:
    deviation = jnp.sqrt(jnp.var(z, axis=0, ddof=1) + epsilon)
    return jnp.mean(jax.nn.relu(1.0 - deviation))


def _covariance(z: Float[Array, "b d"]) -> Float[Array, ""]:
    b, d = z.shape
    z = z - jnp.mean(z, axis=0, keepdims=True)
    matrix = jnp.matmul(z.T, z, precision="highest") / (b - 1)
    return jnp.sum(jnp.where(jnp.eye(d, dtype=bool), 0.0, matrix) ** 2) / d
