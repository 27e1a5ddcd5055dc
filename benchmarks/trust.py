"""What it costs that a run can be stopped, killed and checked: checkpoints, digests, stopping, going on.

`python -m benchmarks.trust [--config=quickstart] [--steps=400] [--times=3] [--write]`

One run in this process with clocks around what is measured; then the command, which is stopped by SIGTERM and started
again so many times, with compiled programs cached. `--write` keeps the table in docs/benchmarks/trust.md.
"""

import argparse
import contextlib
import importlib
import json
import os
import pathlib
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Any

from ssl_jax import checkpoint, pretrain

OUT = pathlib.Path(__file__).parents[1] / "docs" / "benchmarks" / "trust.md"


@contextlib.contextmanager
def clock(owner: Any, name: str) -> Iterator[list[float]]:
    """Seconds of each call of a function, which is `owner`'s attribute."""
    function, seconds = getattr(owner, name), []

    def timed(*args, **kwargs):
        began = time.perf_counter()
        try:
            return function(*args, **kwargs)
        finally:
            seconds.append(time.perf_counter() - began)

    setattr(owner, name, timed)
    try:
        yield seconds
    finally:
        setattr(owner, name, function)


def shares(config: str, steps: int, folder: pathlib.Path) -> dict[str, float]:
    """A run's seconds from the end of its first step, and those that the loop spent on saving and on digests."""
    name, _, variant = config.partition(":")
    settings = importlib.import_module(f"ssl_jax.configs.{name}").get_config(variant)
    settings.steps = steps
    with (
        clock(checkpoint.Checkpoints, "save") as save,
        clock(checkpoint.Checkpoints, "wait") as wait,
        clock(pretrain, "digest") as digest,
    ):
        pretrain.pretrain(settings, folder, announce=lambda text: None)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    per_step = (lines[-1]["time"] - lines[0]["time"]) / (lines[-1]["step"] - lines[0]["step"])
    saves = [seconds for seconds in save if seconds > 0.001]
    return {"run": per_step * steps, "saving": sum(save) + sum(wait), "saves": len(saves), "digests": sum(digest)}


def start(config: str, folder: pathlib.Path) -> subprocess.Popen:
    """Begin the command, with a line of metrics for every step."""
    flags = ["--config.log_every=1", "--config.knn_every=-1", "--config.steps=100000", "--noreport"]
    command = [sys.executable, "-m", "ssl_jax", "pretrain", f"--config={config}", f"--workdir={folder}", *flags]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def size(folder: pathlib.Path) -> int:
    """Of the metrics written so far."""
    path = folder / "metrics.jsonl"
    return path.stat().st_size if path.exists() else 0


def stop_and_go_on(config: str, times: int, folder: pathlib.Path) -> dict[str, list[float]]:
    """Seconds from SIGTERM to the end, and from the command to the first step that comes after a checkpoint.

    The latter also as processor time, which other work on the machine disturbs less.
    """
    found: dict[str, list[float]] = {"stop": [], "go on": [], "go on, processor": []}
    for number in range(times + 2):  # the first compiles, the second what only a resumed run needs
        before, began = size(folder), time.perf_counter()
        process = start(config, folder)
        while size(folder) <= before:
            assert process.poll() is None
            time.sleep(0.01)
        spent = time.perf_counter() - began
        ticks = pathlib.Path(f"/proc/{process.pid}/stat").read_text().rsplit(")", 1)[1].split()[11:13]
        if number > 1:
            found["go on"].append(spent)
            found["go on, processor"].append(sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK"))
        time.sleep(3)
        began = time.perf_counter()
        process.send_signal(signal.SIGTERM)
        assert process.wait() == 128 + signal.SIGTERM
        found["stop"].append(time.perf_counter() - began)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default="quickstart")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--times", type=int, default=3)
    parser.add_argument("--write", action="store_true", help=f"keep the table in {OUT.name}")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        cost = shares(args.config, args.steps, pathlib.Path(folder, "one"))
        spans = stop_and_go_on(args.config, args.times, pathlib.Path(folder, "two"))
    middle, load = {name: statistics.median(values) for name, values in spans.items()}, os.getloadavg()[1]
    share = f"{cost['saving'] / cost['run']:.2%} ({cost['saving'] / cost['saves']:.2f} s each)"
    rows = {
        f"{cost['saves']} checkpoints in {cost['run']:.0f} s: share in which the loop waits for them": share,
        "digests, share of the run": f"{cost['digests'] / cost['run']:.3%}",
        "from the command to the first step of a resumed run": f"{middle['go on']:.1f} s",
        "the same as processor time": f"{middle['go on, processor']:.1f} s",
        "from SIGTERM to the end, saved": f"{middle['stop']:.1f} s",
    }
    head = f"| `{args.config}`, on {os.cpu_count()} cores with a load of {load:.0f} | measured |"
    table = "\n".join([head, "|---|---|", *(f"| {what} | {value} |" for what, value in rows.items())])
    print(table)
    if args.write:
        marks = r"(<!-- trust -->\n).*?(<!-- /trust -->)"
        OUT.write_text(re.sub(marks, rf"\g<1>{table}\n\g<2>", OUT.read_text(), flags=re.DOTALL))


if __name__ == "__main__":
    main()
