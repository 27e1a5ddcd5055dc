"""InfoNCE: one positive among a bank of negatives (MoCo), a batch's keys (MoCo v3) or all others' targets (CPC)."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ssl_jax.losses.classification import accuracy, cross_entropy
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
    """Mean cross-entropy of picking the positive among k + 1 candidates (He et al., CVPR 2020, eq. 1).

    One direction, as the authors' code.
    """
    logits = infonce_logits(query, key, negatives, temperature=temperature)
    return jnp.mean(jax.nn.logsumexp(logits, axis=1) - logits[:, 0])


def infonce_among(
    prediction: Float[Array, "m d"], candidate: Float[Array, "n d"], place: Int[Array, " m"]
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """InfoNCE with inner products: tell which of n candidates each prediction means (CPC, arXiv:1807.03748, eq. 4).

    Args:
      prediction: what is predicted, for example `W c` of a context c: then the score is CPC's bilinear one.
      candidate: the targets of all predictions, and thereby the negatives of each.
      place: the row of its target, for each prediction.

    Returns:
      The mean cross-entropy, and the share of predictions whose own target scores highest.
    """
    prediction, candidate = at_least_float32(prediction), at_least_float32(candidate)
    logits = jnp.matmul(prediction, candidate.T, precision="highest")
    return cross_entropy(logits, place), accuracy(logits, place)


def infonce_in_batch(
    query: Float[Array, "b d"], key: Float[Array, "b d"], *, temperature: float = 0.2
) -> Float[Array, ""]:
    """Mean cross-entropy of picking a query's own key among all keys of the (global) batch, by cosine similarity.

    One direction of MoCo v3 (Chen et al., ICCV 2021), which multiplies it by `2 * temperature`, and of NNCLR.
    """
    logits = _similarity(query, key) / temperature
    return jnp.mean(jax.nn.logsumexp(logits, axis=1) - jnp.diagonal(logits))


def retrieval_accuracy(query: Float[Array, "b d"], key: Float[Array, "b d"]) -> Float[Array, ""]:
    """Share of queries whose own key is the nearest of the batch's keys, 0..1; for watching, without a gradient."""
    nearest = jnp.argmax(_similarity(query, key), axis=1)
    return jnp.mean((nearest == jnp.arange(len(query))).astype(jnp.float32))


def _similarity(query: Float[Array, "b d"], key: Float[Array, "b d"]) -> Float[Array, "b b"]:
    query, key = l2_normalize(at_least_float32(query)), l2_normalize(at_least_float32(key))
    return jnp.matmul(query, key.T, precision="highest")
