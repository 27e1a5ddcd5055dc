"""Evaluation of a run in a workdir: k-NN, linear probe and few labels, beside raw pixels and the untrained encoder."""

import functools
import pathlib
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from ssl_jax import augment, data, workdir
from ssl_jax.core import TrainState, UserError
from ssl_jax.evaluation import few_labels, knn_accuracy, linear_probe
from ssl_jax.experiment import Experiment, build, image_shape, load_data, lookup
from ssl_jax.training import initial_state

PROTOCOLS = ("knn", "linear")
MAX_RAW_SIDE = 64  # raw pixels of larger images are shrunk to this side


def config_of(record: dict[str, Any]) -> ConfigDict:
    """The config in a run's record; JSON's lists become tuples again."""

    def restore(value: Any) -> Any:
        if isinstance(value, dict):
            return ConfigDict({k: restore(v) for k, v in value.items()})
        return tuple(restore(v) for v in value) if isinstance(value, list) else value

    return restore(record["config"])


def load_run(directory: str | pathlib.Path, *, step: int | None = None) -> tuple[Experiment, TrainState, TrainState]:
    """Rebuild a run: `(experiment, trained state, state at step 0)`; `step` None is the newest checkpoint.

    Raises:
      UserError: no run, no checkpoint, or none of that step.
    """
    from ssl_jax.checkpoint import Checkpoints  # orbax is heavy

    directory = pathlib.Path(directory)
    experiment = build(config_of(workdir.read_run(directory)), directory=directory)
    none = UserError(f"There is no checkpoint in {directory / 'checkpoints'}: none is saved yet, or they are gone.")
    if not (directory / "checkpoints").is_dir():
        raise none
    initial = initial_state(
        experiment.method,
        experiment.source,
        tx=experiment.tx,
        views=experiment.views,
        seed=experiment.config.seed,
        mesh=experiment.mesh,
    )
    checkpoints = Checkpoints(directory / "checkpoints", read_only=True)
    try:
        steps = checkpoints.steps()
        if not steps:
            raise none
        trees, _ = checkpoints.restore(steps[-1] if step is None else step, {"state": initial})
    finally:
        checkpoints.close()
    return experiment, trees["state"], initial


def raw_pixels(source: data.Source) -> np.ndarray:
    """Pixels as features, `[n h*w*c]` in 0..1; images above 64 pixels are shrunk to that."""
    rows = []
    for batch in data.epoch(source, batch_size=1024):
        image = batch["image"]
        side = min(image.shape[1:3])
        if side > MAX_RAW_SIDE:
            pixels = np.asarray(augment.prepare(jax.numpy.asarray(image), size=MAX_RAW_SIDE))
        else:
            pixels = image.astype(np.float32) / 255
        rows.append(pixels.reshape(len(pixels), -1)[batch["valid"]])
    return np.concatenate(rows)


def measure(
    features: tuple[np.ndarray, np.ndarray],
    *,
    labels: tuple[np.ndarray, np.ndarray],
    protocols: Sequence[str],
    ks: Sequence[int],
    labels_per_class: Sequence[int],
    trials: int,
    seed: int,
) -> list[dict[str, Any]]:
    """Run the protocols on train and test features; one dict per figure, see `evaluate`."""
    (train, test), (y, test_y) = features, labels
    rows: list[dict[str, Any]] = []

    def add(protocol: str, accuracies: list[float], **setting: Any) -> None:
        spread = float(np.std(accuracies, ddof=1)) if len(accuracies) > 1 else None
        row = {"protocol": protocol, "setting": setting, "accuracy": float(np.mean(accuracies)), "std": spread}
        rows.append({**row, "trials": len(accuracies)})

    if "knn" in protocols:
        for k, accuracy in knn_accuracy(train, y, test, test_y, ks=ks).items():
            add(f"k-NN, k = {k}", [accuracy], k=k, temperature=0.07)
    if "linear" in protocols:
        found = linear_probe(train, y, test, test_y, seed=seed)
        add("linear", [found.pop("accuracy")], **found)
        for count in labels_per_class:
            accuracies = few_labels(train, y, test, test_y, per_class=count, trials=trials, seed=seed)
            name = f"linear, {count} label{'s' if count > 1 else ''} per class"
            add(name, accuracies, labels_per_class=count)
    return rows


