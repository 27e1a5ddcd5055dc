"""Steps that were not applied, since they were not finite: counted, and the end of a run with too many in a row."""

import pathlib
from collections.abc import Callable
from typing import Any

import jax

from ssl_jax import data, hosts, workdir
from ssl_jax.core import Metrics, UserError
from ssl_jax.experiment import Experiment

FILE = "nonfinite.json"


class Skips:
    """Counts the steps that were not applied, and says so; of scattered ones less and less often.

    Attributes:
      limit: so many in a row are too many.
      total: how many there were in the run.
      in_a_row: how many the last steps were.
    """

    def __init__(self, limit: int, announce: Callable[[str], None], *, total: int = 0, in_a_row: int = 0):
        """Go on counting from the given numbers."""
        self.limit, self.announce, self.total, self.in_a_row = limit, announce, total, in_a_row
        self._pending: list[Metrics] = []
        self.last: dict[str, float] = {}

    def resume(self, position: dict[str, Any]) -> None:
        """Go on counting from what a checkpoint remembers."""
        self.total, self.in_a_row = position.get("skipped", 0), position.get("skipped_in_a_row", 0)

    def add(self, metrics: Metrics) -> None:
        """Remember a step's metrics, on the device, until `count` looks at them."""
        self._pending.append({name: metrics[name] for name in ("loss", "grad_norm", "skipped")})

    def due(self) -> bool:
        """Whether so many steps are pending that they could be too many in a row."""
        return len(self._pending) >= self.limit

    def count(self, step: int) -> bool:
        """Look at the steps up to `step` that are pending; returns whether the last of them are too many in a row."""
        for at, row in enumerate(jax.device_get(self._pending), start=step - len(self._pending) + 1):
            if not row["skipped"]:
                self.in_a_row = 0
                continue
            self.total, self.in_a_row = self.total + 1, self.in_a_row + 1
            self.last = {name: float(value) for name, value in row.items()}
            if self.total & (self.total - 1) == 0:
                self.announce(f"Warning: step {at:,} was not applied: {self.reason()}. Skipped so far: {self.total:,}.")
        self._pending.clear()
        return self.in_a_row >= self.limit

    def reason(self) -> str:
        """What was not finite in the step that was skipped last."""
        if not self.last:  # they were made by an earlier call
            return "its loss or its gradient is not finite"
        return f"its loss is {self.last['loss']:g}, its gradient's norm {self.last['grad_norm']:g}"

    def counts(self) -> dict[str, int]:
        """What a checkpoint remembers."""
        return {"skipped": self.total, "skipped_in_a_row": self.in_a_row}


def stop(experiment: Experiment, directory: pathlib.Path, skips: Skips, step: int) -> UserError:
    """Write what `ssl-jax replay` needs, after the state was saved at `step`; returns the error to raise."""
    config, first = experiment.config, step - skips.in_a_row + 1
    rows = data.batch_rows(experiment.source, batch_size=config.batch_size, seed=config.seed, step=first - 1)
    record: dict[str, Any] = {"step": first, "in_a_row": skips.in_a_row, "checkpoint": step, "ids": rows.tolist()}
    if hosts.is_first():
        workdir.write_json(directory / FILE, record)
    return UserError(
        f"The steps {first:,} to {step:,} were not applied, {skips.in_a_row} in a row (of the last: {skips.reason()}). "
        f"The last good state is kept as the checkpoint of step {step:,}; `ssl-jax replay --workdir={directory}` shows "
        f"what is not finite, and which images. Try a lower --config.learning_rate, a longer warm-up, or "
        f"--config.dtype=float32, in another --workdir."
    )
