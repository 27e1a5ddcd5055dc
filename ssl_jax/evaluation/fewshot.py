"""Few-shot classification: many small tasks of n classes with k labelled examples each, all solved at once."""

import functools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from ssl_jax.checks import check_features, check_labels, check_positive
from ssl_jax.core import UserError
from ssl_jax.losses import l2_normalize

METHODS = ("centroid", "cosine", "logistic")
MAX_FEATURES = 2**26  # numbers held at a time


def draw_episodes(
    labels: Int[np.ndarray, " n"],
    *,
    ways: int,
    size: int,
    episodes: int,
    classes: Sequence[int] | None = None,
    seed: int = 0,
) -> Int[np.ndarray, "e w s"]:
    """Rows of random tasks: `ways` classes each, `size` different examples of each class.

    A function of its arguments; the first tasks don't depend on how many follow. Only `classes` are drawn, if given.

    Raises:
      UserError: fewer classes than ways, or a class with fewer examples than `size`.
    """
    pool = np.unique(labels) if classes is None else np.unique(np.asarray(classes))
    rows = [np.flatnonzero(labels == c) for c in pool]
    if len(pool) < ways:
        raise UserError(f"Tasks of {ways} classes can't be drawn from {len(pool)}; lower `ways`.")
    short = min(range(len(pool)), key=lambda i: len(rows[i]))
    if len(rows[short]) < size:
        raise UserError(
            f"Class {pool[short]} has {len(rows[short])} examples, fewer than the {size} that a task takes of each "
            "(shots and queries); lower them, or leave the class out by `classes`."
        )
    rng = np.random.default_rng((seed, ways, size))
    tasks = np.empty((episodes, ways, size), np.int32)
    for task in tasks:
        for i, c in enumerate(rng.choice(len(pool), ways, replace=False)):
            task[i] = rng.choice(rows[c], size, replace=False)
    return tasks


def _logistic(support: Float[Array, "w s d"], penalty: float) -> tuple[Float[Array, "w d"], Float[Array, " w"]]:
    """Multinomial logistic regression on unit rows, `sum of cross-entropies + penalty |W|^2 / 2`, as scikit-learn's.

    Nesterov's method for strongly convex functions, with the bounds that unit rows give; it ends at the solution.
    """
    ways, shots, dim = support.shape
    x, y = support.reshape(-1, dim), jnp.repeat(jnp.arange(ways), shots)
    smooth = len(x) + penalty  # a row with its constant has norm sqrt(2), and softmax a curvature of at most 1/2
    root = math.sqrt(2 * smooth / penalty)  # the bias is free: it may undo half of the penalty's curvature
    momentum = (root - 1) / (root + 1)

    def loss(params: tuple[Array, Array]) -> Array:
        weight, bias = params
        logits = jnp.matmul(x, weight.T, precision="highest") + bias[None]
        cross_entropy = jnp.sum(optax.softmax_cross_entropy_with_integer_labels(logits, y))
        return cross_entropy + penalty * jnp.sum(weight**2) / 2

    def step(_, state):
        params, ahead = state
        new = jax.tree.map(lambda p, g: p - g / smooth, ahead, jax.grad(loss)(ahead))
        return new, jax.tree.map(lambda a, b: a + momentum * (a - b), new, params)

    start = (jnp.zeros((ways, dim), support.dtype), jnp.zeros((ways,), support.dtype))
    return jax.lax.fori_loop(0, math.ceil(20 * root), step, (start, start))[0]


def classify(
    support: Float[Array, "w s d"], query: Float[Array, "q d"], *, method: str, penalty: float = 1.0
) -> Int[Array, " q"]:
    """Class 0..w-1 of each query in one task; rows must be of norm 1."""
    if method == "logistic":
        weight, bias = _logistic(support, penalty)
        return jnp.argmax(jnp.matmul(query, weight.T, precision="highest") + bias[None], axis=1)
    mean = jnp.mean(support, axis=1)
    if method == "cosine":
        return jnp.argmax(jnp.matmul(query, l2_normalize(mean).T, precision="highest"), axis=1)
    score = jnp.matmul(query, mean.T, precision="highest") - jnp.sum(mean**2, axis=1)[None] / 2
    return jnp.argmax(score, axis=1)  # the nearest, see `neighbors.compare`


