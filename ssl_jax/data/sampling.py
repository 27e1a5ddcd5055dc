"""Which examples make up which batch: a pure function of seed and step, so that a run resumes without saved state."""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Int32

from ssl_jax.core import UserError

Order = Callable[[int, int, int, int], np.ndarray]  # n, gap, seed, epoch: see `apart`


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
    check(n, batch_size, seed, step)
    position, stop = step * batch_size, (step + 1) * batch_size
    rows: list[np.ndarray] = []
    while position < stop:
        epoch, offset = divmod(position, n)
        rows.append(_order(n, batch_size, seed, epoch)[offset : offset + stop - position])
        position += len(rows[-1])
    return np.concatenate(rows)


def check(n: int, batch_size: int, seed: int, step: int) -> None:
    """Raise a `UserError` if a number is out of its range, see `indices`."""
    if n < 1 or batch_size < 1 or seed < 0 or step < 0:
        raise UserError(
            f"n={n} and batch_size={batch_size} must be positive, and seed={seed} and step={step} not negative."
        )


def batch_rows(source: Any, *, batch_size: int, seed: int, step: int) -> Int32[np.ndarray, " b"]:
    """Return the rows of batch number `step` of a source: by its own `indices` if it has such, as mixtures do."""
    own = getattr(source, "indices", None) or functools.partial(indices, len(source))
    return own(batch_size=batch_size, seed=seed, step=step)


@functools.lru_cache(maxsize=4)  # few, since one of ImageNet-21k takes 57 MB
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


def sequence(
    n: int, first: int, stop: int, *, gap: int, seed: int, order: Order | None = None
) -> Int32[np.ndarray, " m"]:
    """Return places `first` to `stop - 1` of an endless sequence of shuffled epochs of `n` examples.

    No example comes twice within `gap` places if `n >= 3 * gap`: what the end of an epoch has is moved back in the
    next one, as in `indices`. `order` is `apart`, or a cache of it.
    """
    order = order or apart
    rows: list[np.ndarray] = [np.empty(0, np.int32)]
    while first < stop:
        epoch, offset = divmod(first, n)
        rows.append(order(n, gap, seed, epoch)[offset : offset + stop - first])
        first += len(rows[-1])
    return np.concatenate(rows)


def apart(n: int, gap: int, seed: int, epoch: int) -> Int32[np.ndarray, " n"]:
    """Shuffle an epoch of `sequence`; equal arguments give equal orders."""
    order = _shuffle(n, seed, epoch)
    if not epoch or n < 3 * gap:
        return order
    taken = np.zeros(n, bool)
    taken[_shuffle(n, seed, epoch - 1)[-gap:]] = True
    head, tail = order[:-gap], order[-gap:]
    return np.concatenate([head[~taken[head]], head[taken[head]], tail])
