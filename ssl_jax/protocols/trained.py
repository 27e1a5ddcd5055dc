"""Protocols that train the network further with labels; the untrained one is trained from scratch on the same."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from ssl_jax import augment, evaluation
from ssl_jax import data as sources
from ssl_jax.core import UserError
from ssl_jax.evaluation.tuning import FINE_TUNING, FineTuning
from ssl_jax.nets import functional
from ssl_jax.protocols.frame import Row, Subject, Task, network_of, row, start_of
from ssl_jax.protocols.frozen import plural


def augmented(
    subject: Subject, task: Task, *, preset: str | None = None, epochs: int = 20, crop: float = 0.2, flip: float = 0.5
) -> list[Row]:
    """Linear probe on features of training images that are cropped and flipped anew in each epoch, as in the papers."""
    network = network_of(subject)

    @jax.jit
    def encode(image: jax.Array) -> jax.Array:
        return functional.encode(network.encoder, network.params, network.state, image, train=False)[0]

    found: dict[str, Any] = evaluation.linear_probe_augmented(
        encode,
        task.train,
        task.test,
        views=_crops(task, crop, flip),
        prepare=task.prepare,
        preset=preset,
        epochs=epochs,
        seed=task.seed,
    )
    return [row("linear, augmented", [found["accuracy"]], **{k: v for k, v in found.items() if k != "accuracy"})]


def semi(
    subject: Subject,
    task: Task,
    *,
    shares: Sequence[float] = (0.01, 0.1),
    names: str | None = None,
    trials: int = 3,
    preset: str | None = None,
) -> list[Row]:
    """Fine-tuning on 1 % and 10 % of the labels, or on those of a list of file names, over several draws."""
    settings: list[dict[str, Any]] = [{"names": names}] if names else [{"share": share} for share in shares]
    rows = []
    for setting in settings:
        found = _semi(subject, task, preset, trials, **setting)
        title = "the listed files" if names else f"{100 * setting['share']:g} % of the labels"
        rows.append(row(f"fine-tuned, {title}", found["accuracies"], labels=found["labels"], steps=found["steps"]))
    return rows


def curve(
    subject: Subject,
    task: Task,
    *,
    labels_per_class: Sequence[int] = (1, 3, 10, 30, 100, 300),
    trials: int = 3,
    preset: str | None = None,
) -> list[Row]:
    """Fine-tuning on so many labels of each class, over draws; more than the smallest class has are left out."""
    smallest = int(np.bincount(np.asarray(task.train.labels)).min())
    rows = []
    for count in (count for count in labels_per_class if count <= smallest):
        found = _semi(subject, task, preset, trials, per_class=count)
        title = f"fine-tuned, {plural(count, 'label')} per class"
        rows.append(row(title, found["accuracies"], labels_per_class=count, steps=found["steps"]))
    return rows


def finetune(
    subject: Subject,
    task: Task,
    *,
    preset: str | None = None,
    epochs: float | None = None,
    batch_size: int | None = None,
    head_rate: float | None = None,
    trunk_rate: float | None = None,
    layer_decay: float | None = None,
    mixup: float | None = None,
    cutmix: float | None = None,
    ema: float | None = None,
    trials: int = 1,
) -> list[Row]:
    """Fine-tuning on all labels; what is not set is the preset's, or for ten epochs that of a small encoder."""
    given: dict[str, Any] = {
        "epochs": epochs,
        "batch_size": batch_size,
        "head_rate": head_rate,
        "trunk_rate": trunk_rate,
        "layer_decay": layer_decay,
        "mixup": mixup,
        "cutmix": cutmix,
        "ema": ema,
    }
    changes: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    recipe = _recipe(preset, FineTuning(epochs=10.0, batch_size=256, head_rate=1e-3, frozen_statistics=False))
    recipe = dataclasses.replace(recipe, **changes)
    found = [
        evaluation.fine_tune(
            *start_of(subject),
            task.train,
            task.test,
            recipe=evaluation.from_scratch(recipe) if subject.untrained else recipe,
            prepare=task.prepare,
            seed=task.seed + trial,
        )
        for trial in range(trials)
    ]
    rows = [row("fine-tuned", [f.accuracy for f in found], steps=found[0].steps, **changes)]
    averaged = [f.ema_accuracy for f in found if f.ema_accuracy is not None]
    return rows + ([row("fine-tuned, averaged weights", averaged, **changes)] if averaged else [])


def transfer(
    subject: Subject, task: Task, *, data: Sequence[str] = ("digits",), protocols: Sequence[str] = ("linear",)
) -> list[Row]:
    """The same network on other data sets: linear probe on its features, or fine-tuning."""
    network = network_of(subject)
    load = functools.partial(sources.load, image_size=task.size, channels=task.channels)
    pairs = {name: (load(name, "train"), load(name, "test")) for name in data}  # all, before one is computed
    for name, pair in pairs.items():
        if any(source.labels is None for source in pair):
            raise UserError(f"{name} has no labels, so nothing can be transferred to it.")
    rows = []
    for name, found in zip(
        pairs,
        evaluation.transfer(
            network.encoder,
            network.params,
            network.state,
            list(pairs.values()),
            size=task.size,
            channels=task.channels,
            protocols=protocols,
            prepare=task.prepare,
            seed=task.seed,
        ),
        strict=True,
    ):
        if "error" in found:
            raise UserError(f"Transfer to {name}: {found['error']}")
        rows += [row(f"transfer to {name}, {protocol}", [found[protocol]["accuracy"]]) for protocol in protocols]
    return rows


def _semi(subject: Subject, task: Task, preset: str | None, trials: int, **setting: Any) -> dict[str, Any]:
    recipe = _recipe(preset, FineTuning())
    found = evaluation.semi_supervised(
        *start_of(subject),
        task.train,
        task.test,
        recipe=evaluation.from_scratch(recipe) if subject.untrained else recipe,
        beside_scratch=False,
        trials=trials,
        seed=task.seed,
        prepare=task.prepare,
        **setting,
    )
    return {**found["fine_tuned"], "labels": found["labels"]}


def _recipe(preset: str | None, default: FineTuning) -> FineTuning:
    if preset is None:
        return default
    if preset not in FINE_TUNING:
        raise UserError(f"Unknown preset {preset!r} for fine-tuning; there is {', '.join(FINE_TUNING)}.")
    return FINE_TUNING[preset]


def _crops(task: Task, crop: float, flip: float) -> Any:
    return augment.single(task.size, crop_scale=(crop, 1.0), flip=flip, **task.normalize)
