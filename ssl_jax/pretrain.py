"""Pretraining from a config into a workdir: the loop with its checkpoints, monitors and signals."""

import contextlib
import errno
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

from ssl_jax import (
    collapse,
    data,
    few_images,
    hosts,
    lengthen,
    lock,
    monitors,
    optim,
    shortage,
    signals,
    skips,
    teachers,
    warm_start,
    workdir,
)
from ssl_jax.core import Metrics, TrainState, UserError
from ssl_jax.damaged import Damaged
from ssl_jax.data.files import local
from ssl_jax.digest import digest
from ssl_jax.evaluation import knn_accuracy
from ssl_jax.experiment import Experiment, build, check_micro_batches
from ssl_jax.progress import Progress, line
from ssl_jax.sharding import check_divisible, data_mesh, put, whole
from ssl_jax.training import Waiting, check_rounds, initial_state, train


class Watch:
    """What looks on without touching the training: the alarm; online probe and periodic k-NN, both only with labels."""

    def __init__(self, experiment: Experiment, announce: Callable[[str], None]):
        """Choose a bank and queries among the training images, by the seed."""
        config, source = experiment.config, experiment.source
        self.alarm = collapse.Alarm(experiment.method.warn, announce, limit=config.max_collapsed)
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
            self.probe = whole(monitors.init_probe(pooled.shape[-1], len(classes)), experiment.mesh)

    def see(self, metrics: Metrics, batch: data.Examples) -> None:
        """Update the probe with the features of a step."""
        if self.probe is not None and "features" in metrics:
            mesh = self.experiment.mesh
            features, labels = whole((metrics["features"], put(batch["label"], mesh)), mesh)
            self.probe = monitors.update_probe(self.probe, features, labels)

    def report(self, state: TrainState, step: int, *, last: bool) -> dict[str, float]:
        """Accuracies to log at this step."""
        found = {} if self.probe is None else {"probe_accuracy": float(self.probe.accuracy)}
        if self.knn_every and (step % self.knn_every == 0 or last):
            bank, queries = (self.experiment.embed(state, source) for source in (self.bank, self.queries))
            if hosts.is_first():
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
      signals.Interrupted: SIGINT or SIGTERM came; the state is saved.
      UserError: the config, the data or the directory can't be used, another run is at work in it, the accelerator's
        memory is too small, or too many steps in a row were not finite.
    """
    directory = local(directory, "a workdir")
    if not hosts.is_first():
        announce = silent
    hosts.agree(workdir.environment(config), "Give all hosts the same command and the same versions.")
    with hosts.lost(), shortage.told(config) as known, contextlib.ExitStack() as stack:
        experiment = hosts.together(lambda: _checked(config, directory))
        known.append(experiment)
        hosts.on_first(lambda: stack.enter_context(lock.hold(directory, announce)))
        return _pretrain(experiment, directory, command or [], announce)


def _checked(config: ConfigDict, directory: pathlib.Path) -> Experiment:
    mesh = data_mesh(model=config.model_parallel)
    check_divisible(config.batch_size, mesh)
    check_micro_batches(config, mesh)
    experiment = build(config, directory=directory)
    check_rounds(experiment.method, experiment.steps, config.rounds)
    if config.sharding_rules:  # whether they fit shows where the state's arrays are known
        jax.eval_shape(lambda: initial_state(experiment.method, experiment.source, **experiment.parts))
    return experiment


def silent(text: str) -> None:
    """Say nothing: of several processes, the first speaks for all."""


def _pretrain(
    experiment: Experiment, directory: pathlib.Path, command: list[str], announce: Callable[[str], None]
) -> TrainState:
    from ssl_jax.checkpoint import Checkpoints  # orbax is heavy

    config, source, inputs = experiment.config, experiment.source, experiment.inputs
    record = workdir.describe_run(config, command=command, source_name=repr(inputs), fingerprint=inputs.fingerprint)
    agreed = {"data": inputs.fingerprint, "read as": repr(inputs)}
    hosts.agree(agreed, "All hosts must read the same images, in the same way.")
    known = hosts.on_first(lambda: claim(directory, record, steps=experiment.steps))
    hosts.check_shared(directory)
    if not known and (found := few_images.advice(config, len(source))):
        announce(f"Note: {few_images.sentence(found, len(source))}")
    lengthened = hosts.on_first(lambda: workdir.read_run(directory).get("lengthened"))
    if experiment.teacher is not None:
        teachers.keep(experiment.teacher, directory)
    if config.weights and not lengthened:
        hosts.on_first(lambda: warm_start.keep(config.weights, directory, begun=known))
    checkpoints = Checkpoints(
        directory / "checkpoints",
        every=config.checkpoint_every,
        keep=config.keep_checkpoints,
        when_whole=lambda: workdir.mark_saved(directory),
    )
    watch = Watch(experiment, announce)
    state = initial_state(experiment.method, source, **experiment.parts)
    watch.start(state)
    processes = f", {jax.process_count()} processes" if jax.process_count() > 1 else ""
    announce(
        f"{config.method} with {config.encoder} ({count(state.params['encoder']):,} parameters in the encoder) on "
        f"{source!r}, {experiment.steps:,} steps of {config.batch_size} on {experiment.mesh.size} "
        f"{jax.devices()[0].platform} device(s){processes}, into {directory}"
    )
    peak = optim.scaled_learning_rate(config.learning_rate, config.batch_size, config.learning_rate_scaling)
    if (doubt := optim.unlikely_rate(config.optimizer, peak)) is not None:
        announce(f"Warning: {doubt}")
    counted = skips.Skips(config.max_skipped_steps, announce)
    hosts.agree({"checkpoints": checkpoints.steps()}, f"{directory} must be on a file system that all hosts share.")
    if lengthened and not checkpoints.steps():
        with contextlib.closing(lengthen.kept(directory)) as begun_with:
            state, position, _ = restore(begun_with, state, watch)
        counted.resume(position)
        announce(lengthen.story(lengthened, experiment))
    elif checkpoints.steps():
        workdir.mark_saved(directory)
        state, position, damages = restore(checkpoints, state, watch)
        for damage in damages:
            announce(f"{damage} It was moved to {directory / 'damaged-checkpoints'}.")
        counted.resume(position)
        workdir.note_environment(directory, record, step=int(state.step))
        done = int(state.step) == experiment.steps
        announce(
            f"The run is complete: there is a checkpoint of its last step, {experiment.steps:,}."
            if done
            else f"Going on from the checkpoint of step {int(state.step):,}."
        )
    elif known:
        announce("The run in this workdir has no checkpoint yet; starting at step 0.")
    if known and not checkpoints.steps():
        workdir.begin_anew(directory, record)
    position = {"seed": config.seed, "batch_size": config.batch_size, "fingerprint": inputs.fingerprint}
    damaged = Damaged(source, directory, limit=config.max_damaged)
    with writing(directory):
        too_many = damaged.look(int(state.step))
    if too_many is not None:
        raise too_many
    with contextlib.ExitStack() as stack:
        others = True
        try:
            with writing(directory):
                writer = stack.enter_context(contextlib.closing(workdir.MetricWriter(directory, step=int(state.step))))
            with hosts.lost():
                state = _loop(
                    experiment, state, watch, checkpoints, position, directory, writer, counted, damaged, announce
                )
            if counted.in_a_row >= counted.limit:
                with writing(directory):
                    raise skips.stop(experiment, directory, counted, int(state.step))
            return state
        except hosts.Lost:
            others = False
            raise
        except BrokenPipeError as error:  # no end in order, as it is for a command whose output `head` reads
            raise UserError(f"What read the messages of this run has gone. {newest(directory)}") from error
        finally:
            with contextlib.suppress(OSError):  # told above
                if others:  # it would wait for them
                    checkpoints.close()


def claim(directory: pathlib.Path, record: dict[str, Any], *, steps: int) -> bool:
    """Take a directory for a run, see `workdir.open_workdir`; a run that was there must have its checkpoints.

    A run that lengthens another takes a copy of the state that it begins with, see `lengthen.take`.
    """
    begun = workdir.has_begun(directory)
    if begun and (text := lengthen.instead(directory, workdir.read_run(directory), record)) is not None:
        raise UserError(text)
    if record["config"]["lengthen"] and not begun:
        record = {**record, "lengthened": lengthen.take(record, directory, steps=steps)}
    known = workdir.open_workdir(directory, record)
    if known:
        check_checkpoints_left(directory)
    return known


def check_checkpoints_left(directory: pathlib.Path) -> None:
    """Raise a `UserError` if a run had checkpoints and has none: it must not start anew silently.

    A run that was killed before, or while it wrote its first one, may start anew.
    """
    if (directory / workdir.SAVED).exists() and not workdir.saved_steps(directory):
        lines = workdir.read_metrics(directory)
        come = f"come to step {lines[-1]['step']:,}" if lines else "saved its state"
        raise UserError(
            f"{directory} holds a run that has {come}, but its checkpoints are gone; put them back into "
            f"{directory / 'checkpoints'}, or give another --workdir to start anew."
        )


@contextlib.contextmanager
def writing(directory: pathlib.Path) -> Iterator[None]:
    """Tell in one sentence that writing to a run's directory failed; for nothing but what writes there."""
    try:
        yield
    except OSError as error:
        mend = "Make room" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "Mend that"
        raise UserError(
            f"Writing to {directory} failed: {error.strerror or error}. {newest(directory)} {mend} and run the same "
            "command again."
        ) from error


