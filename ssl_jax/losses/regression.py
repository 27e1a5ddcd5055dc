"""Regression on the sphere: BYOL's normalised squared error (Grill et al., 2020, eq. 2) and its cosine form."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from ssl_jax.losses.normalize import at_least_float32, l2_normalize


def cosine(prediction: Float[Array, "b d"], target: Float[Array, "b d"]) -> Float[Array, " b"]:
    """Row-wise cosine similarity, -1..1; 0 where either row is zero."""
    return jnp.sum(l2_normalize(at_least_float32(prediction)) * l2_normalize(at_least_float32(target)), axis=-1)


def negative_cosine(prediction: Float[Array, "b d"], target: Float[Array, "b d"]) -> Float[Array, ""]:
    """Mean of `-cos(prediction, target)`: one term of SimSiam (Chen & He, CVPR 2021, eq. 1). Stops no gradient."""
    return -jnp.mean(cosine(prediction, target))


def normalized_mse(prediction: Float[Array, "b d"], target: Float[Array, "b d"]) -> Float[Array, ""]:
    """Mean of `|p/|p| - z/|z||^2 = 2 - 2 cos(p, z)`, 0..4: one direction of BYOL (eq. 2). Stops no gradient.

    A row of zeros counts as orthogonal (2); DeepMind's code gives 1 there, since it only regularises the norm.
    """
    return 2.0 + 2.0 * negative_cosine(prediction, target)
