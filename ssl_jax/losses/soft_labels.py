"""Soft labels: a student's logits against a teacher's at a temperature (Hinton et al., 2015, arXiv:1503.02531)."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ssl_jax.losses.normalize import at_least_float32


def soft_labels(
    student: Float[Array, "b c"], teacher: Float[Array, "b c"], *, temperature: float = 1.0
) -> Float[Array, ""]:
    """Mean of `T^2 KL(softmax(teacher / T) || softmax(student / T))`, at least 0.

    The factor keeps the gradient's size when T changes (section 2 of the paper). Stops no gradient.

    Args:
      student: logits.
      teacher: logits.
      temperature: T > 0; above 1 the classes that the teacher finds less likely count for more.
    """
    p, q = (jax.nn.log_softmax(at_least_float32(x) / temperature) for x in (teacher, student))
    return temperature**2 * jnp.mean(jnp.sum(jnp.exp(p) * (p - q), axis=-1))
