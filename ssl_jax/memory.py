"""What teachers and memory banks do between steps: moving averages and a ring buffer, on plain arrays."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Num

from ssl_jax.core import PyTree


def ema(average: PyTree, new: PyTree, momentum: float | Float[Array, ""]) -> PyTree:
    """Exponential moving average, leaf by leaf: `momentum * average + (1 - momentum) * new`, dtypes kept."""

    def leaf(a: Array, n: Array) -> Array:
        m = jnp.asarray(momentum, a.dtype)
        return m * a + (1 - m) * n.astype(a.dtype)

    return jax.tree.map(leaf, average, new)


def enqueue(
    queue: Num[Array, "k ..."], pointer: Int[Array, ""], items: Num[Array, "b ..."]
) -> tuple[Num[Array, "k ..."], Int[Array, ""]]:
    """Write `items` into a ring buffer over the oldest entries; any number of items, wrapping round the end.

    Equal to the authors' MoCo queue where its length is a multiple of the batch (which that code asserts); lightly
    drops the overhang instead.

    Args:
      queue: the buffer.
      pointer: where the oldest entry is, int32 in 0..k-1.
      items: new entries, oldest first; of more than k, the last k stay.

    Returns:
      The new buffer and pointer.
    """
    size, count = len(queue), len(items)
    kept = items[max(count - size, 0) :]
    start = pointer + (count - len(kept))
    index = (start + jnp.arange(len(kept), dtype=pointer.dtype)) % size
    return queue.at[index].set(kept.astype(queue.dtype)), (start + len(kept)) % size


def write_rows(bank: Float[Array, "n d"], rows: Int[Array, " b"], items: Float[Array, "b d"]) -> Float[Array, "n d"]:
    """Write `items` into the named rows of a bank; of several for one row the last stays, on any device.

    (Which of them a scatter leaves is not defined, so the others are sent beyond the end, where they are dropped.)
    """
    order = jnp.arange(len(rows))
    replaced = jnp.any((rows[:, None] == rows[None]) & (order[:, None] < order[None]), axis=1)
    rows = jnp.where(replaced, len(bank), rows)
    return bank.at[rows].set(items.astype(bank.dtype), mode="drop")
