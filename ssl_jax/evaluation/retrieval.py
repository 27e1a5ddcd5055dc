"""Retrieval: how well the features of an image find the others of its class."""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from ssl_jax.augment.platform import choose
from ssl_jax.checks import check_features, check_labels
from ssl_jax.core import UserError
from ssl_jax.evaluation.neighbors import centre_of, check_metric, compare, place

MAX_PAIRS = 2**24  # compared at a time


def _sorted(score: Array, same: Array) -> Array:
    _, hit = jax.lax.sort((-score, same.astype(jnp.float32)), num_keys=1, is_stable=True)
    return hit


def _packed(score: Array, same: Array) -> Array:
    # One number says all: score, index, hit. CPUs sort a single operand of integers four times as fast as two.
    key = jnp.where(score == 0, 0, jnp.where(jnp.isnan(score), jnp.nan, -score))  # one zero and one NaN, as `sort` has
    bits = jax.lax.bitcast_convert_type(key, jnp.int32)
    bits = jnp.where(bits < 0, bits ^ 0x7FFFFFFF, bits).astype(jnp.int64)  # integers in the order of the floats
    index = jnp.arange(score.shape[1], dtype=jnp.int64)[None]
    packed = jax.lax.sort((bits << 32) | (index << 1) | same.astype(jnp.int64), is_stable=False)
    return (packed & 1).astype(jnp.float32)


def _ranked(score: Float[Array, "m n"], same: Bool[Array, "m n"]) -> Float[Array, "m n"]:
    """Which are hits, 1 or 0, by falling score; of equal ones the lowest index first. To be traced with 64 bits."""
    return choose(cpu=_packed, default=_sorted)(score, same)


@functools.partial(jax.jit, static_argnames=("ks", "metric", "alone"))
def _measure(bank, bank_labels, query, labels, own, *, ks, metric, alone):
    """Figures `[m f]` of each query in the order of `retrieval_scores`, and the number of rows to be found."""
    score = compare(query, bank, metric)
    if alone:  # the row itself comes last, and is cut off
        score = jnp.where(jnp.arange(len(bank), dtype=jnp.int32)[None] == own[:, None], -jnp.inf, score)
    hit = _ranked(score, bank_labels[None] == labels[:, None])
    hit = hit[:, :-1] if alone else hit
    rank = jnp.arange(1, hit.shape[1] + 1, dtype=jnp.float32)[None]
    total = jnp.sum(hit, axis=1, keepdims=True)
    share = 1.0 / jnp.maximum(total, 1.0)
    precision = jnp.where(hit > 0, jnp.cumsum(hit, axis=1) / rank, 0.0)
    early = rank <= total
    figures = [
        jnp.sum(precision, axis=1) * share[:, 0],
        jnp.sum(jnp.where(early, precision, 0.0), axis=1) * share[:, 0],
        jnp.sum(jnp.where(early, hit, 0.0), axis=1) * share[:, 0],
    ]
    for k in ks:
        first = jnp.sum(hit[:, :k], axis=1)
        figures += [jnp.minimum(first, 1.0), first / k]
    return jnp.stack(figures, axis=1), total[:, 0]


def retrieval_scores(
    query: Float[np.ndarray, "m d"],
    labels: Int[np.ndarray, " m"],
    gallery: Float[np.ndarray, "n d"] | None = None,
    gallery_labels: Int[np.ndarray, " n"] | None = None,
    *,
    ks: Sequence[int] = (1, 5, 10),
    metric: str = "cosine",
) -> dict[str, float | int]:
    """Rank the gallery by similarity to each query, and score how high the rows of its class stand.

    Exact, in tiles of queries; the gallery must fit the device, `4 n d` bytes and some 300 MB for the tile. Equal
    scores rank by index. Queries whose class the gallery doesn't hold are left out.

    Args:
      query: features of the queries, any scale.
      labels: their classes.
      gallery: features that are searched; None: all the other queries (leave one out).
      gallery_labels: their classes.
      ks: lengths of the list that is looked at.
      metric: "cosine" or "l2".

    Returns:
      Means over the queries, in 0..1: "map", average precision over the whole ranking; with R the number of gallery
      rows of the class, "map@r" (Musgrave et al., ECCV 2020: precision at the hits among the first R, over R) and
      "r_precision" (hits among the first R, over R); for each k "recall@k", whether there is any hit among the first k
      (as in metric learning), and "precision@k", the share of hits among them; and "queries", how many were scored.

    Raises:
      UserError: a k out of range, an unknown metric, no query with a match, labels that do not fit the features, or
        features that are not finite.
    """
    alone = gallery is None
    bank, bank_labels = (query, labels) if gallery is None else (gallery, gallery_labels)
    if bank_labels is None:
        raise UserError("A gallery needs labels: give `gallery_labels`.")
    check_metric(metric)
    check_features(query, bank)
    check_labels(query, labels)
    check_labels(bank, bank_labels)
    others = len(bank) - alone
    if not ks or not 1 <= min(ks) <= max(ks) <= others:
        raise UserError(f"Retrieval needs 1 <= k <= {others} (the rows to find), but was given k = {list(ks)}.")
    centre = centre_of(bank, metric)
    placed, device_labels = place(bank, centre, metric), jnp.asarray(bank_labels, jnp.int32)
    tile = min(max(MAX_PAIRS // len(bank), 1), len(query))
    measure = functools.partial(_measure, placed, device_labels, ks=tuple(ks), metric=metric, alone=alone)
    figures, totals = [], []
    for start in range(0, len(query), tile):
        rows = np.minimum(np.arange(start, start + tile), len(query) - 1)  # the last tile is filled up
        tile_of = place(query[rows], centre, metric), jnp.asarray(labels[rows], jnp.int32), jnp.asarray(rows, jnp.int32)
        with jax.enable_x64(True):  # for `_ranked`
            found = measure(*tile_of)
        figures.append(np.asarray(found[0])[: len(query) - start])
        totals.append(np.asarray(found[1])[: len(query) - start])
    scored = np.concatenate(totals) > 0
    if not scored.any():
        raise UserError("No query has another row of its class to be found; retrieval needs two of a class.")
    means = np.concatenate(figures)[scored].mean(axis=0, dtype=np.float64)
    names = ["map", "map@r", "r_precision", *(f"{name}@{k}" for k in ks for name in ("recall", "precision"))]
    return {**{name: float(mean) for name, mean in zip(names, means, strict=True)}, "queries": int(scored.sum())}