@functools.partial(jax.jit, static_argnames=("shots", "method", "penalty"))
def _accuracies(features, tasks, *, shots, method, penalty):
    """Accuracy of each task `[e]`."""

    def one(task):
        x = features[task]
        ways, queries = x.shape[0], x.shape[1] - shots
        query = x[:, shots:].reshape(-1, x.shape[-1])
        found = classify(x[:, :shots], query, method=method, penalty=penalty)
        return jnp.mean((found == jnp.repeat(jnp.arange(ways), queries)).astype(jnp.float32))

    return jax.vmap(one)(tasks)


def few_shot_accuracy(
    features: Float[np.ndarray, "n d"],
    labels: Int[np.ndarray, " n"],
    *,
    ways: int = 5,
    shots: int = 1,
    queries: int = 15,
    episodes: int = 2000,
    method: str = "centroid",
    center: Float[np.ndarray, " d"] | None = None,
    classes: Sequence[int] | None = None,
    penalty: float = 1.0,
    seed: int = 0,
) -> dict[str, float | int | str]:
    """Mean accuracy over random n-way k-shot tasks, with its 95 % confidence interval.

    Features are l2-normalised, then a task's queries are classified by its support:

    - "centroid": the nearest class mean, of features that were centred first (CL2N of SimpleShot, Wang et al., 2019);
    - "cosine": the class mean of the highest cosine, without centring (OBoW, `obow/fewshot.py`);
    - "logistic": logistic regression, without centring (Tian et al., ECCV 2020; scikit-learn's with `C = 1 / penalty`).

    Args:
      features: any scale, for example of the test images.
      labels: their classes.
      ways: classes of a task.
      shots: labelled examples of each class.
      queries: examples of each class to classify.
      episodes: tasks.
      method: see above.
      center: mean to subtract ("centroid"), in SimpleShot that of the base classes; None: that of `features`.
      classes: of which tasks are drawn, for example the ones not seen in pretraining; None: all.
      penalty: of "logistic".
      seed: of the tasks, which are the same for all features.

    Returns:
      `{"accuracy" 0..1, "confidence" (half the width of the interval, 1.96 std / sqrt(episodes)), "std", "ways",
      "shots", "queries", "episodes", "method"}`.

    Raises:
      UserError: too few classes or examples, an unknown method, numbers not above 0, or features that are not finite.
    """
    check_positive(ways=ways, shots=shots, queries=queries, episodes=episodes, penalty=penalty)
    check_features(features)
    check_labels(features, labels)
    if method not in METHODS:
        raise UserError(f"Unknown few-shot method {method!r}; choose one of {', '.join(METHODS)}.")
    tasks = draw_episodes(labels, ways=ways, size=shots + queries, episodes=episodes, classes=classes, seed=seed)
    x = np.asarray(features, np.float32)
    if method == "centroid":
        mean = np.mean(x, axis=0, dtype=np.float64) if center is None else center
        x = (x - mean).astype(np.float32)
    unit = l2_normalize(jnp.asarray(x))
    at_once = min(max(MAX_FEATURES // (ways * (shots + queries) * x.shape[1]), 1), episodes)
    padded = np.concatenate([tasks, np.repeat(tasks[-1:], -episodes % at_once, axis=0)])
    score = functools.partial(_accuracies, unit, shots=shots, method=method, penalty=penalty)
    parts = [np.asarray(score(padded[i : i + at_once])) for i in range(0, episodes, at_once)]
    found = np.concatenate(parts)[:episodes].astype(np.float64)
    std = float(np.std(found, ddof=1)) if episodes > 1 else 0.0
    return {
        "accuracy": float(np.mean(found)),
        "confidence": 1.96 * std / math.sqrt(episodes),
        "std": std,
        "ways": ways,
        "shots": shots,
        "queries": queries,
        "episodes": episodes,
        "method": method,
    }
