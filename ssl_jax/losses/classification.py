"""Cross-entropy with hard labels, and how often the largest logit is right."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ssl_jax.losses.normalize import at_least_float32


def cross_entropy(logits: Float[Array, "n k"], labels: Int[Array, " n"], *, smoothing: float = 0.0) -> Float[Array, ""]:
    """Mean cross-entropy of `softmax(logits)` with the labels, in nats; ln k for a guess.

    With `smoothing` s in 0..1 the target is `1 - s + s / k` for the label and `s / k` for every other class (Szegedy et
    al., 2016, arXiv:1512.00567).
    """
    log_probability = jax.nn.log_softmax(at_least_float32(logits))
    # A comparison, since the gradient of a lookup would add up in any order on accelerators.
    hit = labels[:, None] == jnp.arange(logits.shape[1], dtype=labels.dtype)[None]
    value = -jnp.mean(jnp.sum(jnp.where(hit, log_probability, 0.0), axis=1))
    return value if not smoothing else (1 - smoothing) * value - smoothing * jnp.mean(log_probability)


def accuracy(logits: Float[Array, "n k"], labels: Int[Array, " n"]) -> Float[Array, ""]:
    """Share of rows whose largest logit is the label's (of equals the first counts)."""
    return jnp.mean((jnp.argmax(logits, axis=1).astype(labels.dtype) == labels).astype(jnp.float32))