def newest(directory: pathlib.Path) -> str:
    """A sentence on the newest checkpoint that is on the disk; orbax forgets those that a save under way would drop."""
    steps = workdir.saved_steps(directory)
    return f"The last good checkpoint is of step {steps[-1]:,}." if steps else "There is no checkpoint yet."


def count(params: Any) -> int:
    """Number of parameters in a tree."""
    return sum(math.prod(x.shape) for x in jax.tree.leaves(params))


def restore(
    checkpoints: Any, state: TrainState, watch: Watch | None = None
) -> tuple[TrainState, dict[str, Any], list[UserError]]:
    """The state of the newest whole checkpoint, shaped and placed as `state`; and the probe, if it was saved.

    Returns:
      The state, the position in the data, and what was wrong with newer checkpoints.
    """

    def like(names: set[str]) -> dict[str, Any]:
        probe = watch.probe if watch is not None and "probe" in names else None
        return {"state": state} if probe is None else {"state": state, "probe": probe}

    _, trees, position, damages = checkpoints.restore_newest(like)
    if watch is not None:
        watch.probe = trees.get("probe", watch.probe)
        watch.alarm.resume(position)
    return trees["state"], position, damages


def _loop(experiment, state, watch, checkpoints, position, directory, writer, counted, damaged, announce) -> TrainState:
    config, steps = experiment.config, experiment.steps
    progress, vote = Progress(silent=not hosts.is_first()), hosts.Vote(experiment.mesh)
    began, seen_images, waiting = time.perf_counter(), 0, Waiting()
    step, stuck, too_many = int(state.step), False, None
    first = step + 1

    def save(*, force: bool = False) -> None:
        trees = {"state": state} if watch.probe is None else {"state": state, "probe": watch.probe}
        counts = {**counted.counts(), **watch.alarm.counts()}
        with writing(directory):
            checkpoints.save(step, trees, {**position, "step": step, **counts}, force=force)

    with signals.catch(silent=not hosts.is_first()) as caught:
        iterator = train(
            experiment.method,
            experiment.inputs,
            batch_size=config.batch_size,
            steps=steps,
            state=state,
            rounds=config.rounds,
            waiting=waiting,
            **experiment.parts,
        )
        for state, metrics, batch in iterator:
            caught.unsaved = True
            with writing(directory):
                checkpoints.wait()  # written while this step was made; so a kill never loses more than one interval
            step += 1
            counted.add(metrics)
            watch.see(metrics, batch)
            seen_images += config.batch_size
            last, stop = step == steps, vote.any(bool(caught))
            if stop and not caught:
                announce("Another process was asked to stop: stopping after this step, and saving.")
            saving = step % config.checkpoint_every == 0 or last or stop
            if step % config.log_every == 0 or saving or step == 1 or counted.due():
                stuck = counted.count(step)
                saving = saving or stuck
            if step % config.log_every == 0 or last:
                elapsed = time.perf_counter() - began
                speed = max(seen_images, 1) / elapsed
                logged = {name: float(value) for name, value in metrics.items() if value.ndim == 0}
                before = optim.updates_counted(state.opt_state) - (not logged["skipped"])  # as the step found it
                logged["learning_rate"] = float(experiment.rate(jnp.asarray(before)))
                logged["images_per_second"], logged["skipped"] = round(speed, 1), counted.total
                logged["data_wait"] = round(waiting.take() / elapsed, 5)
                if "embedding" in metrics:
                    logged |= {name: float(value) for name, value in monitors.collapse(metrics["embedding"]).items()}
                applied = step - counted.total
                logged |= monitors.queue(state.carry.memory, batch_size=config.batch_size, steps=applied)
                logged |= watch.report(state, step, last=last)
                with writing(directory):
                    writer.write(step, logged, digest=digest(state))
                collapsed = watch.alarm.see(step, logged)
                remaining = (steps - step) * config.batch_size / speed
                progress.show(line(step, steps, logged, eta=remaining), keep=last or "knn_top1" in logged)
                with writing(directory):
                    too_many = damaged.look(step) or collapsed
                began, seen_images = time.perf_counter(), 0
            if saving or too_many:
                save(force=last or stop or stuck or too_many is not None)
            if step == first:  # compilation is not speed
                began, seen_images = time.perf_counter(), 0
                waiting.take()
            if stuck or too_many or stop:
                iterator.close()
                progress.close()
                break
        with writing(directory):
            checkpoints.wait()  # still here, where a signal does not end the process before the state is saved
    if too_many is not None:
        raise too_many
    # Not the vote, whose answers may be some steps old: signals since then count, in whichever process.
    if not stuck and any(hosts.exchange(bool(caught))):
        raise signals.Interrupted(caught.seen[0] if caught.seen else signal.SIGTERM, step)
    return state
