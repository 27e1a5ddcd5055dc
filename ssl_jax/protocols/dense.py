"""Protocols on feature maps: detection and segmentation, on images whose objects are known."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax import augment, evaluation
from ssl_jax import data as sources
from ssl_jax.checks import check_positive
from ssl_jax.evaluation.trials import trial_seed
from ssl_jax.protocols.frame import Row, Subject, Task, load_for, network_of, row, start_of

Stats = tuple[float, ...] | None
SCORES = ("AP", "AP50", "AP75", "VOC07")


def detection(
    subject: Subject,
    task: Task,
    *,
    data: str = "collage:fashion_mnist",
    train_split: str = "train",
    test_split: str = "test",
    steps: int = 500,
    batch_size: int = 32,
    learning_rate: float = 1e-3,
    maps: Sequence[str] = (),
    frozen: bool = False,
    image_size: int | None = None,
    trials: int = 1,
) -> list[Row]:
    """A detector on the network, trained and scored on images with boxes; beside it the same from scratch.

    `image_size` brings images of several sizes to one, as those of VOC and COCO are; `frozen` keeps the trunk as it is.
    """
    check_positive(trials=trials)
    options = {"data": data, "train_split": train_split, "test_split": test_split, "image_size": image_size}
    train, test = boxed_sets(task, options)
    settings: dict[str, Any] = {"maps": tuple(maps)} if maps else {}
    found = [
        evaluation.detection_scores(
            *start_of(subject),
            train,
            test,
            steps=steps,
            batch_size=batch_size,
            learning_rate=learning_rate,
            prepare=functools.partial(_prepare, **task.normalize),
            frozen=frozen,
            seed=trial_seed(task.seed, trial),
            **settings,
        )
        for trial in range(trials)
    ]
    setting: dict[str, Any] = {"labels": len(train), "steps": steps, **({"frozen": True} if frozen else {})}
    return [row(f"detection, {data}", [f[name] for f in found], metric=name, **setting) for name in SCORES]


def segmentation(
    subject: Subject,
    task: Task,
    *,
    data: str = "collage:fashion_mnist",
    train_split: str = "train",
    test_split: str = "test",
    layer: str | None = None,
    image_size: int | None = None,
) -> list[Row]:
    """Linear and k-NN segmentation on a frozen feature map, the last unless `layer` names another."""
    network = network_of(subject)
    options = {"data": data, "train_split": train_split, "test_split": test_split, "image_size": image_size}
    train, test = boxed_sets(task, options)
    found = evaluation.segmentation_scores(
        network.encoder,
        network.params,
        network.state,
        train,
        test,
        layer=layer,
        prepare=functools.partial(_prepare, **task.normalize),
        seed=task.seed,
    )
    kinds = {"linear": "linear segmentation", "knn": "k-NN segmentation"}
    return [
        row(f"{title}, {data}", [found[f"{kind}_{score}"]], metric=metric, labels=len(train), layer=layer)
        for kind, title in kinds.items()
        for score, metric in (("miou", "mIoU"), ("accuracy", "pixel accuracy"))
    ]


def boxed_sets(task: Task, options: Mapping[str, Any]) -> list[sources.Source]:
    """Training and test images of the options `data`, `train_split`, `test_split` and `image_size`."""
    name, size = options["data"], options["image_size"]
    return [load_for(task, name, options[split], image_size=size) for split in ("train_split", "test_split")]


def _prepare(image: jax.Array, *, mean: Stats = None, std: Stats = None) -> jax.Array:
    """Normalised as in pretraining, at the images' own size, which need not be square."""
    x = image.astype(jnp.float32) * np.float32(1 / 255)
    return x if mean is None or std is None else augment.normalize(x, mean, std)
