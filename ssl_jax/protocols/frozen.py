"""Protocols on frozen features: functions of two arrays and their labels, see `ssl_jax.evaluation`."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ssl_jax import evaluation
from ssl_jax.core import UserError
from ssl_jax.evaluation.linear import PENALTIES, RATES, WIDE_PENALTIES, WIDE_RATES
from ssl_jax.protocols.frame import Row, Subject, Task, row


def knn(
    subject: Subject,
    task: Task,
    *,
    ks: Sequence[int] = (20,),
    temperature: float = 0.07,
    metric: str = "cosine",
    votes: str = "weighted",
) -> list[Row]:
    """k-nearest neighbours, for several `ks` at once; a k above the number of training images is all of them."""
    found = evaluation.knn_accuracy(
        subject.features(task.train),
        task.train.labels,
        subject.features(task.test),
        task.test.labels,
        ks=sorted({min(k, len(task.train)) for k in ks}),
        temperature=temperature,
        metric=metric,
        votes=votes,
    )
    other: dict[str, Any] = {} if metric == "cosine" else {"metric": metric}
    other |= {} if votes == "weighted" else {"votes": votes}
    return [row(f"k-NN, k = {k}", [found[k]], **{"k": k, "temperature": temperature, **other}) for k in found]


def linear(
    subject: Subject,
    task: Task,
    *,
    labels_per_class: Sequence[int] = (1, 10, 100),
    trials: int = 5,
    epochs: int | None = None,
    sweep: str = "narrow",
    preset: str | None = None,
) -> list[Row]:
    """Linear probe on all labels, with settings chosen from a sweep (or wide) or a paper's preset, and on few labels.

    Numbers of labels above those of the smallest class are left out.
    """
    train, test = subject.features(task.train), subject.features(task.test)
    y, test_y = np.asarray(task.train.labels), np.asarray(task.test.labels)
    if preset is not None:
        found: dict[str, Any] = evaluation.linear_probe_preset(
            train, y, test, test_y, preset=preset, epochs=epochs, seed=task.seed
        )
        return [row(f"linear, {preset}'s preset", [found["accuracy"]], **_settings(found))]
    grid = {"narrow": (RATES, PENALTIES), "wide": (WIDE_RATES, WIDE_PENALTIES)}
    if sweep not in grid:
        raise UserError(f"`sweep` is narrow or wide, not {sweep!r}.")
    rates, penalties = grid[sweep]
    found = evaluation.linear_probe(
        train, y, test, test_y, rates=rates, penalties=penalties, epochs=epochs or 20, seed=task.seed
    )
    rows = [row("linear", [found["accuracy"]], **_settings(found))]
    smallest = int(np.bincount(y).min())
    for count in (count for count in labels_per_class if count <= smallest):
        accuracies = evaluation.few_labels(train, y, test, test_y, per_class=count, trials=trials, seed=task.seed)
        rows.append(row(f"linear, {plural(count, 'label')} per class", accuracies, labels_per_class=count))
    return rows


def svm(
    subject: Subject,
    task: Task,
    *,
    shots: Sequence[int] = (1, 2, 4, 8, 16),
    trials: int = 5,
    costs: Sequence[float] = (),
) -> list[Row]:
    """Linear support vector machines: on all labels with costs chosen by cross-validation, and on k of each class.

    Numbers of shots above the smallest class are left out; no shots for the first alone.
    """
    train, test = subject.features(task.train), subject.features(task.test)
    y, test_y = np.asarray(task.train.labels), np.asarray(task.test.labels)
    given: dict[str, Any] = {"costs": tuple(costs)} if costs else {}
    found = evaluation.linear_svm(train, y, test, test_y, **given)
    rows = [row("SVM", [found["accuracy"]], costs=found["costs"])]
    possible = [k for k in shots if k <= np.bincount(y).min()]
    low = evaluation.low_shot_svm(train, y, test, test_y, shots=possible, trials=trials, seed=task.seed)
    return rows + [row(f"SVM, {plural(k, 'shot')}", low[k]["values"], shots=k) for k in low]


def fewshot(
    subject: Subject,
    task: Task,
    *,
    ways: int = 5,
    shots: Sequence[int] = (1, 5),
    queries: int = 15,
    episodes: int = 2000,
    method: str = "centroid",
) -> list[Row]:
    """Random n-way k-shot tasks among the test images, with the 95 % confidence interval of their mean."""
    features, labels = subject.features(task.test), np.asarray(task.test.labels)
    rows = []
    for k in shots:
        found: dict[str, Any] = evaluation.few_shot_accuracy(
            features,
            labels,
            ways=min(ways, int(labels.max()) + 1),
            shots=k,
            queries=queries,
            episodes=episodes,
            method=method,
            seed=task.seed,
        )
        name = f"{found['ways']}-way {k}-shot"
        rows.append(row(name, [found["accuracy"]], confidence=found["confidence"], episodes=episodes, method=method))
    return rows


def retrieval(subject: Subject, task: Task, *, ks: Sequence[int] = (1, 5, 10), metric: str = "cosine") -> list[Row]:
    """Test images as queries among the training images: mean average precision, R-precision and recall at k."""
    found = evaluation.retrieval_scores(
        subject.features(task.test),
        np.asarray(task.test.labels),
        subject.features(task.train),
        np.asarray(task.train.labels),
        ks=ks,
        metric=metric,
    )
    kinds = {name: value for name, value in found.items() if name != "queries"}
    return [row("retrieval", [value], metric=name.replace("map", "mAP")) for name, value in kinds.items()]


def quality(subject: Subject, task: Task, *, sample: int = 10_000) -> list[Row]:
    """Figures that need no labels, to compare runs by: rank, spread and evenness of the test images' features."""
    found = evaluation.representation_quality(subject.features(task.test), sample=sample, seed=task.seed)
    return [row("quality", [value], metric=name.replace("_", " "), share=False) for name, value in found.items()]


def plural(count: int, noun: str) -> str:
    """`1 label`, `2 labels`."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _settings(found: dict[str, Any]) -> dict[str, Any]:
    """What a probe tells besides its accuracy."""
    return {name: value for name, value in found.items() if name != "accuracy"}
