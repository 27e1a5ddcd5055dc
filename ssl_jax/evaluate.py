"""Evaluation of a run in a workdir by any protocols, beside raw pixels and the untrained encoder."""

import functools
import itertools
import pathlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from ssl_jax import augment, data, own_encoder, shortage, workdir
from ssl_jax.core import TrainState, UserError
from ssl_jax.data import splits
from ssl_jax.evaluation import layer_names, teacher_of
from ssl_jax.evaluation.features import POOLED
from ssl_jax.evaluation.pretrained import check_same
from ssl_jax.experiment import (
    Experiment,
    build,
    build_encoder,
    image_shape,
    load_data,
    lookup,
    normalization,
)
from ssl_jax.nets import functional
from ssl_jax.protocols import PROTOCOLS, Network, Subject, Task
from ssl_jax.results import Record
from ssl_jax.training import initial_state

MAX_RAW_SIDE = 64  # raw pixels of larger images are shrunk to this side


def config_of(record: dict[str, Any]) -> ConfigDict:
    """The config in a run's record; JSON's lists become tuples again.

    Raises:
      UserError: its encoder is the user's own, and not known here (see `own_encoder`).
    """
    own_encoder.check_known(record)

    def restore(value: Any) -> Any:
        if isinstance(value, dict):
            return ConfigDict({k: restore(v) for k, v in value.items()})
        return tuple(restore(v) for v in value) if isinstance(value, list) else value

    return restore(record["config"])


def load_run(directory: str | pathlib.Path, *, step: int | None = None) -> tuple[Experiment, TrainState, TrainState]:
    """Rebuild a run: `(experiment, trained state, random state)`; `step` None is the newest checkpoint.

    The second state is the run's at step 0, with a random encoder also where the run began with weights of others.

    Every device has the whole state, wherever the run kept it.

    Raises:
      UserError: no run, no checkpoint, or none of that step.
    """
    from ssl_jax.checkpoint import Checkpoints  # orbax is heavy

    directory = pathlib.Path(directory)
    config = config_of(workdir.read_run(directory))
    config.update(sharding="replicated", sharding_rules=(), model_parallel=1, weights=None)
    experiment = build(config, directory=directory)
    none = UserError(f"There is no checkpoint in {directory / 'checkpoints'}: none is saved yet, or they are gone.")
    if not (directory / "checkpoints").is_dir():
        raise none
    initial = initial_state(experiment.method, experiment.source, **experiment.parts)
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


def subject_of(
    experiment: Experiment, state: TrainState, name: str, *, encoder: str = "student", layer: str | None = None
) -> Subject:
    """What protocols look at: features of a state, each source's made once, and the network behind them."""
    kept: dict[str, np.ndarray] = {}

    def features(source: data.Source) -> np.ndarray:
        if source.fingerprint not in kept:
            kept[source.fingerprint] = experiment.embed(state, source, encoder=encoder, layer=layer)
        return kept[source.fingerprint]

    network = functools.partial(network_of, experiment, state, encoder)
    return Subject(name=name, features=features, network=network, untrained=not int(state.step))


def network_of(experiment: Experiment, state: TrainState, encoder: str = "student") -> Network:
    """The encoder alone, without the heads that its method trains it with.

    What it gives for an image is what `Method.encode` gives, since it is the method's own module where that is not the
    config's encoder on the image.

    Raises:
      UserError: the method keeps no teacher, or one of another architecture.
    """
    if encoder not in ("student", "teacher"):
        raise UserError(f"The encoder to use is 'student' or 'teacher', not {encoder!r}.")
    params, carry = state.params, state.carry
    if encoder == "teacher":
        params, carry = teacher_of(params, carry)
    module = experiment.method.module or build_encoder(experiment.config)
    image = jax.eval_shape(experiment.prepare, jax.ShapeDtypeStruct((1, *image_shape(experiment.source)), np.uint8))
    expected, statistics = jax.eval_shape(lambda x: functional.init(module, jax.random.key(0), x), image)
    own = {name: x for name, x in params["encoder"].items() if name in expected}  # less what only the loss reads
    check_same(own, expected, "parameters")
    check_same(carry.model_state["encoder"], statistics, "batch statistics")
    return Network(encoder=module, params=own, state=carry.model_state["encoder"])


def raw_subject() -> Subject:
    """Raw pixels, see `raw_pixels`."""
    kept: dict[str, np.ndarray] = {}

    def features(source: data.Source) -> np.ndarray:
        if source.fingerprint not in kept:
            kept[source.fingerprint] = raw_pixels(source)
        return kept[source.fingerprint]

    return Subject(name="raw pixels", features=features)


def check_apart(config: ConfigDict) -> None:
    """Raise a `UserError` if the splits to train on and to test on share images: a figure would be no test."""
    for one, other in itertools.product(*map(splits.parse, (config.train_split, config.test_split))):
        sliced = [part.start or part.stop for part in (one, other)]
        if one.name != other.name or ((one.ids or other.ids) and one != other):
            continue  # what is listed in a file is taken at its word
        if all(sliced):
            n = len(load_data(config, one.name))
            (a, b), (c, d) = (splits.span(n, part.start, part.stop, part.name) for part in (one, other))
            if max(a, c) >= min(b, d):
                continue
        raise UserError(
            f"The run was trained on {config.train_split} of {config.data}, which has images of {config.test_split}, "
            "the split to test on, so that its figures would be no test; choose others by --config.train_split and "
            "--config.test_split when you pretrain."
        )


