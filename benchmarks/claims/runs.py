"""Runs that claims are made of: through the command line, each once, and what was measured during and after them."""

import dataclasses
import json
import pathlib
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True, kw_only=True)
class Budget:
    """What a claim may spend: its seeds, where runs are kept, and whether it is only a trial of the script."""

    seeds: tuple[int, ...]
    root: pathlib.Path
    test: bool = False

    def config(self, name: str) -> str:
        """The form of a config that fits the budget."""
        return f"{name}:{'test' if self.test else 'fashion_mnist'}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Finding:
    """What came of a claim.

    Attributes:
      verdict: "holds", "does not hold" or "holds in part", with what it rests on.
      figures: name of a setting -> name of a figure -> one value per seed.
      curves: name of a panel -> name of a setting -> (steps, one row of values per seed).
    """

    verdict: str
    figures: dict[str, dict[str, list[float]]]
    curves: dict[str, dict[str, tuple[list[float], list[list[float]]]]] = dataclasses.field(default_factory=dict)


def pretrain(budget: Budget, config: str, name: str, seed: int, fields: Mapping[str, Any]) -> pathlib.Path:
    """Pretrain with some fields of the config changed; a run that is complete is not made again."""
    workdir = budget.root / f"{name}-{seed}"
    flags = [f"--config.{field}={value}" for field, value in fields.items()]
    command = ["pretrain", f"--config={config}", f"--config.seed={seed}", f"--workdir={workdir}", "--noreport", *flags]
    subprocess.run([sys.executable, "-m", "ssl_jax", *command], check=True)
    return workdir


def logged(workdirs: Sequence[pathlib.Path], name: str) -> tuple[list[float], list[list[float]]]:
    """Steps at which a metric was logged, and its values in each of some runs of equal length."""
    runs = [[json.loads(line) for line in (w / "metrics.jsonl").read_text().splitlines()] for w in workdirs]
    lines = [[line for line in run if name in line] for run in runs]
    return [line["step"] for line in lines[0]], [[line[name] for line in run] for run in lines]


def last(curve: tuple[list[float], list[list[float]]]) -> list[float]:
    """The last value of each run."""
    return [values[-1] for values in curve[1]]


def spread(values: Sequence[float], digits: int = 2) -> str:
    """Mean and deviation as text."""
    deviation = f" ± {np.std(values, ddof=1):.{digits}f}" if len(values) > 1 else ""
    return f"{np.mean(values):.{digits}f}{deviation}"
