"""Losses against a distribution instead of a class: cross-entropy and Kullback-Leibler divergence."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ssl_jax.losses.normalize import at_least_float32


def soft_cross_entropy(logits: Float[Array, "b k"], target: Float[Array, "b k"]) -> Float[Array, ""]:
    """Mean over the rows of `-sum target log softmax(logits)`; the rows of `target` sum to 1."""
    log_p = jax.nn.log_softmax(at_least_float32(logits), axis=-1)
    return -jnp.mean(jnp.sum(target.astype(log_p.dtype) * log_p, axis=-1))


def kl_divergence(logits: Float[Array, "b k"], target: Float[Array, "b k"]) -> Float[Array, ""]:
    """Mean over the rows of `KL(target || softmax(logits))`: the cross-entropy less the target's own entropy.

    Both have the same gradient in `logits`; this one is 0 where the prediction is the target.
    """
    target = at_least_float32(target)
    entropy = jnp.mean(jnp.sum(jax.scipy.special.entr(target), axis=-1))
    return soft_cross_entropy(logits, target) - entropy
