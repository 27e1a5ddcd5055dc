"""GELU and softmax whose gradients start from one remembered array.

XLA's CPU backend merges what the gradient computes again with the forward pass, and so keeps every intermediate array
of every block until then: memory that has to be taken from the system, page by page, in each step, which costs more
than the arithmetic. `remembered` stands between the two. Elsewhere XLA is left to choose.
"""

from typing import TypeVar

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from ssl_jax.nets.precision import at_least_float32

T = TypeVar("T")


def remembered(residuals: T) -> T:
    """The same arrays; on CPUs what is computed from them is not shared with the forward pass."""
    return lax.platform_dependent(residuals, cpu=lax.optimization_barrier, default=lambda same: same)


@jax.custom_vjp
def gelu(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """Exact GELU, x times the normal distribution function (Hendrycks and Gimpel, 2016), at least float32 inside."""
    wide = x.astype(at_least_float32(x.dtype))
    return (0.5 * wide * (1 + lax.erf(wide * 0.5**0.5))).astype(x.dtype)


def _gelu_backward(x: Array, g: Array) -> tuple[Array]:
    wide = remembered(x).astype(at_least_float32(x.dtype))
    density = jnp.exp(-0.5 * wide * wide) * (2 * jnp.pi) ** -0.5
    slope = 0.5 * (1 + lax.erf(wide * 0.5**0.5)) + wide * density
    return ((g.astype(wide.dtype) * slope).astype(x.dtype),)


gelu.defvjp(lambda x: (gelu(x), x), _gelu_backward)


@jax.custom_vjp
def softmax(x: Float[Array, "... n"]) -> Float[Array, "... n"]:
    """Softmax over the last axis; its gradient needs the result only."""
    return jax.nn.softmax(x)


def _softmax_forward(x: Array) -> tuple[Array, Array]:
    y = jax.nn.softmax(x)
    return y, y


def _softmax_backward(y: Array, g: Array) -> tuple[Array]:
    y = remembered(y)
    return (y * (g - (g * y).sum(-1, keepdims=True)),)


softmax.defvjp(_softmax_forward, _softmax_backward)
