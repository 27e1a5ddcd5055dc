"""One pretraining in a process of its own, and what it cost: made once, kept in its workdir."""

import json
import os
import pathlib
import subprocess
import sys
from collections.abc import Sequence


def pretrain(workdir: pathlib.Path, config: str, seed: int, flags: Sequence[str] = ()) -> pathlib.Path:
    """Pretrain unless that was done, and keep what it cost in `cost.json`; returns the workdir.

    Seconds are processor time of the whole process, compilation included; of a run that was interrupted they are those
    of its last part.
    """
    if (workdir / "cost.json").is_file():
        return workdir
    process = subprocess.Popen([sys.executable, "-m", "ssl_jax", *arguments(workdir, config, seed, flags)])
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{config} in {workdir} ended with code {process.returncode}")
    cost = {"cpu_seconds": round(usage.ru_utime + usage.ru_stime), "peak_mb": round(usage.ru_maxrss / 1024)}
    (workdir / "cost.json").write_text(json.dumps(cost))
    return workdir


def arguments(workdir: pathlib.Path, config: str, seed: int, flags: Sequence[str] = ()) -> list[str]:
    """What `ssl-jax` is given."""
    return ["pretrain", f"--config={config}", f"--config.seed={seed}", f"--workdir={workdir}", "--noreport", *flags]


def cost(workdir: pathlib.Path) -> dict[str, int]:
    """`{"cpu_seconds", "peak_mb"}` of a run that is complete."""
    return json.loads((workdir / "cost.json").read_text())
