"""Protocols on frozen features: functions of two arrays and their labels, see `ssl_jax.evaluation`."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ssl_jax.evaluation import few_labels, knn_accuracy, linear_probe
from ssl_jax.protocols.frame import Row, Subject, Task, row


def knn(subject: Subject, task: Task, *, ks: Sequence[int] = (20,), temperature: float = 0.07) -> list[Row]:
    """Weighted k-nearest neighbours, for several `ks` at once; a k above the training images is all of them."""
    found = knn_accuracy(
        subject.features(task.train),
        task.train.labels,
        subject.features(task.test),
        task.test.labels,
        ks=sorted({min(k, len(task.train)) for k in ks}),
        temperature=temperature,
    )
    return [row(f"k-NN, k = {k}", [accuracy], k=k, temperature=temperature) for k, accuracy in found.items()]


def linear(
    subject: Subject, task: Task, *, labels_per_class: Sequence[int] = (1, 10, 100), trials: int = 5, epochs: int = 20
) -> list[Row]:
    """Linear probe on all labels, and on a few of each class; more of them than the smallest class has are left out."""
    train, test = subject.features(task.train), subject.features(task.test)
    labels = np.asarray(task.train.labels), np.asarray(task.test.labels)
    found = linear_probe(train, labels[0], test, labels[1], epochs=epochs, seed=task.seed)
    settings: dict[str, Any] = {name: value for name, value in found.items() if name != "accuracy"}
    rows = [row("linear", [found["accuracy"]], **settings)]
    smallest = int(np.bincount(labels[0]).min())
    for count in (count for count in labels_per_class if count <= smallest):
        accuracies = few_labels(train, labels[0], test, labels[1], per_class=count, trials=trials, seed=task.seed)
        rows.append(row(f"linear, {plural(count, 'label')} per class", accuracies, labels_per_class=count))
    return rows


def plural(count: int, noun: str) -> str:
    """`1 label`, `2 labels`."""
    return f"{count} {noun}{'' if count == 1 else 's'}"
