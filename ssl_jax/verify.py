"""Whether a run gives the same bits again: its first steps are made anew in memory, and digests compared."""

import dataclasses
import pathlib
from collections.abc import Callable

from ssl_jax import lengthen, workdir
from ssl_jax.core import UserError
from ssl_jax.digest import digest
from ssl_jax.evaluate import config_of
from ssl_jax.experiment import build
from ssl_jax.training import train


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What came of a comparison.

    Attributes:
      compared: steps whose digests were compared, up to the first that differs.
      differs: that step, or None.
      reasons: what is not as it was, and may be why; also given if nothing differs.
      begun: the step that the run began with, where it lengthens another.
    """

    compared: list[int]
    differs: int | None
    reasons: list[str]
    begun: int = 0


def verify(
    directory: str | pathlib.Path, *, steps: int | None = None, announce: Callable[[str], None] = lambda text: None
) -> Verdict:
    """Make a run's steps up to `steps` again (up to the first digest by default); the run is only read.

    A lengthened run is made again from the state that it began with.

    Raises:
      UserError: there is no such run, or its `metrics.jsonl` has no digest of these steps.
    """
    directory = pathlib.Path(directory)
    record = workdir.read_run(directory)
    digests = {row["step"]: row["digest"] for row in workdir.read_metrics(directory) if "digest" in row}
    if not digests:
        raise UserError(f"{directory / 'metrics.jsonl'} has no digests to compare with.")
    end = min(digests) if steps is None else steps
    due = sorted(step for step in digests if step <= end)
    if not due:
        raise UserError(f"The first digest in {directory / 'metrics.jsonl'} is of step {min(digests)}; raise --steps.")
    config = config_of(record)
    experiment = build(config, directory=directory)
    now = workdir.describe_run(
        config, command=[], source_name=repr(experiment.inputs), fingerprint=experiment.inputs.fingerprint
    )
    reasons = reasons_to_differ(record, now, last=due[-1])
    begun = record.get("lengthened", {}).get("step", 0)
    iterator = train(
        experiment.method,
        experiment.inputs,
        batch_size=config.batch_size,
        steps=experiment.steps,
        rounds=config.rounds,
        state=lengthen.first_state(experiment, directory, begun) if begun else None,
        **experiment.parts,
    )
    compared: list[int] = []
    for step, (state, _, _) in enumerate(iterator, start=begun + 1):
        if step in due:
            compared.append(step)
            found = digest(state)
            announce(f"step {step:,}: {found} {'as it was' if found == digests[step] else f'was {digests[step]}'}")
            if found != digests[step]:
                return Verdict(compared, step, reasons, begun)
        if step == due[-1]:
            break
    return Verdict(compared, None, reasons, begun)


def reasons_to_differ(before: dict, now: dict, *, last: int) -> list[str]:
    """What of a run's record is not as it is now, or changed within the run up to step `last`."""
    names = ("versions", "devices", "data", "processes", "placement", "xla_flags", "encoder_file", "git")
    reasons = [f"{name.replace('_', ' ')}: {text}" for name in names for text in _changes(before, now, name)]
    for change in before.get("continued", []):
        if change["step"] < last:
            changed = [f"{name}: {text}" for name in names for text in _changes(before, {**before, **change}, name)]
            reasons.append(f"the run went on elsewhere from step {change['step']:,} ({'; '.join(changed)})")
    return reasons


def _changes(before: dict, now: dict, name: str) -> list[str]:
    old, new = before.get(name), now.get(name)
    if isinstance(old, dict) and isinstance(new, dict):
        keys = sorted(old.keys() | new.keys())
        return [f"{key} was {old.get(key)}, is {new.get(key)}" for key in keys if old.get(key) != new.get(key)]
    return [] if old == new else [f"was {old if old is not None else 'not recorded'}, is {new}"]


def explanation(verdict: Verdict) -> str:
    """The verdict in words."""
    reasons = "".join(f"\n  {reason}" for reason in verdict.reasons)
    if verdict.differs is None:
        other = f" although this is not as it was:{reasons}" if reasons else ""
        last, count = verdict.compared[-1], len(verdict.compared)
        steps = f"{last:,} steps" if not verdict.begun else f"the steps {verdict.begun + 1:,} to {last:,}"
        before = " Those before are of the run that it lengthens." if verdict.begun else ""
        return f"The same bits after {steps} (digests compared: {count}){other or '.'}{before}"
    before = f"equal up to step {verdict.compared[-2]:,}" if len(verdict.compared) > 1 else "the first digest"
    why = (
        f"This is not as it was:{reasons}"
        if reasons
        else (
            "Versions, devices, flags, commit and data are as they were. On a GPU, only runs with --deterministic "
            "repeat; else the code was changed without a commit, or the machine or the files can't be trusted."
        )
    )
    return f"Step {verdict.differs:,} differs ({before}). {why}"
