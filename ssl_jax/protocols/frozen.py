"""Protocols on frozen features: functions of two arrays and their labels, see `ssl_jax.evaluation`."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ssl_jax import data as sources
from ssl_jax import evaluation
from ssl_jax.core import UserError
from ssl_jax.evaluation.linear import RATES, WIDE_PENALTIES, WIDE_RATES
from ssl_jax.protocols.frame import Row, Subject, Task, load_for, possible, row
from ssl_jax.protocols.pairs import two_views

LABELS = (1, 10, 100)
SHOTS = (1, 2, 4, 8, 16)
BOXED_SIDE = 64  # at least, of images with boxes, whose objects are small


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
    setting = {"temperature": temperature, **other}
    return [row(f"k-NN, k = {k}", [found[k]], labels=len(task.train), k=k, **setting) for k in found]


def linear(
    subject: Subject,
    task: Task,
    *,
    labels_per_class: Sequence[int] = LABELS,
    trials: int = 5,
    epochs: int | None = None,
    sweep: str = "narrow",
    preset: str | None = None,
) -> list[Row]:
    """Linear probe on all labels, with settings chosen from a sweep (or wide) or a paper's preset, and on few labels.

    Standard numbers of labels that are above those of the smallest class are left out. A preset is of all labels alone.
    """
    if preset is not None and (tuple(labels_per_class), trials, sweep) != (LABELS, 5, "narrow"):
        raise UserError(
            f"The preset {preset!r} of linear is for all labels and chooses nothing, so `labels_per_class`, `trials` "
            "and `sweep` do not go with it; leave them out, or evaluate once with the preset and once without."
        )
    train, test = subject.features(task.train), subject.features(task.test)
    y, test_y = np.asarray(task.train.labels), np.asarray(task.test.labels)
    sizes = np.bincount(y)
    few = possible(labels_per_class, int(sizes.min()), option="labels_per_class", default=LABELS)
    if preset is not None:
        found: dict[str, Any] = evaluation.linear_probe_preset(
            train, y, test, test_y, preset=preset, epochs=epochs, seed=task.seed
        )
        return [row(f"linear, {preset}'s preset", [found["accuracy"]], labels=len(y), **_settings(found))]
    grid = {"narrow": (RATES, None), "wide": (WIDE_RATES, WIDE_PENALTIES)}
    if sweep not in grid:
        raise UserError(f"`sweep` is narrow or wide, not {sweep!r}.")
    rates, penalties = grid[sweep]
    found = evaluation.linear_probe(
        train, y, test, test_y, rates=rates, penalties=penalties, epochs=epochs or 20, seed=task.seed
    )
    rows = [row("linear", [found["accuracy"]], labels=len(y), **_settings(found))]
    for count in few:
        accuracies = evaluation.few_labels(train, y, test, test_y, per_class=count, trials=trials, seed=task.seed)
        name, labels = f"linear, {plural(count, 'label')} per class", count * len(sizes)
        rows.append(row(name, accuracies, labels=labels, labels_per_class=count))
    return rows


def svm(
    subject: Subject,
    task: Task,
    *,
    shots: Sequence[int] = SHOTS,
    trials: int = 5,
    costs: Sequence[float] = (),
    data: str | None = None,
    train_split: str = "train",
    test_split: str = "test",
    precision: str = "area",
) -> list[Row]:
    """Linear support vector machines on all labels and on k of each class; of `data` with boxes (voc:PATH) by mAP.

    Costs are chosen by cross-validation on all labels. Standard numbers of shots above the smallest class are left out;
    no shots for the first alone. Which classes the objects of an image have is what is told of `data`, as in OBoW's and
    VISSL's evaluation on VOC07; its images are seen whole, their shorter side filled up. `precision` is "area" or
    "11-point".
    """
    options = {"data": data, "train_split": train_split, "test_split": test_split}
    train, test = boxed_sets(task, options) or (task.train, task.test)
    features, test_features = subject.features(train), subject.features(test)
    y, test_y = ((s.labels if data is None else evaluation.image_targets(s)) for s in (train, test))
    y, test_y, many = np.asarray(y), np.asarray(test_y), data is not None
    counts = (y == 1).sum(axis=0) if many else np.bincount(y)
    few = possible(shots, int(counts.min()), option="shots", default=SHOTS)
    given: dict[str, Any] = {"costs": tuple(costs)} if costs else {}
    found = evaluation.linear_svm(features, y, test_features, test_y, method=precision, **given)
    title, score = (f"SVM, {data}", "map") if many else ("SVM", "accuracy")
    metric = score if not many else "mAP" if precision == "area" else f"mAP ({precision})"
    rows = [row(title, [found[score]], metric=metric, labels=len(y), costs=found["costs"])]
    low = evaluation.low_shot_svm(
        features, y, test_features, test_y, shots=few, trials=trials, method=precision, seed=task.seed
    )
    for k in low:
        name, labels = f"{title}, {plural(k, 'shot')}", k * len(counts)
        rows.append(row(name, low[k]["values"], metric=metric, labels=labels, shots=k))
    return rows


def boxed_sets(task: Task, options: Mapping[str, Any]) -> list[sources.Source]:
    """Training and test images of the SVM's option `data`; none if it is the task's."""
    data, size = options["data"], max(task.size, BOXED_SIDE)
    splits = () if data is None else (options["train_split"], options["test_split"])
    return [load_for(task, data, split, image_size=size) for split in splits]


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
            ways=min(ways, len(np.unique(labels))),
            shots=k,
            queries=queries,
            episodes=episodes,
            method=method,
            seed=task.seed,
        )
        setting: dict[str, Any] = {"confidence": found["confidence"], "episodes": episodes, "method": method}
        name, support = f"{found['ways']}-way {k}-shot", found["ways"] * k
        rows.append(row(name, [found["accuracy"]], labels=support, **setting))
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
    labels = len(task.train)
    return [row("retrieval", [kinds[name]], metric=name.replace("map", "mAP"), labels=labels) for name in kinds]


def quality(subject: Subject, task: Task, *, sample: int = 10_000, pairs: int = 1000) -> list[Row]:
    """Figures that need no labels, to compare runs by: rank, spread and evenness of test images, alignment of crops."""
    one, other = two_views(task, pairs)
    found = evaluation.representation_quality(
        subject.features(task.test),
        (subject.features(one), subject.features(other)),
        sample=sample,
        seed=task.seed,
    )
    return [row("quality", [value], metric=name.replace("_", " "), share=False) for name, value in found.items()]


def plural(count: int, noun: str) -> str:
    """`1 label`, `2 labels`."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _settings(found: dict[str, Any]) -> dict[str, Any]:
    """What a probe tells besides its accuracy."""
    return {name: value for name, value in found.items() if name != "accuracy"}
