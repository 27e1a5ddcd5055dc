"""Which examples make up which batch: a pure function of seed and step, so that a run resumes without saved state."""

import functools

import numpy as np
from jaxtyping import Int32

from ssl_jax.core import UserError


def indices(n: int, *, batch_size: int, seed: int, step: int) -> Int32[np.ndarray, " b"]:
    """Return the rows of batch number `step`, out of an endless sequence of shuffled epochs.

    Every epoch is an exact permutation of the `n` examples, another one each time. Batches go on from one epoch into
    the next instead of dropping a remainder, so that after any number of epochs every example was seen equally often.
    A batch that does so holds no example twice if `n >= 2 * batch_size` (twice the same image would be its own
    negative). Only NumPy's bit generators are used, whose streams never change between versions.

    Args:
      n: number of examples.
      batch_size: number of rows in the batch, over all processes.
      seed: not negative; equal seeds give equal sequences.
      step: number of the batch, from 0.

    Raises:
      UserError: if a number is out of its range.
    """
    if n < 1 or batch_size < 1 or seed < 0 or step < 0:
        raise UserError(
            f"n={n} and batch_size={batch_size} must be positive, and seed={seed} and step={step} not negative."
        )
    position, stop = step * batch_size, (step + 1) * batch_size
    rows: list[np.ndarray] = []
    while position < stop:
        epoch, offset = divmod(position, n)
        rows.append(_order(n, batch_size, seed, epoch)[offset : offset + stop - position])
        position += len(rows[-1])
    return np.concatenate(rows)


@functools.lru_cache(maxsize=4)
def _shuffle(n: int, seed: int, epoch: int) -> Int32[np.ndarray, " n"]:
    bits = np.random.PCG64(np.random.SeedSequence((seed, epoch))).random_raw(n)
    return np.argsort(bits, kind="stable").astype(np.int32)


@functools.lru_cache(maxsize=4)
def _order(n: int, batch_size: int, seed: int, epoch: int) -> Int32[np.ndarray, " n"]:
    """Shuffle an epoch such that the batch it shares with the one before holds no example twice.

    The examples that the shared batch already has are moved back. The last `batch_size` examples stay as they are, so
    that an epoch depends on the plain shuffle of the one before and not on all of the past.
    """
    order = _shuffle(n, seed, epoch)
    shared = (epoch * n) % batch_size
    if not shared or n < 2 * batch_size:
        return order
    taken = np.zeros(n, bool)
    taken[_shuffle(n, seed, epoch - 1)[-shared:]] = True
    head, tail = order[:-batch_size], order[-batch_size:]
    return np.concatenate([head[~taken[head]], head[taken[head]], tail])
