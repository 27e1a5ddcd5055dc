"""Linear probe: multinomial logistic regression on frozen features, all settings of a grid trained in one run."""

import functools
import itertools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from ssl_jax.checks import check_features, check_labels
from ssl_jax.core import UserError

RATES = (0.03, 0.1, 0.3)
PENALTIES = (0.0, 1e-3)
STRONG_PENALTIES = (*PENALTIES, 1e-2, 3e-2, 1e-1)  # what few rows need
# A wide grid, 50 settings, for features whose scale or number of classes is unlike what the short one was made for.
WIDE_RATES = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 0.6, 1.0, 3.0, 10.0)
WIDE_PENALTIES = (0.0, 1e-4, 1e-3, 1e-2, 1e-1)
ENOUGH_HELD_OUT = 1000  # rows to choose a setting on; where they are fewer, parts are held out in turn
BATCH_SIZE = 1024
MAX_STEPS = 2**11  # in one call
MAX_LOGITS = 2**26  # held at a time when classifiers are scored


def moments(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and scale (1 / deviation, 0 for constant features) of every feature, float32 `[d]`."""
    mean = features.mean(axis=0, dtype=np.float64)  # in float32, a constant column would not come out constant
    chunks = np.array_split(features, len(features) // 1024 + 1)
    std = np.sqrt(sum(((x - mean) ** 2).sum(axis=0) for x in chunks) / len(features))
    floor = max(1e-6 * float(std.max()), 1e-30)
    scale = np.where(std > floor, 1.0 / np.maximum(std, floor), 0.0).astype(np.float32)
    return mean.astype(np.float32), scale


def standardize(train: np.ndarray, *others: np.ndarray) -> list[np.ndarray]:
    """Shift and scale every feature by the training mean and deviation (constant features become 0), in float32."""
    mean, scale = moments(train)
    return [((x - mean) * scale).astype(np.float32) for x in (train, *others)]


@functools.partial(jax.jit, static_argnames=("momentum",))
def _steps(params, velocity, features, labels, order, factors, rates, penalties, *, momentum):
    """Some passes: `order [t b]` are the rows of each step and `factors [t]` the parts of the rate that it takes.

    `rates [s]` and `penalties [s]` are those of each setting.
    """
    settings, dim, classes = params["weight"].shape

    def loss(params, x, y):
        # One product for all settings: [b d] x [d, settings * classes]. Their losses add up and don't interact.
        weight = jnp.transpose(params["weight"], (1, 0, 2)).reshape(dim, -1)
        logits = (x @ weight).reshape(len(x), settings, classes) + params["bias"][None]
        target = jnp.broadcast_to(y[:, None], logits.shape[:2])
        cross_entropy = jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, target), axis=0)
        decay = penalties * jnp.sum(params["weight"] ** 2, axis=(1, 2)) / 2
        return jnp.sum(cross_entropy + decay), cross_entropy

    def step(carry, now):
        params, velocity = carry
        rows, factor = now
        rate = rates * factor
        grads, cross_entropy = jax.grad(loss, has_aux=True)(params, features[rows], labels[rows])
        velocity = jax.tree.map(lambda v, g: momentum * v + g, velocity, grads)
        params = {
            "weight": params["weight"] - rate[:, None, None] * velocity["weight"],
            "bias": params["bias"] - rate[:, None] * velocity["bias"],
        }
        return (params, velocity), cross_entropy

    return jax.lax.scan(step, (params, velocity), (order, factors))


def _order(n: int, batch_size: int, seed: tuple[int, int]) -> Int[np.ndarray, "t b"]:
    """Rows of each step of one pass; all in order if they are one step."""
    order = np.random.default_rng(seed).permutation(n) if batch_size < n else np.arange(n)
    return order[: n // batch_size * batch_size].reshape(-1, batch_size).astype(np.int32)


def fit_linear(
    features: Float[np.ndarray, "n d"],
    labels: Int[np.ndarray, " n"],
    settings: Sequence[tuple[float, float]],
    *,
    classes: int,
    epochs: int = 20,
    batch_size: int = BATCH_SIZE,
    momentum: float = 0.9,
    seed: int = 0,
    init: dict[str, Array] | None = None,
) -> tuple[dict[str, Array], Float[np.ndarray, "t s"]]:
    """Train linear classifiers by SGD with momentum and a cosine rate per epoch, one per setting, all in one run.

    Args:
      features: any scale, but the rates of `RATES` are meant for standardised ones.
      labels: 0..classes-1.
      settings: pairs of learning rate and penalty (weight decay, on the weights and not the bias).
      classes: number of classes.
      epochs: passes over the data; the rate of epoch e is `rate / 2 (1 + cos(pi e / epochs))`, as DINO's probe.
      batch_size: rows a step; of more than n, all rows in order are one step.
      momentum: heavy ball.
      seed: of the order of rows.
      init: weights to start from (zeros by default), `{"weight": [s d c], "bias": [s c]}`.

    Returns:
      The classifiers, stacked, and the cross-entropy before each of the t steps.
    """
    x, y = jnp.asarray(features, jnp.float32), jnp.asarray(labels)
    n, s = len(features), len(settings)
    rates, penalties = (jnp.asarray(column, jnp.float32) for column in zip(*settings, strict=True))
    params = init or {
        "weight": jnp.zeros((s, features.shape[1], classes), jnp.float32),
        "bias": jnp.zeros((s, classes), jnp.float32),
    }
    velocity = jax.tree.map(jnp.zeros_like, params)
    batch_size, losses = min(batch_size, n), []
    together = max(MAX_STEPS * batch_size // n, 1)  # passes over few rows are short
    for first in range(0, epochs, together):
        passes = range(first, min(first + together, epochs))
        orders = [_order(n, batch_size, (seed, epoch)) for epoch in passes]
        factors = [0.5 * (1 + np.cos(np.pi * epoch / epochs)) for epoch in passes]
        factor = np.repeat(np.asarray(factors, np.float32), len(orders[0]))
        order = jnp.asarray(np.concatenate(orders))
        (params, velocity), loss = _steps(
            params, velocity, x, y, order, jnp.asarray(factor), rates, penalties, momentum=momentum
        )
        losses.append(loss)
    return params, np.concatenate([np.asarray(loss) for loss in losses])


@jax.jit
def _scores(params, features, labels):
    """Accuracy and cross-entropy of each classifier."""
    logits = jnp.einsum("nd,sdc->nsc", features, params["weight"]) + params["bias"][None]
    labels = jnp.broadcast_to(labels[:, None], logits.shape[:2])
    hits = (jnp.argmax(logits, axis=-1) == labels).astype(jnp.float32)
    return jnp.mean(hits, axis=0), jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, labels), axis=0)


def score(
    params: dict[str, Array], features: np.ndarray, labels: Int[np.ndarray, " n"]
) -> tuple[Float[np.ndarray, " s"], Float[np.ndarray, " s"]]:
    """Accuracy (0..1) and mean cross-entropy of each of the stacked classifiers, in tiles of rows."""
    settings, _, classes = params["weight"].shape
    tile = max(MAX_LOGITS // (settings * classes), 1)
    parts = [slice(i, i + tile) for i in range(0, len(features), tile)]
    scores = [_scores(params, jnp.asarray(features[p], jnp.float32), jnp.asarray(labels[p])) for p in parts]
    share = [len(labels[p]) for p in parts]
    accuracy, cross_entropy = (np.average(np.stack(x), axis=0, weights=share) for x in zip(*scores, strict=True))
    return accuracy, cross_entropy


def accuracies(
    params: dict[str, Array], features: np.ndarray, labels: Int[np.ndarray, " n"]
) -> Float[np.ndarray, " s"]:
    """Accuracy (0..1) of each of the stacked classifiers."""
    return score(params, features, labels)[0]


def _fit_long_enough(features, labels, settings, *, epochs, **kwargs):
    """`fit_linear` with at least eight steps a pass, and as many passes as 800 full batches or 250 if that is less."""
    n = len(features)
    batch_size = min(BATCH_SIZE, max(n // 8, 1))
    epochs = max(epochs, min(800 * BATCH_SIZE // n, 250))
    return fit_linear(features, labels, settings, epochs=epochs, batch_size=batch_size, **kwargs)[0]


def check_settings(rates: Sequence[float], penalties: Sequence[float], held_out: float) -> None:
    """A sweep needs rates above 0, penalties of at least 0, and a share of the training set to choose on."""
    if not rates or not penalties or min(rates) <= 0 or min(penalties) < 0:
        raise UserError(
            f"A sweep needs rates above 0 and penalties of at least 0, but was given {rates} and {penalties}."
        )
    if not 0 < held_out < 1:
        raise UserError(f"`held_out` is the share of the training set to choose on, between 0 and 1, not {held_out}.")


def best_of(accuracy: Float[np.ndarray, " s"], cross_entropy: Float[np.ndarray, " s"]) -> int:
    """The most accurate setting; of equally accurate ones, the most certain. One that diverged comes last."""
    return int(np.lexsort((cross_entropy, -accuracy))[0])


def held_out_parts(n: int, held_out: float, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Pairs of rows to train on and to choose on: one, or of a small set up to five, each choosing on other rows."""
    order, size = np.random.default_rng(seed).permutation(n), max(int(n * held_out), 1)
    parts = min(math.ceil(ENOUGH_HELD_OUT / size), 5)
    size = max(size, min(ENOUGH_HELD_OUT, n) // parts)
    starts = range(0, min(parts, n // size) * size, size)
    return [(np.concatenate([order[:i], order[i + size :]]), order[i : i + size]) for i in starts]


def most_certain_of_the_best(
    accuracy: Float[np.ndarray, " s"], cross_entropy: Float[np.ndarray, " s"], rows: int
) -> int:
    """The most certain setting of those within a standard error of the most accurate one, as `rows` can tell."""
    best = float(np.max(accuracy))
    near = accuracy >= best - math.sqrt(best * (1 - best) / rows)
    return int(np.argmin(np.where(near, np.nan_to_num(cross_entropy, nan=np.inf), np.inf)))


def linear_probe(
    train: Float[np.ndarray, "n d"],
    labels: Int[np.ndarray, " n"],
    test: Float[np.ndarray, "m d"],
    test_labels: Int[np.ndarray, " m"],
    *,
    rates: Sequence[float] = RATES,
    penalties: Sequence[float] | None = None,
    held_out: float = 0.1,
    epochs: int = 20,
    seed: int = 0,
) -> dict[str, float]:
    """Accuracy of a linear classifier on frozen features; the test set is touched once.

    All pairs of rate and penalty are trained at once on nine tenths of the training set, the best on the rest is
    chosen, and trained again on all of it. The pairs share every step's rows in one product, so that 50 of them
    (`rates=WIDE_RATES, penalties=WIDE_PENALTIES`) take two to three times as long as one.

    Where a tenth is less than `ENOUGH_HELD_OUT` rows, up to five parts of the training set are held out in turn, for
    as many rows together (or all); of the settings within a standard error of the most accurate one the most certain
    is chosen.

    Differs from the papers' probes in that features are standardised and cached, and settings are chosen without the
    test set; for theirs see `linear_probe_preset`, for freshly augmented images `linear_probe_augmented`.

    Args:
      train: training features, any scale (they are standardised here).
      labels: their classes.
      test: test features.
      test_labels: their classes.
      rates: learning rates to choose from.
      penalties: weight decays to choose from; by default `PENALTIES`, or `STRONG_PENALTIES` for such a small set.
      held_out: share of the training set to choose on, 0..1.
      epochs: passes over the training set; more of them where it is so small that they are few steps.
      seed: of the split and the order.

    Returns:
      `{"accuracy", "rate", "penalty", "held_out_accuracy"}`, accuracies in 0..1.

    Raises:
      UserError: a feature is not finite, there are fewer than two training rows or no test rows, labels do not fit the
        features, or a setting is out of its range.
    """
    check_features(train, test)
    check_labels(train, labels)
    check_labels(test, test_labels)
    check_settings(rates, PENALTIES if penalties is None else penalties, held_out)
    if len(train) < 2:
        raise UserError("A linear probe needs at least two training examples, one of them to choose its settings on.")
    classes = int(max(labels.max(), test_labels.max())) + 1
    train, test = standardize(train, test)
    parts = held_out_parts(len(train), held_out, seed)
    if penalties is None:
        penalties = PENALTIES if len(parts) == 1 else STRONG_PENALTIES
    settings = list(itertools.product(rates, penalties))
    fit = functools.partial(_fit_long_enough, classes=classes, epochs=epochs, seed=seed)
    scores = [score(fit(train[a], labels[a], settings), train[b], labels[b]) for a, b in parts]
    held_out_accuracy, cross_entropy = (np.mean(figures, axis=0) for figures in zip(*scores, strict=True))
    if len(parts) == 1:
        best = best_of(held_out_accuracy, cross_entropy)
    else:
        best = most_certain_of_the_best(held_out_accuracy, cross_entropy, sum(len(b) for _, b in parts))
    params = fit(train, labels, settings[best : best + 1])
    rate, penalty = settings[best]
    accuracy = float(accuracies(params, test, test_labels)[0])
    return {
        "accuracy": accuracy,
        "rate": float(rate),
        "penalty": float(penalty),
        "held_out_accuracy": float(held_out_accuracy[best]),
    }
