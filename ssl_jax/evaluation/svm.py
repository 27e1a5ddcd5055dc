"""One-vs-rest linear SVMs on frozen features, and from k examples of each class (Goyal et al., ICCV 2019; VISSL)."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from ssl_jax.checks import check_features, check_positive
from ssl_jax.core import UserError
from ssl_jax.evaluation.few_labels import draw_labels
from ssl_jax.evaluation.precision import average_precision
from ssl_jax.evaluation.squared_hinge import fit_squared_hinge

COSTS = (*(2.0**-power for power in range(19, 3, -1)), 0.01, 0.1, 1.0, 10.0, 100.0)
POSITIVE_WEIGHT = 2.0  # of a class' own examples, as VISSL has it
IGNORE = -1

Targets = Int[np.ndarray, " n"] | Int[np.ndarray, "n c"]


def unit_rows(features: np.ndarray) -> np.ndarray:
    """Rows divided by their Euclidean norm + 1e-5, as VISSL does, in float32."""
    norm = np.linalg.norm(features, axis=1, keepdims=True)
    return (features / (norm + 1e-5)).astype(np.float32)


def _one_per_class(targets: np.ndarray, classes: int) -> Int[np.ndarray, "n c"]:
    """Targets 0, 1 or -1 for each class, from labels or as they are."""
    if targets.ndim == 2:
        if not np.isin(targets, (0, 1, IGNORE)).all():
            raise UserError(
                f"Targets of several classes are 1, 0 or -1 (ignore), but hold {np.unique(targets).tolist()[:6]}."
            )
        return targets
    return (targets[:, None] == np.arange(classes)[None]).astype(np.int32)


def _fit(x: np.ndarray, targets: np.ndarray, costs: np.ndarray, keep: np.ndarray, init: Any = None) -> Any:
    """Weights `[d+1 s]` of one problem per column of targets, on the rows that `keep [n s]` says."""
    sign = np.where(targets == 1, 1.0, -1.0).astype(np.float32)
    weight = costs[None] * np.where(targets == 1, POSITIVE_WEIGHT, 1.0) * (keep & (targets != IGNORE))
    init = jnp.zeros((x.shape[1] + 1, sign.shape[1]), jnp.float32) if init is None else init
    return fit_squared_hinge(jnp.asarray(x), jnp.asarray(sign), jnp.asarray(weight, jnp.float32), init)


def _scores(weight: Any, x: np.ndarray) -> Float[np.ndarray, "n s"]:
    weight = np.asarray(weight)
    return x @ weight[:-1] + weight[-1:]


def _precisions(scores: np.ndarray, targets: np.ndarray, keep: np.ndarray, method: str) -> list[float]:
    """Average precision of each class on the rows that count."""
    found = []
    for c in range(targets.shape[1]):
        rows = keep[:, c] & (targets[:, c] != IGNORE)
        if not (targets[rows, c] == 1).any():
            raise UserError(f"Class {c} has no positive example to score; leave the class out.")
        found.append(average_precision(scores[rows, c], targets[rows, c], method=method))
    return found


def fold_ids(targets: Targets, folds: int) -> Int[np.ndarray, "n c"] | Int[np.ndarray, "n 1"]:
    """Stratified folds as scikit-learn's `StratifiedKFold` without shuffling, one column per class or for all.

    Raises:
      UserError: a class has fewer examples than there are folds.
    """
    from sklearn.model_selection import StratifiedKFold  # heavy

    columns = targets if targets.ndim == 2 else targets[:, None]
    ids = np.zeros(columns.shape, np.int32)
    for c, column in enumerate(columns.T):
        used = np.flatnonzero(column != IGNORE)
        kinds, counts = np.unique(column[used], return_counts=True)
        if len(kinds) < 2 or counts.min() < folds:
            name = c if targets.ndim == 2 else kinds[counts.argmin()]
            raise UserError(
                f"Class {name} has {counts.min() if len(kinds) > 1 else 'no positive or no negative'} examples, too "
                f"few for {folds} folds; give one cost instead of several."
            )
        for fold, (_, rows) in enumerate(StratifiedKFold(folds).split(used, column[used])):
            ids[used[rows], c] = fold
    return ids


def cross_validate(
    x: Float[np.ndarray, "n d"], targets: Targets, *, costs: Sequence[float], folds: int = 3
) -> Float[np.ndarray, "k c"] | Float[np.ndarray, "k 1"]:
    """Mean over the folds for each cost: of every class' average precision ("step"), or with labels of the accuracy.

    All classes and folds are fitted at once, each cost from where the one below it ended.
    """
    ids = fold_ids(targets, folds)
    classes = targets.shape[1] if targets.ndim == 2 else int(targets.max()) + 1
    y = _one_per_class(targets, classes)
    ids = np.broadcast_to(ids, y.shape)
    wide = np.tile(y, (1, folds))  # a block of columns for each fold
    keep = np.concatenate([ids != fold for fold in range(folds)], axis=1)
    table, weight = {}, None
    for cost in sorted(set(costs)):
        weight = _fit(x, wide, np.full(wide.shape[1], cost), keep, weight)
        scores = np.split(_scores(weight, x), folds, axis=1)
        if targets.ndim == 2:
            found = [_precisions(s, y, ids == fold, "step") for fold, s in enumerate(scores)]
        else:
            hits = [np.argmax(s, axis=1)[ids[:, 0] == f] == targets[ids[:, 0] == f] for f, s in enumerate(scores)]
            found = [[float(h.mean())] for h in hits]
        table[cost] = np.mean(found, axis=0)
    return np.stack([table[cost] for cost in costs])


def _check(train, targets, test, test_targets, costs) -> None:
    check_features(train, test)
    check_positive(**{f"cost {i}": cost for i, cost in enumerate(costs)})
    if not len(costs):
        raise UserError("An SVM needs at least one cost.")
    if targets.ndim != test_targets.ndim or targets.shape[1:] != test_targets.shape[1:]:
        raise UserError(
            f"Train and test targets must be of one kind, labels [n] or classes [n, c], but have the shapes "
            f"{targets.shape} and {test_targets.shape}."
        )
    for features, given in ((train, targets), (test, test_targets)):
        if len(features) != len(given):
            raise UserError(f"There are {len(features)} rows of features but {len(given)} of targets.")
        if given.ndim == 1 and given.min() < 0:
            raise UserError(f"Classes are numbered from 0, but a label is {given.min()}; leave such rows out.")


def _score(weight, x, targets, *, method) -> dict[str, Any]:
    scores = _scores(weight, x)
    if targets.ndim == 1:
        return {"accuracy": float(np.mean(np.argmax(scores, axis=1) == targets))}
    found = _precisions(scores, targets, np.ones(targets.shape, bool), method)
    return {"map": float(np.mean(found)), "average_precision": found}


def linear_svm(
    train: Float[np.ndarray, "n d"],
    targets: Targets,
    test: Float[np.ndarray, "m d"],
    test_targets: Int[np.ndarray, " m"] | Int[np.ndarray, "m c"],
    *,
    costs: Sequence[float] = COSTS,
    folds: int = 3,
    method: str = "area",
) -> dict[str, Any]:
    """Linear one-vs-rest SVMs on l2-normalised features: mean average precision, or accuracy of single labels.

    VISSL's and OBoW's protocol for VOC07: squared hinge and l2 penalty, positives count twice, the cost of each class
    is the one of the highest average precision in cross-validation on the training set; with labels, one cost for all
    classes by accuracy. The test set is touched once. The problems are LIBLINEAR's (`LinearSVC`) and so are the
    solutions, but all classes and folds are solved together, which takes some ten arrays `[n, c folds]` in float32.
    Differs from VISSL in that examples to ignore do not train either (there they are negatives).

    Args:
      train: training features, any scale.
      targets: labels `[n]`, or for several classes an image `[n c]` of 1, 0 and -1 (ignore, VOC's "difficult").
      test: test features.
      test_targets: of the same kind.
      costs: to choose from; 2^-19..2^-4 (Goyal et al.) and powers of ten. Of one cost nothing is chosen.
      folds: of the cross-validation.
      method: of `average_precision` on the test set: "area" (VISSL) or "11-point" (VOC07's own).

    Returns:
      `{"map", "average_precision": [c], "costs": [c]}`, or `{"accuracy", "costs": [c]}`, all in 0..1.

    Raises:
      UserError: a class without positives or with fewer than folds, targets of other values or shapes, a cost not above
        0, an unknown method, or features that are not finite.
    """
    _check(train, targets, test, test_targets, costs)
    x, classes = unit_rows(train), _classes(targets, test_targets)
    chosen = np.full(classes, costs[0], np.float64)
    if len(costs) > 1:
        table = cross_validate(x, targets, costs=costs, folds=folds)
        chosen = np.broadcast_to(np.asarray(costs, np.float64)[np.argmax(table, axis=0)], (classes,))
    y = _one_per_class(targets, classes)
    weight = _fit(x, y, chosen, np.ones(y.shape, bool))
    return {**_score(weight, unit_rows(test), test_targets, method=method), "costs": chosen.tolist()}


def _classes(targets: np.ndarray, test_targets: np.ndarray) -> int:
    return targets.shape[1] if targets.ndim == 2 else int(max(targets.max(), test_targets.max())) + 1


def draw_shots(targets: Targets, *, shots: int, seed: int = 0, trial: int = 0) -> Int[np.ndarray, " r"]:
    """Rows with `shots` positives of each class; of several classes an image, the union of the classes' draws.

    Raises:
      UserError: a class has fewer positives.
    """
    if targets.ndim == 1:
        return draw_labels(targets, per_class=shots, seed=seed, trial=trial)
    counts = (targets == 1).sum(axis=0)
    if counts.min() < shots:
        short = int(counts.argmin())
        raise UserError(f"Class {short} has {counts[short]} positive examples, fewer than the {shots} asked for.")
    rng = np.random.default_rng((seed, shots, trial))
    rows = [rng.choice(np.flatnonzero(column == 1), shots, replace=False) for column in targets.T]
    return np.unique(np.concatenate(rows))


def low_shot_svm(
    train: Float[np.ndarray, "n d"],
    targets: Targets,
    test: Float[np.ndarray, "m d"],
    test_targets: Int[np.ndarray, " m"] | Int[np.ndarray, "m c"],
    *,
    shots: Sequence[int] = (1, 2, 4, 8, 16),
    trials: int = 5,
    cost: float = 1.0,
    method: str = "area",
    seed: int = 0,
) -> dict[int, dict[str, Any]]:
    """Linear SVMs from k positives of each class, for several k: mean and deviation over random draws.

    As `linear_svm`, with a fixed cost, since so few examples leave nothing to choose it on. Differs from VISSL, which
    reports the cost that is best on the test set, and draws the examples of each class by itself; here all classes
    learn from all rows that were drawn. Draws depend on (seed, k, trial) only: different features get the same ones.

    Args:
      train: training features, any scale.
      targets: see `linear_svm`.
      test: test features.
      test_targets: see `linear_svm`.
      shots: numbers k of positives of each class.
      trials: draws for each k.
      cost: of all classes.
      method: see `linear_svm`.
      seed: of the draws.

    Returns:
      `{k: {"metric": "map" or "accuracy", "mean", "std", "values": [trials]}}`, in 0..1; the deviation is that of a
      sample, or None of one trial.

    Raises:
      UserError: a class has fewer positives than k, or what `linear_svm` raises.
    """
    _check(train, targets, test, test_targets, (cost,))
    check_positive(trials=trials, shots=min(shots, default=None))
    x, u, classes = unit_rows(train), unit_rows(test), _classes(targets, test_targets)
    y, metric = _one_per_class(targets, classes), "map" if targets.ndim == 2 else "accuracy"
    results = {}
    for count in shots:
        drawn = [draw_shots(targets, shots=count, seed=seed, trial=trial) for trial in range(trials)]
        size, values = count * y.shape[1], []  # draws of several classes may overlap: all are filled up to one size
        for rows in drawn:
            padded = np.resize(rows, size)
            keep = np.broadcast_to((np.arange(size) < len(rows))[:, None], (size, classes))
            weight = _fit(x[padded], y[padded], np.full(classes, cost), keep)
            values.append(_score(weight, u, test_targets, method=method)[metric])
        std = float(np.std(values, ddof=1)) if trials > 1 else None
        results[count] = {"metric": metric, "mean": float(np.mean(values)), "std": std, "values": values}
    return results
