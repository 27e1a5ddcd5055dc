"""InfoNCE with one positive and a bank of negatives (MoCo, He et al., CVPR 2020, eq. 1)."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ssl_jax.losses.normalize import at_least_float32, l2_normalize


def infonce_logits(
    query: Float[Array, "b d"], key: Float[Array, "b d"], negatives: Float[Array, "k d"], *, temperature: float = 0.2
) -> Float[Array, "b k+1"]:
    """Cosine similarities over `temperature`: the positive in column 0, then the k negatives (already of unit norm)."""
    query, key = l2_normalize(at_least_float32(query)), l2_normalize(at_least_float32(key))
    positive = jnp.sum(query * key, axis=-1, keepdims=True)
    negative = jnp.matmul(query, negatives.T.astype(query.dtype), precision="highest")
    return jnp.concatenate([positive, negative], axis=1) / temperature


def infonce(
    query: Float[Array, "b d"], key: Float[Array, "b d"], negatives: Float[Array, "k d"], *, temperature: float = 0.2
) -> Float[Array, ""]:
    """Mean cross-entropy of picking the positive among k + 1 candidates. One direction, as the authors' code."""
    logits = infonce_logits(query, key, negatives, temperature=temperature)
    return jnp.mean(jax.nn.logsumexp(logits, axis=1) - logits[:, 0])