def evaluate(
    directory: str | pathlib.Path,
    *,
    protocols: Sequence[str] = PROTOCOLS,
    encoder: str = "student",
    step: int | None = None,
    layer: str | None = None,
    ks: Sequence[int] = (20,),
    labels_per_class: Sequence[int] = (1, 10, 100),
    trials: int = 5,
    seed: int = 0,
    announce: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Evaluate a saved run on its test split and write `evaluation.json`.

    Args:
      directory: workdir of the run; its checkpoints are only read.
      protocols: of `PROTOCOLS`.
      encoder: "student" or "teacher".
      step: which checkpoint, the newest by default.
      layer: which feature map to use instead of the pooled features.
      ks: neighbours of k-NN.
      labels_per_class: few-label settings of the linear protocol; those above the smallest class are left out.
      trials: random draws of the labels per setting.
      seed: of splits and draws.
      announce: where messages go.

    Returns:
      The record that is written: `step`, `encoder`, `layer`, `data`, `protocols`, and `results`, a list of
      `{"features", "protocol", "setting", "accuracy" 0..1, "std", "trials"}` with the rows "this run",
      "random encoder" (the same network as initialised) and "raw pixels" for each protocol.

    Raises:
      UserError: no such run, step, encoder, layer or protocol, or no labels.
    """
    for protocol in protocols:
        lookup(dict.fromkeys(PROTOCOLS), protocol, "protocol")
    directory = pathlib.Path(directory)
    experiment, trained, initial = load_run(directory, step=step)
    train, test = experiment.source, load_data(experiment.config, experiment.config.test_split)
    if train.labels is None or test.labels is None:
        raise UserError(
            f"{experiment.config.data} has no labels, so there is nothing to score; `ssl-jax embed` writes its "
            "features, and for folders one sub-directory per class gives labels."
        )
    labels = (train.labels, test.labels)
    smallest = int(np.bincount(train.labels).min())
    counts = [count for count in labels_per_class if count <= smallest]
    score = functools.partial(
        measure,
        labels=labels,
        protocols=protocols,
        ks=[min(k, len(train)) for k in ks],
        labels_per_class=counts,
        trials=trials,
        seed=seed,
    )
    features_of = functools.partial(experiment.embed, encoder=encoder, layer=layer)

    results = []
    for name, features in (
        ("this run", functools.partial(features_of, trained)),
        ("random encoder", functools.partial(features_of, initial)),
        ("raw pixels", raw_pixels),
    ):
        began = time.perf_counter()
        results += [{"features": name, **row} for row in score((features(train), features(test)))]
        announce(f"{name}: {time.perf_counter() - began:.0f} s")
    record = {
        "step": int(trained.step),
        "encoder": encoder,
        "layer": layer,
        "data": {"train": repr(train), "test": repr(test), "fingerprint": [train.fingerprint, test.fingerprint]},
        "protocols": list(protocols),
        "seed": seed,
        "results": results,
    }
    workdir.write_json(directory / "evaluation.json", record)
    return record


def table(record: dict[str, Any]) -> str:
    """The results as lines of text: a row per protocol, a column per kind of features, in percent."""
    columns = list(dict.fromkeys(row["features"] for row in record["results"]))
    protocols = list(dict.fromkeys(row["protocol"] for row in record["results"]))
    cells = {(r["protocol"], r["features"]): r for r in record["results"]}

    def cell(protocol: str, column: str) -> str:
        row = cells[protocol, column]
        spread = "" if row["std"] is None else f" ± {100 * row['std']:.1f}"
        return f"{100 * row['accuracy']:.2f}{spread}"

    width = max(map(len, protocols))
    lines = [" " * width + "".join(f"{c:>18}" for c in columns)]
    lines += [f"{p:<{width}}" + "".join(f"{cell(p, c):>18}" for c in columns) for p in protocols]
    return "\n".join(lines)


def embed_data(
    directory: str | pathlib.Path,
    name: str,
    out: str | pathlib.Path,
    *,
    split: str = "train+test",
    encoder: str = "student",
    step: int | None = None,
    layer: str | None = None,
) -> tuple[int, int]:
    """Write the features of any images to an `.npz` file: `features [n d]`, `labels` and `names` where there are.

    Images are brought to the size and the number of channels that the run was trained on. Returns `(n, d)`.
    """
    experiment, state, _ = load_run(directory, step=step)
    height, width, channels = image_shape(experiment.source)
    source = data.load(name, split, image_size=min(height, width), channels=channels)
    features = experiment.embed(state, source, encoder=encoder, layer=layer)
    arrays: dict[str, Any] = {"features": features}
    if source.labels is not None:
        arrays |= {"labels": source.labels, "classes": np.asarray(source.classes)}
    if source.files is not None:
        arrays["names"] = source.files.astype(str)  # no objects: the file needs no pickle
    out = pathlib.Path(out)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with out.open("wb") as file:
            np.savez(file, **arrays)
    except OSError as error:
        raise UserError(f"The features can't be written to {out}: {error.strerror or error}.") from error
    return len(features), features.shape[1]
