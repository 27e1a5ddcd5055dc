"""Linear probe: multinomial logistic regression on frozen features, all settings of a grid trained in one run."""

import functools
import itertools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from ssl_jax.checks import check_features, check_positive
from ssl_jax.core import UserError

RATES = (0.03, 0.1, 0.3)
PENALTIES = (0.0, 1e-3)
BATCH_SIZE = 1024


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
def _epoch(params, velocity, features, labels, order, rates, penalties, *, momentum):
    """One pass; `order [steps b]` are the rows of each step, `rates [s]` and `penalties [s]` those of each setting."""
    settings, dim, classes = params["weight"].shape

    def loss(params, x, y):
        # One product for all settings: [b d] x [d, settings * classes]. Their losses add up and don't interact.
        weight = jnp.transpose(params["weight"], (1, 0, 2)).reshape(dim, -1)
        logits = (x @ weight).reshape(len(x), settings, classes) + params["bias"][None]
        target = jnp.broadcast_to(y[:, None], logits.shape[:2])
        cross_entropy = jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, target), axis=0)
        decay = penalties * jnp.sum(params["weight"] ** 2, axis=(1, 2)) / 2
        return jnp.sum(cross_entropy + decay), cross_entropy

    def step(carry, rows):
        params, velocity = carry
        grads, cross_entropy = jax.grad(loss, has_aux=True)(params, features[rows], labels[rows])
        velocity = jax.tree.map(lambda v, g: momentum * v + g, velocity, grads)
        params = {
            "weight": params["weight"] - rates[:, None, None] * velocity["weight"],
            "bias": params["bias"] - rates[:, None] * velocity["bias"],
        }
        return (params, velocity), cross_entropy

    return jax.lax.scan(step, (params, velocity), order)


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
    for epoch in range(epochs):
        order = np.random.default_rng((seed, epoch)).permutation(n) if batch_size < n else np.arange(n)
        order = order[: n // batch_size * batch_size].reshape(-1, batch_size).astype(np.int32)
        factor = 0.5 * (1 + np.cos(np.pi * epoch / epochs))
        (params, velocity), loss = _epoch(
            params, velocity, x, y, jnp.asarray(order), rates * factor, penalties, momentum=momentum
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


def accuracies(
    params: dict[str, Array], features: np.ndarray, labels: Int[np.ndarray, " n"]
) -> Float[np.ndarray, " s"]:
    """Accuracy (0..1) of each of the stacked classifiers."""
    return np.asarray(_scores(params, jnp.asarray(features, jnp.float32), jnp.asarray(labels))[0])


def _fit_long_enough(features, labels, settings, *, epochs, **kwargs):
    """`fit_linear` with at least eight steps a pass, and as many passes as 800 full batches or 250 if that is less."""
    n = len(features)
    batch_size = min(BATCH_SIZE, max(n // 8, 1))
    epochs = max(epochs, min(800 * BATCH_SIZE // n, 250))
    return fit_linear(features, labels, settings, epochs=epochs, batch_size=batch_size, **kwargs)[0]


def linear_probe(
    train: Float[np.ndarray, "n d"],
    labels: Int[np.ndarray, " n"],
    test: Float[np.ndarray, "m d"],
    test_labels: Int[np.ndarray, " m"],
    *,
    rates: Sequence[float] = RATES,
    penalties: Sequence[float] = PENALTIES,
    held_out: float = 0.1,
    epochs: int = 20,
    seed: int = 0,
) -> dict[str, float]:
    """Accuracy of a linear classifier on frozen features; the test set is touched once.

    All pairs of rate and penalty are trained at once on nine tenths of the training set, the best on the rest is
    chosen, and trained again on all of it.

    Args:
      train: training features, any scale (they are standardised here).
      labels: their classes.
      test: test features.
      test_labels: their classes.
      rates: learning rates to choose from.
      penalties: weight decays to choose from.
      held_out: share of the training set to choose on, 0..1.
      epochs: passes over the training set; more of them where it is so small that they are few steps.
      seed: of the split and the order.

    Returns:
      `{"accuracy", "rate", "penalty", "held_out_accuracy"}`, accuracies in 0..1.

    Raises:
      UserError: a feature is not finite, or there are fewer than two training rows or no test rows.
    """
    check_features(train, test)
    if len(train) < 2:
        raise UserError("A linear probe needs at least two training examples, one of them to choose its settings on.")
    classes = int(max(labels.max(), test_labels.max())) + 1
    train, test = standardize(train, test)
    settings = list(itertools.product(rates, penalties))
    order = np.random.default_rng(seed).permutation(len(train))
    cut = max(int(len(train) * held_out), 1)
    chosen, rest = order[:cut], order[cut:]
    fit = functools.partial(_fit_long_enough, classes=classes, epochs=epochs, seed=seed)
    params = fit(train[rest], labels[rest], settings)
    held_out_accuracy, cross_entropy = (np.asarray(x) for x in _scores(params, train[chosen], labels[chosen]))
    best = int(np.lexsort((cross_entropy, -held_out_accuracy))[0])  # of equal accuracies, the most certain
    params = fit(train, labels, settings[best : best + 1])
    rate, penalty = settings[best]
    accuracy = float(accuracies(params, test, test_labels)[0])
    return {"accuracy": accuracy, "rate": rate, "penalty": penalty, "held_out_accuracy": float(held_out_accuracy[best])}


def draw_labels(labels: Int[np.ndarray, " n"], *, per_class: int, seed: int = 0, trial: int = 0) -> np.ndarray:
    """Rows of `per_class` random examples of each class; a function of (seed, per_class, trial) and the labels.

    Raises:
      UserError: a class has fewer examples.
    """
    check_positive(per_class=per_class)
    counts = np.bincount(labels)
    if counts.min() < per_class:
        short = int(counts.argmin())
        raise UserError(f"Class {short} has {counts[short]} training examples, fewer than the {per_class} asked for.")
    rng = np.random.default_rng((seed, per_class, trial))
    rows = [rng.choice(np.flatnonzero(labels == c), per_class, replace=False) for c in range(len(counts))]
    return np.concatenate(rows)


def few_label_head(
    features: Float[np.ndarray, "n d"],
    labels: Int[np.ndarray, " n"],
    unlabelled: Float[np.ndarray, "m d"],
    *,
    rate: float = 0.1,
    penalty: float = 0.1,
    steps: int = 100,
) -> dict[str, Float[np.ndarray, "..."]]:
    """A linear classifier from few labels, `{"kernel": [d c], "bias": [c]}` for features as they are.

    It is the one that `few_labels` scores; `unlabelled` features are what they are standardised by.
    """
    check_features(features, unlabelled)
    mean, scale = moments(unlabelled)
    classes = int(labels.max()) + 1
    x = ((features - mean) * scale).astype(np.float32)
    params, _ = fit_linear(x, labels, [(rate, penalty)], classes=classes, epochs=steps, batch_size=len(x))
    kernel = np.asarray(params["weight"][0]) * scale[:, None]
    return {"kernel": kernel, "bias": np.asarray(params["bias"][0]) - mean @ kernel}


def few_labels(
    train: Float[np.ndarray, "n d"],
    labels: Int[np.ndarray, " n"],
    test: Float[np.ndarray, "m d"],
    test_labels: Int[np.ndarray, " m"],
    *,
    per_class: int,
    trials: int = 5,
    rate: float = 0.1,
    penalty: float = 0.1,
    steps: int = 100,
    seed: int = 0,
) -> list[float]:
    """Accuracies of a linear classifier on `per_class` labels of each class, one per random draw of the labels.

    Features are standardised by the whole training set, which needs no labels; rate and penalty are fixed, since so
    few labels leave nothing to choose them on. Draws depend on (seed, per_class, trial) only, so that different
    features are compared on the same labels.

    Raises:
      UserError: a class has fewer examples than `per_class`, or a feature is not finite.
    """
    check_positive(per_class=per_class, trials=trials)
    check_features(train, test)
    drawn = [draw_labels(labels, per_class=per_class, seed=seed, trial=trial) for trial in range(trials)]
    train, test = standardize(train, test)
    stacked, classes = [], int(labels.max()) + 1
    for index in drawn:
        params, _ = fit_linear(
            train[index], labels[index], [(rate, penalty)], classes=classes, epochs=steps, batch_size=len(index)
        )
        stacked.append(params)
    params = jax.tree.map(lambda *rows: jnp.concatenate(rows), *stacked)
    return [float(a) for a in accuracies(params, test, test_labels)]
