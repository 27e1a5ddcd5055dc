"""Batches larger than memory: a method whose encoder, or all of it, sees a batch in parts, one after the other.

    method = gradient_caching(methods.simclr(encoder), 8)        # the loss sees the whole batch
    method = gradient_accumulation(methods.byol(encoder), 8)     # the mean of eight losses

Both give a `Method` like any other, so that the training step, a user's own loop and evaluation need know nothing.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from ssl_jax.core import Carry, Method, Metrics, PyTree, UserError
from ssl_jax.nets.parts import Parts, encoding_in_parts


def gradient_caching(method: Method, count: int) -> Method:
    """The same method with its encoder run on `count` micro-batches: the memory of one, the loss of the whole batch.

    Every method will do, those with negatives, queues and batch statistics in the loss included. Loss and gradient are
    those of the whole batch wherever examples meet in the loss only. Batch norm in the encoder takes the statistics of
    each micro-batch (and `bn_groups` groups of it); running statistics take the mean, so this is what `count` groups of
    the batch would be. Heads and decoders see the whole batch. Dropout and stochastic depth draw per micro-batch.

    The encoder is computed twice, which takes a third more time than the whole batch would (Gao et al., 2021,
    arXiv:2101.06983).

    Raises:
      UserError: (from the loss) `count` does not divide the batch.
    """

    def loss(params: PyTree, carry: Carry, batch: PyTree, rng: Array, step: Array) -> tuple[Array, Any]:
        with encoding_in_parts(parts_of(batch, count)):
            return method.loss(params, carry, batch, rng, step)

    return method if count == 1 else dataclasses.replace(method, loss=loss)


def gradient_accumulation(method: Method, count: int, *, forced: bool = False) -> Method:
    """The same method with the mean loss and gradient of `count` micro-batches; memory is that of one.

    Nothing is computed twice. Meant for losses that are a mean over examples (`Method.separable`), where this is the
    loss of the whole batch, but for batch norm, which takes statistics of each micro-batch, in heads too, and moves its
    running statistics `count` times. What a method remembers goes from one micro-batch to the next.

    Args:
      method: any that is separable.
      count: number of micro-batches, a divisor of the batch.
      forced: take other methods too. Negatives, targets and statistics then come from a micro-batch, and queues and
        centres move `count` times in a step: that is training with small batches, whose gradients are averaged.

    Raises:
      UserError: the method is not separable; or (from the loss) `count` does not divide the batch.
    """
    if count > 1 and not (method.separable or forced):
        raise UserError(
            f"The loss of {method.name} is not a mean over examples, which meet in negatives, statistics or memory, "
            "so that micro-batches by themselves would train something else: use `gradient_caching` "
            "(--config.accumulate=no), or insist with `forced=True` (--config.accumulate=forced)."
        )

    def loss(params: PyTree, carry: Carry, batch: PyTree, rng: Array, step: Array) -> tuple[Array, Any]:
        parts = parts_of(batch, count)
        held, carry = jax.tree.map(lax.stop_gradient, (params, carry))

        def add(state: tuple[PyTree, Carry], part: Array) -> tuple[tuple[PyTree, Carry], tuple[Array, Metrics]]:
            total, carry = state
            mine = jax.tree.map(lambda x: parts.take(x, part), batch)
            (value, (carry, metrics)), gradient = jax.value_and_grad(method.loss, has_aux=True)(
                held, carry, mine, jax.random.fold_in(rng, part), step
            )
            return (jax.tree.map(jnp.add, total, gradient), carry), (value, metrics)

        start = jax.tree.map(jnp.zeros_like, held), carry
        (total, carry), (values, metrics) = lax.scan(add, start, jnp.arange(count, dtype=jnp.int32))
        gradient = jax.tree.map(lambda x: x / count, total)
        metrics = jax.tree.map(lambda x: jnp.mean(x, axis=0) if x.ndim == 1 else parts.join(x), metrics)
        return _with_gradient(jnp.mean(values), gradient, params, held), (carry, metrics)

    return method if count == 1 else dataclasses.replace(method, loss=loss)


def _with_gradient(value: Array, gradient: PyTree, params: PyTree, held: PyTree) -> Array:
    """The value, with this gradient: that of `gradient * (params - held)`, which is zero."""
    slopes = jax.tree.map(lambda g, p, h: jnp.sum(g * (p - h)), gradient, params, held)
    return value + sum(x.astype(value.dtype) for x in jax.tree.leaves(slopes))


def parts_of(batch: PyTree, count: int) -> Parts:
    """How a batch falls into `count` micro-batches.

    Raises:
      UserError: not into such of one size.
    """
    return Parts(count, len(jax.tree.leaves(batch)[0]))
