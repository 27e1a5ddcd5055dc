"""Weighted k-nearest-neighbour classification of frozen features (Wu et al., CVPR 2018; constants of DINO)."""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ssl_jax.checks import check_features, check_positive
from ssl_jax.core import UserError
from ssl_jax.losses import l2_normalize


@functools.partial(jax.jit, static_argnames=("ks", "classes", "temperature"))
def _votes(bank, labels, query, *, ks, classes, temperature):
    similarity = jnp.matmul(query, bank.T, precision="highest")
    # Without the barrier XLA merges what follows into the selection, and on CPUs sorts whole rows, 20 times slower.
    similarity, index = jax.lax.optimization_barrier(jax.lax.top_k(similarity, max(ks)))
    # Relative to the nearest, which changes no ranking: a low temperature would overflow.
    similarity = similarity - similarity[:, :1]
    weight = jnp.exp(similarity / temperature)[:, :, None] * jax.nn.one_hot(labels[index], classes, dtype=bank.dtype)
    votes = jnp.cumsum(weight, axis=1)
    return jnp.stack([jnp.argmax(votes[:, k - 1], axis=-1) for k in ks])


def knn_predict(
    train: Float[Array | np.ndarray, "n d"],
    labels: Int[Array | np.ndarray, " n"],
    test: Float[Array | np.ndarray, "m d"],
    *,
    ks: Sequence[int] = (20,),
    temperature: float = 0.07,
    tile: int = 1000,
) -> Int[np.ndarray, "k m"]:
    """Predict a class for each test row, for several numbers of neighbours at once.

    Each of the k most similar training rows (cosine) votes for its class with weight `exp(similarity / temperature)`.
    Exact; in tiles of test rows, so that `tile x n` similarities are all that is held.

    Args:
      train: training features, any scale.
      labels: their classes, 0..classes-1.
      test: test features.
      ks: numbers of neighbours, each in 1..n.
      temperature: 0.07 as DINO; others use 0.1.
      tile: test rows at a time.

    Raises:
      UserError: a k out of range, a temperature not above 0, or features that are not finite.
    """
    check_positive(temperature=temperature, tile=tile)
    check_features(train, test)
    if not 1 <= min(ks) <= max(ks) <= len(train):
        raise UserError(f"k-NN needs 1 <= k <= {len(train)} (the training examples), but was given k = {list(ks)}.")
    bank = l2_normalize(jnp.asarray(train, jnp.float32))
    query = np.asarray(l2_normalize(jnp.asarray(test, jnp.float32)))
    classes = int(np.max(labels)) + 1
    labels = jnp.asarray(labels)
    padded = np.concatenate([query, np.zeros((-len(query) % tile, query.shape[1]), np.float32)])
    votes = functools.partial(_votes, bank, labels, ks=tuple(ks), classes=classes, temperature=temperature)
    tiles = [np.asarray(votes(padded[i : i + tile])) for i in range(0, len(padded), tile)]
    return np.concatenate(tiles, axis=1)[:, : len(query)]


def knn_accuracy(train, labels, test, test_labels, *, ks=(20,), temperature=0.07, tile=1000) -> dict[int, float]:
    """Accuracy (0..1) of `knn_predict` for each k."""
    predicted = knn_predict(train, labels, test, ks=ks, temperature=temperature, tile=tile)
    return {k: float(np.mean(row == np.asarray(test_labels))) for k, row in zip(ks, predicted, strict=True)}
