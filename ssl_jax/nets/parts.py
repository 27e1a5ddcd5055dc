"""An encoder that takes a batch in parts, each computed again for its gradient: the memory of one, the whole's result.

This is gradient caching (Gao et al., 2021, arXiv:2101.06983) said with `jax.checkpoint` and `lax.map`: what is kept of
the forward pass are the features of the whole batch, which the loss sees as ever. `ssl_jax.micro_batches` makes it a
property of a method.
"""

import contextlib
import contextvars
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, PRNGKeyArray

from ssl_jax.core import PyTree, UserError


@dataclasses.dataclass(frozen=True)
class Parts:
    """How a batch falls into parts: part j holds every `count`-th example from the j-th on, with all of its rows.

    So each device finds its share of a part among its own rows, and the parts are the same on any number of devices.

    Attributes:
      count: number of parts.
      examples: size of the whole batch, a multiple of `count`; arrays have as many rows or a multiple of it, those of
        an example side by side.
    """

    count: int
    examples: int

    def __post_init__(self):
        """Raise a `UserError` if the parts would not be of one size."""
        if self.count < 1 or self.examples % self.count:
            raise UserError(
                f"A batch of {self.examples} does not fall into {self.count} micro-batches of one size; change one of "
                "them."
            )

    def splits(self, x: Any) -> bool:
        """Whether `x` is an array with rows for each example."""
        return getattr(x, "ndim", 0) > 0 and len(x) > 0 and len(x) % self.examples == 0

    def take(self, x: Array, part: Array | int) -> Array:
        """Rows `[n ...]` of the whole batch to those of one part, `[n/count ...]`."""
        runs = x.reshape(self.examples // self.count, self.count, len(x) // self.examples, *x.shape[1:])
        found = lax.dynamic_index_in_dim(runs, part, axis=1, keepdims=False)
        return found.reshape(-1, *x.shape[1:])

    def join(self, x: Array) -> Array:
        """The parts' rows `[count n/count ...]` back in the order of the batch, `[n ...]`."""
        per_part = self.examples // self.count
        runs = x.reshape(self.count, per_part, x.shape[1] // per_part, *x.shape[2:])
        return jnp.moveaxis(runs, 0, 1).reshape(-1, *x.shape[2:])


_ambient: contextvars.ContextVar[Parts | None] = contextvars.ContextVar("parts", default=None)


def ambient_parts() -> Parts | None:
    """What `encoding_in_parts` says here; None outside."""
    return _ambient.get()


@contextlib.contextmanager
def encoding_in_parts(parts: Parts) -> Iterator[None]:
    """Within, `functional.encode` takes batches in these parts."""
    token = _ambient.set(parts)
    try:
        yield
    finally:
        _ambient.reset(token)


def map_parts(
    parts: Parts,
    run: Callable[..., tuple[PyTree, PyTree]],
    image: Array,
    rng: PRNGKeyArray | None,
    arguments: dict[str, Any],
) -> tuple[PyTree, PyTree]:
    """`run(image, rng, arguments) -> (outputs, state)` on each part; outputs of the whole batch, and the mean state.

    Arrays with rows for each example go in and come out in the batch's order, other arguments go to every part. The
    parts run one after the other, and their gradients compute them again. Every part starts from the same state;
    the mean is what groups of a batch norm leave (`BatchNorm`). Each draws with a key of its own.
    """

    def of_part(part: Array) -> tuple[PyTree, PyTree]:
        given = {name: parts.take(x, part) if parts.splits(x) else x for name, x in arguments.items()}
        key = None if rng is None else jax.random.fold_in(rng, part)
        return run(parts.take(image, part), key, given)

    # The loop keeps XLA from sharing what is computed again with the forward pass.
    outputs, states = lax.map(jax.checkpoint(of_part, prevent_cse=False), jnp.arange(parts.count, dtype=jnp.int32))
    return jax.tree.map(parts.join, outputs), jax.tree.map(_merged, states)


def _merged(states: Array) -> Array:
    """The mean of numbers; of counters the last."""
    return jnp.mean(states, axis=0) if jnp.issubdtype(states.dtype, jnp.floating) else states[-1]
