"""What teachers and memory banks do between steps: moving averages and a ring buffer, on plain arrays."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Num

from ssl_jax.checks import check_momentum
from ssl_jax.core import PyTree


def ema(average: PyTree, new: PyTree, momentum: float | Float[Array, ""]) -> PyTree:
    """Exponential moving average, leaf by leaf: `momentum * average + (1 - momentum) * new`, dtypes kept."""

    def leaf(a: Array, n: Array) -> Array:
        m = jnp.asarray(momentum, a.dtype)
        return m * a + (1 - m) * n.astype(a.dtype)

    return jax.tree.map(leaf, average, new)


def cosine_momentum(base: float, steps: int) -> Callable[[Int[Array, ""]], Float[Array, ""]]:
    """Momentum that rises from `base` at step 0 to 1 at step `steps` along a cosine (BYOL, section 3.2; OBoW; DINO).

    `tau_k = 1 - (1 - base) (cos(pi k / steps) + 1) / 2`. Reaches 1 only at `steps`, as the authors' code
    (lightly reaches it one step earlier).
    """
    check_momentum(base)

    def momentum(step: Int[Array, ""]) -> Float[Array, ""]:
        progress = jnp.clip(step.astype(float) / max(steps, 1), 0.0, 1.0)
        return 1.0 - (1.0 - base) * (jnp.cos(jnp.pi * progress) + 1.0) / 2.0

    return momentum


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
