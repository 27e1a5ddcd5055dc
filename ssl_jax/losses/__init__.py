"""Pure losses: arrays in, scalar out; computed in at least float32, over the global batch."""

from ssl_jax.losses.classification import accuracy, cross_entropy
from ssl_jax.losses.infonce import infonce, infonce_among, infonce_logits
from ssl_jax.losses.normalize import at_least_float32, l2_normalize
from ssl_jax.losses.ntxent import ntxent
from ssl_jax.losses.regression import cosine, negative_cosine, normalized_mse
from ssl_jax.losses.soft_labels import soft_labels
from ssl_jax.losses.soft_targets import kl_divergence, soft_cross_entropy

__all__ = [
    "accuracy",
    "at_least_float32",
    "cosine",
    "cross_entropy",
    "infonce",
    "infonce_among",
    "infonce_logits",
    "kl_divergence",
    "l2_normalize",
    "negative_cosine",
    "normalized_mse",
    "ntxent",
    "soft_cross_entropy",
    "soft_labels",
]