def task_of(experiment: Experiment, *, seed: int) -> Task:
    """The run's training and test images."""
    config, train = experiment.config, experiment.source
    return Task(
        train=train,
        test=load_data(config, config.test_split),
        seed=seed,
        prepare=experiment.prepare,
        normalize=normalization(config.normalize, train),
        size=config.view_size or min(image_shape(train)[:2]),
        channels=image_shape(train)[2],
    )


def evaluate(
    directory: str | pathlib.Path,
    *,
    protocols: Sequence[str] = ("knn", "linear"),
    options: Mapping[str, Mapping[str, Any]] | None = None,
    encoder: str = "student",
    step: int | None = None,
    layers: Sequence[str | None] = (None,),
    seed: int = 0,
    announce: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Evaluate a saved run on its test split; the record grows in `evaluation.json`.

    What is there already, of the same step and settings, is not computed again; each result is written as soon as it
    is there.

    Args:
      directory: workdir of the run; its checkpoints are only read.
      protocols: names in `protocols.PROTOCOLS`.
      options: keyword arguments by protocol, for example `{"knn": {"ks": (5, 20)}}`.
      encoder: "student" or "teacher".
      step: which checkpoint, the newest by default.
      layers: which features to use, see `evaluation.select`: None is the pooled ones, "all" stands for every layer.
      seed: of splits and draws.
      announce: where messages go.

    Returns:
      The record: `step`, `encoder`, `layers`, `seed`, `protocols` and `options` of this call, `data`, the run's
      `config`, and `results`, a list of `{"features", "protocol", "metric", "value", "std", "trials", "labels",
      "setting", "of"}` with the rows "this run", "random encoder" (the same network as initialised) and "raw pixels"
      for each protocol; `labels` is how many labelled images it took, `of` says what the row is of. Results of other
      calls on the same data stay in it.

    Raises:
      UserError: no such run, step, encoder, layer, protocol or option, no labels for a protocol that needs them, test
        images among those trained on, or too little memory on the accelerator.
    """
    if not protocols:
        raise UserError(f"No protocol is named; there is {', '.join(PROTOCOLS)}.")
    chosen = {name: lookup(PROTOCOLS, name, "protocol") for name in protocols}
    given = {name: protocol.checked(name, (options or {}).get(name, {})) for name, protocol in chosen.items()}
    directory = pathlib.Path(directory)
    experiment, trained, initial = load_run(directory, step=step)
    task = task_of(experiment, seed=seed)
    unlabelled = [name for name, protocol in chosen.items() if protocol.labels and not given[name].get("data")]
    if unlabelled and (task.train.labels is None or task.test.labels is None):
        raise UserError(
            f"{experiment.config.data} has no labels, without which there is no {' and no '.join(unlabelled)}; "
            "for folders one sub-directory per class gives labels, and the protocol quality needs none."
        )
    if any(protocol.labels and not given[name].get("data") for name, protocol in chosen.items()):
        check_apart(experiment.config)
    sets = {
        name: [source.fingerprint for source in protocol.sets(task, protocol.options | given[name])]
        for name, protocol in chosen.items()
        if protocol.sets
    }
    if "all" in layers:
        layers = layer_names(experiment.method, trained, task.train, prepare=experiment.prepare)
    record = Record(
        directory,
        task,
        config=workdir.read_run(directory)["config"],
        step=int(trained.step),
        encoder=encoder,
        layers=layers,
        options=given,
        seed=seed,
    )
    for layer in layers:
        of_layer = functools.partial(subject_of, experiment, encoder=encoder, layer=layer)
        makers: dict[str, Callable[[], Subject]] = {
            "this run": functools.partial(of_layer, trained, "this run"),
            "random encoder": functools.partial(of_layer, initial, "random encoder"),
            "raw pixels": raw_subject,
        }
        for name, make in makers.items():
            began, subject = time.perf_counter(), None
            for protocol, what in chosen.items():
                if what.network and name == "raw pixels":
                    continue
                of = None if what.network else layer or POOLED
                key = record.key(name, protocol, layer=of, sets=sets.get(protocol))
                if not record.has(key):
                    subject = subject or make()
                    with shortage.told_of(protocol, what.options | given[protocol]):
                        record.add(key, what.run(subject, task, **given[protocol]))
            spent = "kept" if subject is None else f"{time.perf_counter() - began:.0f} s"
            announce(f"{name}{'' if len(layers) == 1 else f', {layer or POOLED}'}: {spent}")
    return record.write()


def embed_data(
    directory: str | pathlib.Path,
    name: str,
    out: str | pathlib.Path,
    *,
    split: str | None = None,
    data_dir: str | None = None,
    encoder: str = "student",
    step: int | None = None,
    layer: str | None = None,
) -> tuple[int, int]:
    """Write the features of any images to an `.npz` file: `features [n d]`, `labels` and `names` where there are.

    Images are brought to the size and the number of channels that the run was trained on; `split` None is every split
    that there is, one after the other. Returns `(n, d)`.
    """
    experiment, state, _ = load_run(directory, step=step)
    split = split or "+".join(data.split_names(name, data_dir))
    height, width, channels = image_shape(experiment.source)
    source = data.load(name, split, image_size=min(height, width), channels=channels, data_dir=data_dir)
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
