"""Linear classifiers from few labels: balanced random draws, so many labels of each class."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from ssl_jax.checks import check_features, check_labels, check_positive
from ssl_jax.core import UserError
from ssl_jax.evaluation.linear import accuracies, fit_linear, moments, standardize


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
      UserError: a class has fewer examples than `per_class`, labels do not fit the features, or a feature is not
        finite.
    """
    check_positive(per_class=per_class, trials=trials)
    check_features(train, test)
    check_labels(train, labels)
    check_labels(test, test_labels)
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
