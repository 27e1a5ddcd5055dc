"""From a source to batches: endless and shuffled for training, once and in order for evaluation."""

import collections
import itertools
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import numpy as np

from ssl_jax.core import UserError
from ssl_jax.data.sampling import batch_rows
from ssl_jax.data.source import Examples, Indexable

T = TypeVar("T")


def batches(
    source: Indexable,
    *,
    batch_size: int,
    seed: int = 0,
    start: int = 0,
    prefetch: int = 2,
    process_index: int = 0,
    process_count: int = 1,
) -> Generator[Examples, None, None]:
    """Iterate over shuffled batches without end; batch `k` is a pure function of `(seed, k)`, see `indices`.

    A source may have `at_step(step, index)` besides, for examples that are different at every step (`CroppedSource`).

    Args:
      source: what `load` or `from_arrays` returns, or an object with the two methods of `Indexable`.
      batch_size: rows over all processes, a multiple of `process_count`.
      seed: of the order of examples.
      start: number of the first batch: a run resumed after `k` steps goes on with `start=k`.
      prefetch: batches to prepare ahead in a background thread; 0 for none. Sources in memory need no thread.
      process_index: this process gets rows `[index * b, (index + 1) * b)`, `b = batch_size / process_count`, of the
        batch that a single process would get.
      process_count: number of processes.

    Returns:
      Iterator of `{"image": uint8 [b h w c], "id": int32 [b], "label": int32 [b]}`, `"label"` if there are labels.
      `id` is the row in `source`. Errors of the source arise in `next`; closing the iterator ends its thread.

    Raises:
      UserError: if `batch_size` exceeds the number of examples or is no multiple of `process_count`.
    """
    n = len(source)
    if batch_size > n:
        raise UserError(f"batch_size={batch_size} exceeds the {n} images there are; use batch_size={n} or less.")
    rows = _rows_of_process(batch_size, process_index, process_count)
    batch_rows(source, batch_size=batch_size, seed=seed, step=start)  # raises here, not in the first `next`

    def read(step: int) -> Examples:
        ids = batch_rows(source, batch_size=batch_size, seed=seed, step=step)[rows]
        return _read(source, ids, step)

    return read_ahead(read, itertools.count(start), _depth(source, prefetch))


def epoch(
    source: Indexable, batch_size: int, *, prefetch: int = 2, process_index: int = 0, process_count: int = 1
) -> Generator[Examples, None, None]:
    """Iterate once over all examples, in order, in batches that all have the same shape.

    The last batch is filled up with copies of the last example, so that a compiled function sees one shape. The key
    `"valid"`, bool `[b]`, is False in these rows: leave them out, `features[batch["valid"]]`.

    Args:
      source: as for `batches`.
      batch_size: rows over all processes, may exceed the number of examples.
      prefetch: as for `batches`.
      process_index: as for `batches`.
      process_count: as for `batches`.

    Returns:
      Iterator of dicts as from `batches`, with `"valid"`.
    """
    rows, n = _rows_of_process(batch_size, process_index, process_count), len(source)

    def read(ids: np.ndarray) -> Examples:
        return {**_read(source, np.minimum(ids, n - 1)), "valid": ids < n}

    positions = (np.arange(first, first + batch_size)[rows] for first in range(0, n, batch_size))
    return read_ahead(read, positions, _depth(source, prefetch))


def _rows_of_process(batch_size: int, index: int, count: int) -> slice:
    if batch_size < 1 or count < 1 or batch_size % count or not 0 <= index < count:
        raise UserError(
            f"batch_size={batch_size} must be positive and a multiple of process_count={count}, and "
            f"process_index={index} must lie in 0 to {count - 1}."
        )
    each = batch_size // count
    return slice(index * each, (index + 1) * each)


def _depth(source: Indexable, prefetch: int) -> int:
    return 0 if getattr(source, "in_memory", False) else prefetch


def _read(source: Indexable, ids: np.ndarray, step: int | None = None) -> Examples:
    """Examples with their ids; of a source that shows them otherwise at every step, as `step` sees them."""
    at_step = None if step is None else getattr(source, "at_step", None)
    examples = source[ids] if at_step is None else at_step(step, ids)
    return {**examples, "id": ids.astype(np.int32)}


def read_ahead(read: Callable[[T], Examples], what: Iterable[T], depth: int) -> Generator[Examples, None, None]:
    """Map `read` over `what`, up to `depth` items ahead of the consumer in one background thread."""
    if depth <= 0:
        yield from map(read, what)
        return
    what = iter(what)
    pool = ThreadPoolExecutor(1, thread_name_prefix="ssl_jax.data")
    try:
        pending: collections.deque[Future[Examples]] = collections.deque()
        pending.extend(pool.submit(read, item) for item in itertools.islice(what, depth))
        while pending:
            examples = pending.popleft().result()
            pending.extend(pool.submit(read, item) for item in itertools.islice(what, 1))
            yield examples
    finally:
        pool.shutdown(cancel_futures=True)
