"""KoLeo: spread points by the entropy of their nearest neighbours (Sablayrolles et al., ICLR 2019; DINOv2)."""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from ssl_jax.losses.normalize import at_least_float32, l2_normalize


def koleo(x: Float[Array, "b d"], *, eps: float = 1e-8) -> Float[Array, ""]:
    """Minus the mean logarithm of the distance from each direction to the nearest other one in the batch.

    Kozachenko and Leonenko's estimate of differential entropy, up to constants: small where directions are spread
    evenly. Neighbours are found over the global batch (DINOv2 looks on each GPU by itself) and are constants of the
    gradient only in who they are, as in `KoLeoLoss` of facebookresearch/dinov2.

    Args:
      x: embeddings of any scale, at least two.
      eps: the least norm that is divided by; also added to the differences and to the distance, so that equal points
        give a finite value and gradient.

    Differs from the authors' code in: no point is its own neighbour, where theirs takes itself for one with a cosine of
    -1, which matters only for a point that all others are exactly opposite to.
    """
    x = l2_normalize(at_least_float32(x), eps=eps)
    fixed = lax.stop_gradient(x)
    cosines = jnp.matmul(fixed, fixed.T, precision="highest")
    nearest = jnp.argmax(jnp.where(jnp.eye(len(x), dtype=bool), -jnp.inf, cosines), axis=1)
    distance = jnp.sqrt(jnp.sum(jnp.square(x - x[nearest] + eps), axis=1))
    return -jnp.mean(jnp.log(distance + eps))
