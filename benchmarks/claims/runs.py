"""Runs that claims are made of, each made once whatever claims need it, and what was measured during and after them."""

import dataclasses
import functools
import hashlib
import json
import pathlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks import methods, pretraining
from benchmarks.claims.finding import Curve
from ssl_jax import cli, data, evaluate
from ssl_jax.core import TrainState
from ssl_jax.experiment import Experiment
from ssl_jax.protocols import Task

# Linear probe, k-NN and few labels look at so many training images, evenly spaced, and all test images.
TRAIN_IMAGES = 10_000
# Half the width: a third of the time, for claims that take many runs.
NARROW = {"encoder_args.widths": (16, 32, 64, 128)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Budget:
    """What a claim may spend: its seeds, where runs are kept, and whether it is only a trial of the script."""

    seeds: tuple[int, ...]
    root: pathlib.Path
    test: bool = False

    def config(self, name: str) -> str:
        """The form of a config that fits the budget."""
        return f"{name}:{'test' if self.test else 'fashion_mnist'}"

    def narrow(self) -> dict[str, Any]:
        """Fields that make the encoder narrow; that of a trial is narrow enough."""
        return {} if self.test else dict(NARROW)


def directory(config: str, seed: int, fields: Mapping[str, Any]) -> str:
    """Name of a run: a function of its config, its fields and its seed, so that claims share runs.

    Without fields it is that of `benchmarks.methods`, whose runs may be put there.
    """
    text = json.dumps({name: str(value) for name, value in sorted(fields.items())})
    key = f"-{hashlib.sha256(text.encode()).hexdigest()[:10]}" if fields else ""
    return f"{config.replace(':', '-')}{key}-{seed}"


def pretrain(budget: Budget, config: str, seed: int, fields: Mapping[str, Any]) -> pathlib.Path:
    """Pretrain with some fields of the config changed; a run that is complete is not made again."""
    workdir = budget.root / "runs" / directory(config, seed, fields)
    flags = [f"--config.{field}={value}" for field, value in fields.items()]
    if not budget.test:
        return pretraining.pretrain(workdir, config, seed, flags)
    if not (workdir / "cost.json").is_file():  # in this process: a trial is shorter than the start of another
        began = time.process_time()
        if cli.main(pretraining.arguments(workdir, config, seed, flags)):
            raise SystemExit(f"{config} in {workdir} failed")
        (workdir / "cost.json").write_text(json.dumps({"cpu_seconds": round(time.process_time() - began)}))
    return workdir


def kept(path: pathlib.Path, compute: Callable[[], Any]) -> Any:
    """What `compute` gives, as JSON has it; from the file if it was computed before."""
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(path.name + ".part")
        draft.write_text(json.dumps(compute()))
        draft.replace(path)
    return json.loads(path.read_text())


def seconds(workdir: pathlib.Path) -> float:
    """Processor time of a run."""
    return float(pretraining.cost(workdir)["cpu_seconds"])


@functools.lru_cache(maxsize=1)
def load(workdir: pathlib.Path, step: int | None = None) -> tuple[Experiment, TrainState, TrainState]:
    """The run, its state at a step (the last by default), and its state at step 0."""
    return evaluate.load_run(workdir, step=step)


def task(experiment: Experiment) -> Task:
    """Some of the training images, and all test images."""
    whole = evaluate.task_of(experiment, seed=0)
    rows = np.linspace(0, len(whole.train) - 1, min(TRAIN_IMAGES, len(whole.train))).astype(int)
    return dataclasses.replace(whole, train=data.Subset(whole.train, rows))


def scores(workdir: pathlib.Path, *, step: int | None = None, untrained: bool = False) -> dict[str, float]:
    """Accuracies of frozen features in percent: `{"knn", "linear", "labels_10"}`, see `benchmarks.methods`.

    Args:
      workdir: of the run.
      step: whose checkpoint is taken, the last by default.
      untrained: of the encoder as it was initialised instead.
    """

    def compute() -> dict[str, float]:
        experiment, trained, initial = load(workdir, step)
        subject = evaluate.subject_of(experiment, initial if untrained else trained, "this run")
        return methods.figures(subject, task(experiment))

    return kept(workdir / f"scores-{'untrained' if untrained else step or 'last'}-{TRAIN_IMAGES}.json", compute)


def figures(workdirs: Sequence[pathlib.Path], **kwargs: Any) -> dict[str, list[float]]:
    """Linear and k-NN accuracy of the runs of a setting, one per seed; arguments as for `scores`."""
    found = [scores(workdir, **kwargs) for workdir in workdirs]
    return {name: [f[key] for f in found] for name, key in (("linear", "linear"), ("k-NN", "knn"))}


def logged(workdirs: Sequence[pathlib.Path], name: str) -> Curve:
    """Steps at which a metric was logged, and its values in each of some runs of equal length."""
    runs = [[json.loads(line) for line in (w / "metrics.jsonl").read_text().splitlines()] for w in workdirs]
    lines = [[line for line in run if name in line] for run in runs]
    return [line["step"] for line in lines[0]], [[line[name] for line in run] for run in lines]


def last(curve: Curve) -> list[float]:
    """The last value of each run."""
    return [values[-1] for values in curve[1]]
