"""k-nearest-neighbour classification of frozen features (Wu et al., CVPR 2018; constants of DINO)."""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ssl_jax.checks import check_features, check_labels, check_positive
from ssl_jax.core import UserError
from ssl_jax.evaluation.neighbors import BANK_TILE, TILE, check_k, nearest, search

VOTES = ("weighted", "uniform")
MAX_VOTES = 2**26  # numbers held at a time while votes are counted


@functools.partial(jax.jit, static_argnames=("ks", "classes", "temperature", "kind"))
def _votes(labels, score, index, *, ks, classes, temperature, kind):
    if kind == "cosine":  # relative to the nearest, which changes no ranking: a low temperature would overflow
        score = jnp.exp((score - score[:, :1]) / temperature)
    elif kind == "l2":
        first = score[:, :1]  # rows in the very place have all of the votes
        score = jnp.where(first > 0, first / jnp.maximum(score, 1e-30), (score == 0).astype(score.dtype))
    else:
        score = jnp.ones_like(score)
    weight = score[:, :, None] * jax.nn.one_hot(labels[index], classes, dtype=score.dtype)
    votes = jnp.cumsum(weight, axis=1)
    return jnp.stack([jnp.argmax(votes[:, k - 1], axis=-1) for k in ks])


def knn_predict(
    train: Float[Array | np.ndarray, "n d"],
    labels: Int[Array | np.ndarray, " n"],
    test: Float[Array | np.ndarray, "m d"],
    *,
    ks: Sequence[int] = (20,),
    temperature: float = 0.07,
    metric: str = "cosine",
    votes: str = "weighted",
    tile: int = TILE,
    bank_tile: int = BANK_TILE,
) -> Int[np.ndarray, "k m"]:
    """Predict a class for each test row, for several numbers of neighbours at once.

    Each of the k nearest training rows votes for its class: with weight `exp(similarity / temperature)` (cosine, as Wu
    et al. and DINO), with `1 / distance` (L2, scikit-learn's `weights="distance"`), or all alike; of classes with
    equal votes the lowest wins. Exact and in tiles, see `neighbors.nearest` for the memory that it takes.

    Args:
      train: training features, any scale.
      labels: their classes, 0..classes-1.
      test: test features.
      ks: numbers of neighbours, each in 1..n.
      temperature: 0.07 as DINO; others use 0.1. Of weighted votes by cosine only.
      metric: "cosine" or "l2".
      votes: "weighted" or "uniform".
      tile: test rows at a time.
      bank_tile: training rows at a time.

    Raises:
      UserError: a k out of range, a temperature not above 0, an unknown metric or kind of votes, labels that do not fit
        the features, or features that are not finite.
    """
    check_positive(temperature=temperature, tile=tile)
    check_features(train, test)
    check_labels(train, labels)
    check_k(tuple(ks), len(train))
    if votes not in VOTES:
        raise UserError(f"Unknown kind of votes {votes!r}; choose one of {', '.join(VOTES)}.")
    kind = metric if votes == "weighted" else votes
    if kind == "l2":  # small distances weigh most, and are less than float32's products round by
        train, test = np.asarray(train), np.asarray(test)
        score, index = nearest(train, test, max(ks), metric, tile=tile, bank_tile=bank_tile)
        score = score.astype(np.float32)
    else:
        score, index = search(train, test, max(ks), metric, tile=tile, bank_tile=bank_tile)
    classes = int(np.max(labels)) + 1
    rows = max(min(tile, MAX_VOTES // (max(ks) * classes)), 1)
    count = functools.partial(
        _votes, jnp.asarray(labels), ks=tuple(ks), classes=classes, temperature=temperature, kind=kind
    )
    parts = [np.asarray(count(score[i : i + rows], index[i : i + rows])) for i in range(0, len(score), rows)]
    return np.concatenate(parts, axis=1)


def knn_accuracy(train, labels, test, test_labels, *, ks=(20,), **kwargs) -> dict[int, float]:
    """Accuracy (0..1) of `knn_predict` for each k; other arguments and errors as there."""
    check_labels(test, test_labels)
    predicted = knn_predict(train, labels, test, ks=ks, **kwargs)
    return {k: float(np.mean(row == np.asarray(test_labels))) for k, row in zip(ks, predicted, strict=True)}
