"""SimCLR's step at 224 pixels in bfloat16 against PyTorch; what `--deterministic` costs; what augmentation costs."""

import functools
from typing import Any

from benchmarks.gpu import turns
from benchmarks.gpu.ours import Case
from benchmarks.gpu.record import Record
from ssl_jax.runtime import DETERMINISTIC

# Most telling first, since time may run out.
CASES = (
    Case("resnet50", 256),
    Case("vit_s", 256),
    Case("resnet50", 64),
    Case("vit_s", 64),
    Case("resnet50", 512),
    Case("vit_s", 512),
)
TINY = (Case("convnet", 8, size=32, dtype="float32"), Case("vit_s", 2, size=32))
ROUNDS = 5
PEER = "benchmarks.gpu.theirs"
OURS = "benchmarks.gpu.ours"
PATIENCE = 300.0  # seconds for a worker to start and compile
LEAST = 60.0  # seconds without which no new case is begun


def measure(record: Record, case: Case, sides: dict[str, tuple[str, dict[str, str]]], **what: Any) -> dict[str, Any]:
    """A row: workers of each side take turns; one that fails leaves the others alone.

    Args:
      record: gets the row.
      case: what each does.
      sides: for each name the module of the worker, and what is set in its environment.
      what: further columns.
    """
    left = record.clock.left
    row: dict[str, Any] = {**what, **vars(case), "sides": {}}
    workers: dict[str, turns.Worker] = {}
    try:
        for name, (module, env) in sides.items():
            log = record.path.with_name("log.txt")
            workers[name] = turns.Worker(module, case.argument(), log=log, env=env)
            try:
                row["sides"][name] = workers[name].answer(min(left(), PATIENCE))
            except turns.Failed as failure:
                row["sides"][name] = {"failed": str(failure)}
                workers.pop(name).end()
        _compare(row["sides"], workers, left)
    finally:
        for worker in workers.values():
            worker.end()
    return record.add(**row)


def _compare(found: dict[str, Any], workers: dict[str, turns.Worker], left: Any) -> None:
    """Let them take turns; if one then fails, in its memory for example, the others once more alone."""
    steps = {name: found[name]["step_s"] for name in workers}
    try:
        for name, figures in turns.compare(workers, steps, ROUNDS, left).items():
            found[name].update(figures, in_turns=len(workers) > 1)
        return
    except turns.Failed as failure:
        reason = str(failure)
    for name in list(workers):
        try:
            figures = turns.compare({name: workers[name]}, steps, ROUNDS, left)[name]
            found[name].update(figures, in_turns=False, beside=reason)
        except turns.Failed as failure:
            found[name]["failed"] = str(failure)


def against_torch(record: Record, *, tiny: bool) -> bool:
    """Each case with PyTorch's in turns; whether there was time for all."""
    return _all(record, TINY if tiny else CASES, {"ssl_jax": (OURS, {}), "torch": (PEER, {})})


def deterministic(record: Record, *, tiny: bool) -> bool:
    """A ResNet-50's step with and without `--deterministic`."""
    import os

    flags = " ".join([os.environ.get("XLA_FLAGS", ""), *DETERMINISTIC]).strip()
    sides = {"as usual": (OURS, {}), "deterministic": (OURS, {"XLA_FLAGS": flags})}
    return _all(record, TINY[:1] if tiny else CASES[:1], sides)


def _all(record: Record, cases: tuple[Case, ...], sides: dict[str, tuple[str, dict[str, str]]]) -> bool:
    run = functools.partial(measure, record, sides=sides)
    for case in cases:
        if record.clock.left() < LEAST:
            return False
        run(case)
    return True
