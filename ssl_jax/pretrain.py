"""Pretraining from a config into a workdir: the loop with its checkpoints, monitors and signals."""

import contextlib
import math
import pathlib
import signal
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from ssl_jax import collapse, data, monitors, teachers, workdir
from ssl_jax.core import Metrics, TrainState, UserError
from ssl_jax.evaluation import knn_accuracy
from ssl_jax.experiment import Experiment, build, check_micro_batches
from ssl_jax.progress import Progress, line
from ssl_jax.sharding import check_divisible, data_mesh
from ssl_jax.training import initial_state, round_starts, train


class Interrupted(Exception):
    """The run was asked to stop, and has saved."""

    def __init__(self, signal_number: int, step: int):
        """Remember by which signal and where."""
        super().__init__(f"stopped at step {step}")
        self.signal_number, self.step = signal_number, step


@contextlib.contextmanager
def catch_signals() -> Iterator[list[int]]:
    """Collect the first SIGINT or SIGTERM in a list for the loop to see; a second one ends the process at once."""
    seen: list[int] = []

    def handle(number: int, frame: Any) -> None:
        if seen:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        seen.append(number)

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield seen
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Watch:
    """What looks on without touching the training: online probe and periodic k-NN, both only with labels."""

    def __init__(self, experiment: Experiment):
        """Choose a bank and queries among the training images, by the seed."""
        config, source = experiment.config, experiment.source
        self.experiment, self.labelled = experiment, source.labels is not None
        self.probe: monitors.Probe | None = None
        self.probing = self.labelled and config.probe
        every = config.knn_every or max(experiment.steps // 5, 1)
        self.knn_every = every if self.labelled and every > 0 else 0
        if self.knn_every:
            order = np.random.default_rng(config.seed).permutation(len(source))
            cut = min(config.knn_queries, len(source) // 4)
            subset = lambda rows, name: data.Subset(source, np.sort(rows), name)  # noqa: E731
            self.queries = subset(order[:cut], "k-NN queries")
            self.bank = subset(order[cut : cut + config.knn_bank], "k-NN bank")

    def start(self, state: TrainState) -> None:
        """Make the probe for the encoder of `state`."""
        if self.probing:
            experiment = self.experiment
            example = jax.eval_shape(experiment.prepare, experiment.source[np.arange(1)]["image"])
            pooled, _ = jax.eval_shape(experiment.method.encode, state.params, state.carry, example)
            classes = experiment.source.classes
            assert classes is not None
            self.probe = monitors.init_probe(pooled.shape[-1], len(classes))

    def see(self, metrics: Metrics, batch: dict[str, np.ndarray]) -> None:
        """Update the probe with the features of a step."""
        if self.probe is not None and "features" in metrics:
            features = jax.device_put(metrics["features"], jax.devices()[0])
            self.probe = monitors.update_probe(self.probe, features, jax.device_put(batch["label"], jax.devices()[0]))

    def report(self, state: TrainState, step: int, *, last: bool) -> dict[str, float]:
        """Accuracies to log at this step."""
        found = {} if self.probe is None else {"probe_accuracy": float(self.probe.accuracy)}
        if self.knn_every and (step % self.knn_every == 0 or last):
            bank, queries = (self.experiment.embed(state, source) for source in (self.bank, self.queries))
            k = min(20, len(bank))
            accuracy = knn_accuracy(bank, self.bank.labels, queries, self.queries.labels, ks=(k,))
            found["knn_top1"] = accuracy[k]
        return found


def pretrain(
    config: ConfigDict,
    directory: str | pathlib.Path,
    *,
    command: list[str] | None = None,
    announce: Callable[[str], None] = lambda text: print(text, file=sys.stderr),
) -> TrainState:
    """Train as `config` says in `directory`, going on where an earlier call stopped; returns the last state.

    Args:
      config: see `configs/common.py`.
      directory: for checkpoints, metrics and records.
      command: what to record as the command that did it.
      announce: where messages go.

    Raises:
      Interrupted: SIGINT or SIGTERM came; the state is saved.
      UserError: the config, the data or the directory can't be used, or the loss is not finite.
    """
    from ssl_jax.checkpoint import Checkpoints  # orbax is heavy

    directory = pathlib.Path(directory)
    check_divisible(config.batch_size, data_mesh())
    check_micro_batches(config, data_mesh())
    experiment = build(config, directory=directory)
    source = experiment.source
    record = workdir.describe_run(
        config, command=command or [], source_name=repr(source), fingerprint=source.fingerprint
    )
    known = workdir.open_workdir(directory, record)
    if known:
        check_checkpoints_left(directory)
    if experiment.teacher is not None:
        teachers.keep(experiment.teacher, directory)
    checkpoints = Checkpoints(directory / "checkpoints", every=config.checkpoint_every, keep=config.keep_checkpoints)
    watch = Watch(experiment)
    parts = {"tx": experiment.tx, "views": experiment.views, "seed": config.seed, "mesh": experiment.mesh}
    state = initial_state(experiment.method, source, **parts)
    watch.start(state)
    announce(
        f"{config.method} with {config.encoder} ({count(state.params['encoder']):,} parameters in the encoder) on "
        f"{source!r}, {experiment.steps:,} steps of {config.batch_size} on {experiment.mesh.size} "
        f"{jax.devices()[0].platform} device(s), into {directory}"
    )
    if checkpoints.steps():
        state = restore(checkpoints, checkpoints.steps()[-1], state, watch)
        done = int(state.step) == experiment.steps
        announce(
            f"The run is complete: there is a checkpoint of its last step, {experiment.steps:,}."
            if done
            else f"Going on from the checkpoint of step {int(state.step):,}."
        )
    elif known:
        announce("The run in this workdir has no checkpoint yet; starting at step 0.")
    position = {"seed": config.seed, "batch_size": config.batch_size, "fingerprint": source.fingerprint}
    with contextlib.ExitStack() as stack:
        try:
            writer = stack.enter_context(contextlib.closing(workdir.MetricWriter(directory, step=int(state.step))))
            state = _loop(experiment, state, parts, watch, checkpoints, position, writer, announce)
            checkpoints.wait()
            return state
        except OSError as error:
            raise UserError(
                f"Writing to {directory} failed: {error.strerror or error}. {newest(checkpoints)} Make room and run "
                "the same command again."
            ) from error
        finally:
            with contextlib.suppress(OSError):  # told above
                checkpoints.close()


def check_checkpoints_left(directory: pathlib.Path) -> None:
    """Raise a `UserError` if a run had checkpoints and has none: it must not start anew silently.

    A run that was killed before, or while it wrote its first one, may start anew.
    """
    folder, lines = directory / "checkpoints", workdir.read_metrics(directory)
    before = workdir.read_run(directory)["config"]
    due = min(before["checkpoint_every"], before["steps"] or math.inf)
    if lines and lines[-1]["step"] >= due and not (folder.is_dir() and any(folder.iterdir())):
        raise UserError(
            f"{directory} holds a run that has come to step {lines[-1]['step']:,}, but its checkpoints are gone; put "
            f"them back into {folder}, or give another --workdir to start anew."
        )


def newest(checkpoints: Any) -> str:
    """A sentence on the newest checkpoint."""
    steps = checkpoints.steps()
    return f"The last good checkpoint is of step {steps[-1]:,}." if steps else "There is no checkpoint yet."


def count(params: Any) -> int:
    """Number of parameters in a tree."""
    return sum(math.prod(x.shape) for x in jax.tree.leaves(params))


def restore(checkpoints: Any, step: int, state: TrainState, watch: Watch | None = None) -> TrainState:
    """The state of a checkpoint, shaped and placed as `state`; and the probe, if it was saved."""
    if watch is not None and watch.probe is not None and "probe" in checkpoints.items(step):
        trees, _ = checkpoints.restore(step, {"state": state, "probe": watch.probe})
        watch.probe = trees["probe"]
    else:
        trees, _ = checkpoints.restore(step, {"state": state})
    return trees["state"]


def _loop(experiment, state, parts, watch, checkpoints, position, writer, announce) -> TrainState:
    config, steps = experiment.config, experiment.steps
    rounds = np.asarray(round_starts(steps, config.rounds))
    alarm = Alarm(experiment.method.warn, announce)
    progress, pending = Progress(), []
    began, seen_images = time.perf_counter(), 0
    step = int(state.step)

    def save(*, force: bool = False) -> None:
        trees = {"state": state} if watch.probe is None else {"state": state, "probe": watch.probe}
        checkpoints.save(step, trees, {**position, "step": step}, force=force)

    with catch_signals() as signals:
        iterator = train(
            experiment.method,
            experiment.source,
            batch_size=config.batch_size,
            steps=steps,
            state=state,
            rounds=config.rounds,
            **parts,
        )
        for state, metrics, batch in iterator:
            step += 1
            pending.append({"loss": metrics["loss"], "gradient's norm": metrics["grad_norm"]})
            watch.see(metrics, batch)
            seen_images += config.batch_size
            last, stop = step == steps, bool(signals)
            saving = step % config.checkpoint_every == 0 or last or stop
            if step % config.log_every == 0 or saving or step == 1:
                check_finite(pending, step, checkpoints)
                pending.clear()
            if step % config.log_every == 0 or last:
                elapsed = time.perf_counter() - began
                speed = max(seen_images, 1) / elapsed
                logged = {name: float(value) for name, value in metrics.items() if value.ndim == 0}
                begun = rounds[rounds < step][-1]  # the round's first step, where its schedules began
                logged["learning_rate"] = float(experiment.rate(jnp.asarray(step - 1 - begun)))
                logged["images_per_second"] = round(speed, 1)
                if "embedding" in metrics:
                    logged |= {name: float(value) for name, value in monitors.collapse(metrics["embedding"]).items()}
                logged |= watch.report(state, step, last=last)
                writer.write(step, logged)
                alarm.see(step, logged)
                remaining = (steps - step) * config.batch_size / speed
                progress.show(line(step, steps, logged, eta=remaining), keep=last or "knn_top1" in logged)
                began, seen_images = time.perf_counter(), 0
            if saving:
                save(force=last or stop)
            if step == 1:  # compilation is not speed
                began, seen_images = time.perf_counter(), 0
            if stop:
                iterator.close()
                progress.close()
                checkpoints.wait()
                raise Interrupted(signals[0], step)
    return state


class Alarm:
    """Says in words when a run looks collapsed: at the first sign, and again after every ten lines that it lasts."""

    def __init__(self, warn: collapse.Warn, announce: Callable[[str], None]):
        """`warn` is the method's own; what holds for all methods is looked at besides."""
        self.warn, self.announce, self.signs = collapse.any_of(warn, collapse.embedding), announce, 0

    def see(self, step: int, logged: dict[str, float]) -> None:
        """Look at the scalars of one step."""
        text = self.warn({**logged, "step": step})
        if text and self.signs % 10 == 0:
            self.announce(f"Warning: step {step:,} looks like a collapse: {text}.")
        self.signs = self.signs + 1 if text else 0


def check_finite(values: list[dict[str, jax.Array]], step: int, checkpoints: Any) -> None:
    """Raise a `UserError` at the first of the last few steps (up to `step`) whose loss or gradient is not finite."""
    for at, row in enumerate(jax.device_get(values), start=step - len(values) + 1):
        for name, value in row.items():
            if not np.isfinite(value):
                raise UserError(
                    f"The {name} is {value} at step {at}; nothing was saved since. {newest(checkpoints)} Try a lower "
                    "--config.learning_rate, a longer warm-up, or --config.dtype=float32."
                )
