"""Exact nearest neighbours, in tiles over both sides: the training rows may lie in host memory."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ssl_jax.checks import check_features, check_positive
from ssl_jax.core import UserError
from ssl_jax.losses import l2_normalize

METRICS = ("cosine", "l2")
TILE, BANK_TILE = 1000, 65536
SPARE = 16  # candidates beyond k that are put in order in float64
RERANKED = 2**20  # numbers in float64 at a time, which a cache can hold


def check_k(ks: tuple[int, ...], rows: int) -> None:
    """Numbers of neighbours must be at least 1 and at most the training rows."""
    if not ks or not 1 <= min(ks) <= max(ks) <= rows:
        raise UserError(f"k-NN needs 1 <= k <= {rows} (the training examples), but was given k = {list(ks)}.")


def check_metric(metric: str) -> None:
    """The metric must be one of `METRICS`."""
    if metric not in METRICS:
        raise UserError(f"Unknown metric {metric!r}; choose one of {', '.join(METRICS)}.")


def nearest(
    train: Float[np.ndarray, "n d"],
    test: Float[np.ndarray, "m d"],
    k: int,
    metric: str = "cosine",
    *,
    tile: int = TILE,
    bank_tile: int = BANK_TILE,
) -> tuple[Float[np.ndarray, "m k"], Int[np.ndarray, "m k"]]:
    """The k nearest training rows of each test row, nearest first, equal ones by the lowest index.

    Exact: every pair is compared in float32 on the accelerator, a running top k + 16 is kept, and these are put in
    order in float64. So the result is that of a search in float64 (scikit-learn's `NearestNeighbors`) unless more than
    16 rows lie within float32's rounding of the k-th.

    Memory: on the device `4 (bank_tile d + tile d + tile bank_tile)` bytes, twice that while a tile is replaced, and
    `8 m (k + 16)` for the result so far; the features stay where they are and are streamed, each training row once.
    For the 1.28 M x 2048 features of ImageNet (10.5 GB in host memory) and 50,000 test rows with k = 200 that is
    0.8 GB, at most 1.6 GB, and 0.09 GB.

    Args:
      train: training features, any scale.
      test: test features.
      k: neighbours, in 1..n.
      metric: "cosine" (a row of zeros is equally far from all) or "l2".
      tile: test rows at a time.
      bank_tile: training rows at a time, at least k.

    Returns:
      Cosine similarities, or Euclidean distances, in float64, and the rows in `train`, int32.

    Raises:
      UserError: an unknown metric, k out of range, or features that are not finite.
    """
    check_features(train, test)
    check_k((k,), len(train))
    _, index = search(train, test, min(k + SPARE, len(train)), metric, tile=tile, bank_tile=bank_tile)
    rows = max(RERANKED // (index.shape[1] * train.shape[1]), 1)
    parts = [_rerank(train, test[i : i + rows], index[i : i + rows], metric) for i in range(0, len(test), rows)]
    value, index = (np.concatenate(column) for column in zip(*parts, strict=True))
    return value[:, :k], index[:, :k]


def search(
    train: Float[Array | np.ndarray, "n d"],
    test: Float[Array | np.ndarray, "m d"],
    k: int,
    metric: str = "cosine",
    *,
    tile: int = TILE,
    bank_tile: int = BANK_TILE,
) -> tuple[Float[np.ndarray, "m k"], Int[np.ndarray, "m k"]]:
    """`nearest` in float32, where neighbours that differ by rounding may change places; the scores are `compare`'s."""
    check_metric(metric)
    check_positive(tile=tile, bank_tile=bank_tile)
    mean = centre_of(train, metric)
    query = np.asarray(place(test, mean, metric))
    padded = np.concatenate([query, np.zeros((-len(query) % tile, query.shape[1]), np.float32)])
    starts = range(0, len(padded), tile)
    best: list[tuple[Array, Array] | None] = [None] * len(starts)
    # Tiles as even as can be and not far below k, so that few shapes are compiled.
    size = -(-len(train) // -(-len(train) // max(bank_tile, k)))
    for offset in range(0, len(train), size):
        bank = place(train[offset : offset + size], mean, metric)
        for i, start in enumerate(starts):
            best[i] = _nearer(bank, padded[start : start + tile], best[i], np.int32(offset), k=k, metric=metric)
        jax.block_until_ready(best)  # or all of the bank would be on its way to the device
    score, index = (np.concatenate([np.asarray(x) for x in column])[: len(query)] for column in zip(*best, strict=True))
    return score, index


def centre_of(train: Float[Array | np.ndarray, "n d"], metric: str) -> Float[np.ndarray, " d"]:
    """What both sides are shifted by: nothing for cosine, the training rows' mean for L2, to leave less to cancel."""
    if metric == "cosine":
        return np.zeros(train.shape[1], np.float32)
    return np.asarray(np.mean(np.asarray(train), axis=0, dtype=np.float64), np.float32)


def place(x: Float[Array | np.ndarray, "n d"], centre: np.ndarray, metric: str) -> Float[Array, "n d"]:
    """Rows on the device as `compare` wants them: of norm 1, or shifted."""
    x = jnp.asarray(x, jnp.float32)
    return l2_normalize(x) if metric == "cosine" else x - jnp.asarray(centre)[None]


def compare(query: Float[Array, "m d"], bank: Float[Array, "n d"], metric: str) -> Float[Array, "m n"]:
    """Scores of all pairs, the higher the nearer: cosine, or s = q.b - |b|^2 / 2, so that |q - b|^2 = |q|^2 - 2 s."""
    score = jnp.matmul(query, bank.T, precision="highest")
    return score if metric == "cosine" else score - jnp.sum(bank**2, axis=1)[None] / 2


@functools.partial(jax.jit, static_argnames=("k", "metric"))
def _nearer(bank, query, best, offset, *, k, metric):
    """The k best so far and of another tile of the bank: scores, the higher the nearer, and indices."""
    score = compare(query, bank, metric)
    # Without the barrier XLA merges what follows into the selection, and on CPUs sorts whole rows, 20 times slower.
    score, index = jax.lax.optimization_barrier(jax.lax.top_k(score, min(k, len(bank))))
    index = index + offset
    if best is None:
        return score, index
    score, index = (jnp.concatenate(pair, axis=1) for pair in zip(best, (score, index), strict=True))
    # Of equal scores `top_k` takes the first, and the best so far have lower indices.
    score, place = jax.lax.optimization_barrier(jax.lax.top_k(score, min(k, score.shape[1])))
    return score, jnp.take_along_axis(index, place, axis=1)


def _rerank(train: np.ndarray, test: np.ndarray, index: np.ndarray, metric: str) -> tuple[np.ndarray, np.ndarray]:
    """Candidates in their order in float64, with their similarities or distances."""
    rows, query = train[index].astype(np.float64), test.astype(np.float64)
    # `einsum` sums every row in the same order, so that equal rows stay equal, which a matrix product may not.
    if metric == "cosine":
        norms = np.sqrt(np.einsum("mkd,mkd->mk", rows, rows)) * np.linalg.norm(query, axis=1, keepdims=True)
        value = np.einsum("mkd,md->mk", rows, query) / np.maximum(norms, 1e-30)
        order = np.lexsort((index, -value))
    else:
        rows -= query[:, None]
        value = np.sqrt(np.einsum("mkd,mkd->mk", rows, rows))
        order = np.lexsort((index, value))
    return np.take_along_axis(value, order, axis=1), np.take_along_axis(index, order, axis=1)
