"""A run that goes on where a shorter one stopped, in a workdir of its own.

Schedules follow a run's length, so the shorter run is no beginning of the longer one: its rate has come down where the
longer one's is still high. What is done here is therefore a training of its own kind, and `run.json` says so under
`lengthened`: up to a step the shorter run as it was, its record included, and from there on the longer one, whose
schedules are taken up in their middle. The shorter run is only read.
"""

import pathlib
import shutil
from typing import Any

import jax

from ssl_jax import atomic, workdir
from ssl_jax.core import TrainState, UserError
from ssl_jax.data.files import local
from ssl_jax.experiment import Experiment
from ssl_jax.training import initial_state

FOLDER = "lengthened"  # in the longer run's directory: the checkpoint that it began with
LENGTH = ("epochs", "steps")
RATE = ("schedule", "learning_rate", "final_learning_rate", "drop_epochs", "drop_factor")


def take(record: dict[str, Any], directory: pathlib.Path, *, steps: int) -> dict[str, Any]:
    """Copy the newest checkpoint of the run that `config.lengthen` names; returns what the new run's record says of it.

    Args:
      record: of the new run.
      directory: the new run's, held by this process.
      steps: total length of the new run, counted from the very start of the old one.

    Raises:
      UserError: there is no such run or checkpoint, it is of other data or differs in more than length and rate, works
        in rounds, or is not shorter.
    """
    old = local(record["config"]["lengthen"], "a run to lengthen")
    if old.resolve() == directory.resolve():
        raise UserError(f"--config.lengthen={old} is the workdir itself: give the longer run another --workdir.")
    before = workdir.read_run(old)
    free = (*LENGTH, *RATE, "lengthen")
    changed = [text for text in workdir.changes(before, record) if text.partition(":")[0] not in free]
    if changed:
        raise UserError(
            f"{old} can't be lengthened with another config ({'; '.join(changed)}); what may differ is "
            f"{', '.join((*LENGTH, *RATE))}."
        )
    if record["config"]["rounds"] > 1:
        raise UserError(f"{old} works in {before['config']['rounds']} rounds of one length, so it can't be lengthened.")
    checkpoints = old / "checkpoints"
    saved = workdir.saved_steps(old)
    if not saved:
        raise UserError(f"{old} has no checkpoint to go on from.")
    step = saved[-1]
    if step >= steps:
        raise UserError(
            f"{old} has come to step {step:,}, and the longer run would end at step {steps:,}: raise --config.epochs "
            f"(now {record['config']['epochs']:g}) or --config.steps, which count from the very start."
        )
    _copy(checkpoints / str(step), directory / FOLDER)
    rates = [
        row["learning_rate"] for row in workdir.read_metrics(old) if row["step"] <= step and "learning_rate" in row
    ]
    return {"workdir": str(old), "step": step, "learning_rate": rates[-1] if rates else None, "run": before}


def _copy(checkpoint: pathlib.Path, folder: pathlib.Path) -> None:
    """Put a copy of a checkpoint into a folder, alone and whole at any time that it is there."""
    draft = folder.with_name(folder.name + ".part")
    try:
        for leftover in (folder, draft):
            shutil.rmtree(leftover, ignore_errors=True)
        shutil.copytree(checkpoint, draft / checkpoint.name, copy_function=atomic.copy)
        draft.replace(folder)
    except (OSError, shutil.Error) as error:
        raise UserError(f"The checkpoint {checkpoint} can't be copied to {folder}: {error}.") from error


def kept(directory: pathlib.Path) -> Any:
    """The checkpoint that a lengthened run began with, as `checkpoint.Checkpoints` that are only read."""
    from ssl_jax.checkpoint import Checkpoints  # orbax is heavy

    if not (directory / FOLDER).is_dir():
        raise UserError(f"{directory / FOLDER} is gone, the state that the run began with; put it back.")
    return Checkpoints(directory / FOLDER, read_only=True)


def first_state(experiment: Experiment, directory: pathlib.Path, step: int) -> TrainState:
    """The state that a lengthened run began with at `step`."""
    like = initial_state(experiment.method, experiment.source, **experiment.parts)
    checkpoints = kept(directory)
    try:
        return checkpoints.restore(step, {"state": like})[0]["state"]
    finally:
        checkpoints.close()


def story(lengthened: dict[str, Any], experiment: Experiment) -> str:
    """What begins, in words: from where, and what becomes of the learning rate."""
    step, last = lengthened["step"], lengthened["learning_rate"]
    there = "" if last is None else f"was {last:.3g} there and "
    return (
        f"Going on from step {step:,} of {lengthened['workdir']} with the schedules of {experiment.steps:,} steps: the "
        f"learning rate {there}is {float(experiment.rate(jax.numpy.asarray(step))):.3g} here. This is not the run of "
        f"{experiment.steps:,} steps from the start, and run.json says so."
    )


def instead(directory: pathlib.Path, before: dict[str, Any], now: dict[str, Any]) -> str | None:
    """What to do where a directory holds the same run, only shorter than what is asked for; None if it does not.

    Args:
      directory: of the run.
      before: its record.
      now: the record of what is asked for.
    """
    names = {text.partition(":")[0] for text in workdir.changes(before, now)}
    length = "epochs" if now["config"]["steps"] is None else "steps"
    old, new = before["config"][length], now["config"][length]
    if not names or names - {*LENGTH, *RATE} or length not in names or old is None or new <= old:
        return None
    return (
        f"{directory} holds the run with {length}={old:g}, and schedules follow the length, so {length}={new:g} is "
        f"another run: give a new --workdir, and --config.lengthen={directory} to go on there from the last state "
        "with the schedules of the longer run, or without it to begin at step 0 (docs/howto.md)."
    )
