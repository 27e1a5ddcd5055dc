"""Protocols that train the network further with labels; the untrained one is trained from scratch on the same."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from ssl_jax import augment, evaluation
from ssl_jax import data as sources
from ssl_jax.checks import check_positive
from ssl_jax.core import UserError
from ssl_jax.evaluation.trials import trial_seed
from ssl_jax.evaluation.tuning import FINE_TUNING, FineTuning
from ssl_jax.nets import functional
from ssl_jax.protocols.frame import Row, Subject, Task, load_for, network_of, possible, row, start_of
from ssl_jax.protocols.frozen import plural

LABELS = (1, 3, 10, 30, 100, 300)


def augmented(
    subject: Subject,
    task: Task,
    *,
    preset: str | None = None,
    epochs: int | None = None,
    crop: float = 0.2,
    flip: float = 0.5,
) -> list[Row]:
    """Linear probe on features of training images that are cropped and flipped anew in each epoch, as in the papers.

    Epochs are the preset's, or 20.
    """
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
    setting = {k: v for k, v in found.items() if k != "accuracy"}
    return [row("linear, augmented", [found["accuracy"]], labels=len(task.train), **setting)]


def semi(
    subject: Subject,
    task: Task,
    *,
    shares: Sequence[float] = (0.01, 0.1),
    names: str | None = None,
    trials: int = 3,
    preset: str | None = None,
    crop: float | None = None,
    flip: float = 0.5,
    scratch_rate: float | None = None,
) -> list[Row]:
    """Fine-tuning on 1 % and 10 % of the labels, or on those of a list of file names, over several draws.

    `crop` is the least share of an image in the crops that it learns from, which `flip` mirrors; None: whole images.
    `scratch_rate` is the learning rate from scratch; None: the optimizer's, see `evaluation.from_scratch`.
    """
    which: list[dict[str, Any]] = [{"names": names}] if names else [{"share": share} for share in shares]
    rows = []
    for chosen in which:
        found = _semi(subject, task, preset, trials, crop, flip, scratch_rate, **chosen)
        title = "the listed files" if names else f"{100 * chosen['share']:g} % of the labels"
        rows.append(row(f"fine-tuned, {title}", found["accuracies"], labels=found["labels"], steps=found["steps"]))
    return rows


def curve(
    subject: Subject,
    task: Task,
    *,
    labels_per_class: Sequence[int] = LABELS,
    trials: int = 3,
    preset: str | None = None,
    crop: float | None = None,
    flip: float = 0.5,
    scratch_rate: float | None = None,
) -> list[Row]:
    """Fine-tuning on so many labels of each class, over draws; standard ones above the smallest class are left out."""
    smallest, rows = int(np.bincount(np.asarray(task.train.labels)).min()), []
    for count in possible(labels_per_class, smallest, option="labels_per_class", default=LABELS):
        found = _semi(subject, task, preset, trials, crop, flip, scratch_rate, per_class=count)
        title, setting = f"fine-tuned, {plural(count, 'label')} per class", {"steps": found["steps"]}
        rows.append(row(title, found["accuracies"], labels=found["labels"], labels_per_class=count, **setting))
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
    crop: float | None = None,
    flip: float = 0.5,
    trials: int = 1,
    scratch_rate: float | None = None,
) -> list[Row]:
    """Fine-tuning on all labels; what is not set is the preset's, or for ten epochs that of a small encoder.

    `crop`, `flip` and `scratch_rate` as for semi.
    """
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
    recipe, views = dataclasses.replace(recipe, **changes), _crops(task, crop, flip)
    check_positive(trials=trials)
    found = [
        evaluation.fine_tune(
            *start_of(subject),
            task.train,
            task.test,
            recipe=evaluation.from_scratch(recipe, rate=scratch_rate) if subject.untrained else recipe,
            prepare=task.prepare,
            views=views,
            seed=trial_seed(task.seed, trial),
        )
        for trial in range(trials)
    ]
    changes |= {"labels": len(task.train), **({} if crop is None else {"crop": crop, "flip": flip})}
    rows = [row("fine-tuned", [f.accuracy for f in found], steps=found[0].steps, **changes)]
    averaged = [f.ema_accuracy for f in found if f.ema_accuracy is not None]
    return rows + ([row("fine-tuned, averaged weights", averaged, **changes)] if averaged else [])


def transfer(
    subject: Subject,
    task: Task,
    *,
    data: Sequence[str] = ("digits",),
    protocols: Sequence[str] = ("linear",),
    data_dir: str | None = None,
) -> list[Row]:
    """The same network on other data sets, in `data_dir`: linear probe on its features, or fine-tuning.

    For fine-tuning the untrained one is trained from scratch.
    """
    network, loaded = network_of(subject), iter(transfer_sets(task, {"data": data, "data_dir": data_dir}))
    pairs = dict(zip(data, zip(loaded, loaded, strict=True), strict=True))  # all, before one is computed
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
            scratch=evaluation.from_scratch(FineTuning()) if subject.untrained else None,
            prepare=task.prepare,
            seed=task.seed,
        ),
        strict=True,
    ):
        if "error" in found:
            raise UserError(f"Transfer to {name}: {found['error']}")
        labels = len(pairs[name][0])
        rows += [row(f"transfer to {name}, {p}", [found[p]["accuracy"]], labels=labels) for p in protocols]
    return rows


def transfer_sets(task: Task, options: Mapping[str, Any]) -> list[sources.Source]:
    """Training and test images of each of the option `data`, one after the other."""
    load = functools.partial(load_for, task, image_size=task.size, data_dir=options["data_dir"])
    return [load(name, split) for name in options["data"] for split in ("train", "test")]


def _semi(
    subject: Subject,
    task: Task,
    preset: str | None,
    trials: int,
    crop: float | None,
    flip: float,
    scratch_rate: float | None,
    **setting: Any,
) -> dict[str, Any]:
    recipe = _recipe(preset, FineTuning())
    found = evaluation.semi_supervised(
        *start_of(subject),
        task.train,
        task.test,
        recipe=evaluation.from_scratch(recipe, rate=scratch_rate) if subject.untrained else recipe,
        beside_scratch=False,
        trials=trials,
        seed=task.seed,
        prepare=task.prepare,
        views=_crops(task, crop, flip),
        **setting,
    )
    return {**found["fine_tuned"], "labels": found["labels"]}


def _recipe(preset: str | None, default: FineTuning) -> FineTuning:
    if preset is None:
        return default
    if preset not in FINE_TUNING:
        raise UserError(f"Unknown preset {preset!r} for fine-tuning; there is {', '.join(FINE_TUNING)}.")
    return FINE_TUNING[preset]


def _crops(task: Task, crop: float | None, flip: float) -> Any:
    if crop is None:
        return None
    if not 0.0 < crop <= 1.0:
        raise UserError(f"`crop` is the least share of an image in a crop, above 0 and at most 1, but is {crop}.")
    return augment.single(task.size, crop_scale=(crop, 1.0), flip=flip, **task.normalize)
