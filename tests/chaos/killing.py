"""Kill a real run with SIGKILL at chosen moments, start it again, and compare its end with an undisturbed run's."""

import dataclasses
import json
import os
import pathlib
import random
import re
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np

from ssl_jax import data

MOMENTS = ("preparation", "compilation", "training", "save", "k-NN check")


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is run: a k-NN check every `evaluate` steps, a line every step; compiled programs are kept in `cache`."""

    config: str = "simclr:test"
    steps: int = 600
    interval: int = 20
    evaluate: int = 7
    protocols: str = "knn,linear"
    cache: str = ""

    def command(self, workdir: pathlib.Path) -> list[str]:
        settings = {
            "steps": self.steps,
            "checkpoint_every": self.interval,
            "log_every": 1,
            "knn_every": self.evaluate,
        }
        flags = [f"--config.{name}={value}" for name, value in settings.items()]
        return ["pretrain", f"--config={self.config}", f"--workdir={workdir}", "--noreport", *flags]


@dataclasses.dataclass(frozen=True)
class Kill:
    """One kill: when, the step it had come to, the newest whole checkpoint then, and where the next run went on."""

    moment: str
    reached: int
    saved: int
    resumed: int = -1


def start(plan: Plan, command: list[str], log: pathlib.Path, *, compile_anew: bool = False) -> subprocess.Popen:
    """Begin a command on one device; what it says goes to `log`."""
    flags = os.environ.get("XLA_FLAGS", "").replace("device_count=8", "device_count=1")
    environment = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    if plan.cache:
        environment |= {"JAX_COMPILATION_CACHE_DIR": plan.cache, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    if compile_anew:
        environment["JAX_ENABLE_COMPILATION_CACHE"] = "false"
    with log.open("w") as file:
        return subprocess.Popen([sys.executable, "-m", "ssl_jax", *command], env=environment, stdout=file, stderr=file)


def reached(workdir: pathlib.Path) -> int:
    """The last step with a whole line in `metrics.jsonl`."""
    path = workdir / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.is_file() else []
    for line in reversed(lines):
        try:
            return json.loads(line)["step"]
        except json.JSONDecodeError:
            continue
    return 0


def saved(workdir: pathlib.Path) -> int:
    """The newest whole checkpoint."""
    folder = workdir / "checkpoints"
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    return max((int(name) for name in names if name.isdigit()), default=0)


def wait(process: subprocess.Popen, condition: Callable[[], bool], seconds: float = 300.0) -> None:
    """Until the condition holds, or the process has ended."""
    end = time.monotonic() + seconds
    while process.poll() is None and not condition():
        assert time.monotonic() < end, "the run stands still"
        time.sleep(0.002)


def kill(plan: Plan, workdir: pathlib.Path, log: pathlib.Path, moment: str, rng: random.Random) -> Kill | None:
    """Start the run, kill it at the moment, and return what was seen; None if it ended before."""
    before, began = reached(workdir), saved(workdir)
    process = start(plan, plan.command(workdir), log, compile_anew=moment == "compilation")
    if moment == "preparation":  # of the interpreter, the data and the device
        time.sleep(rng.uniform(0.0, 4.0))
    elif moment == "compilation":  # of the first step; the state has just been restored, if there was one
        wait(process, lambda: "steps of" in log.read_text())
        time.sleep(rng.uniform(0.0, 4.0))
    elif moment == "save":
        half = lambda: any((workdir / "checkpoints").glob("*.orbax-checkpoint-tmp*"))  # noqa: E731
        wait(process, lambda: saved(workdir) > began or (reached(workdir) > began and half()))
        time.sleep(rng.uniform(0.0, 0.1))
    elif moment == "k-NN check":
        due = lambda step: step > began and (step + 1) % plan.evaluate == 0  # noqa: E731
        wait(process, lambda: due(reached(workdir)))
        time.sleep(rng.uniform(0.0, 0.05))
    else:
        target = before + rng.randint(1, 2 * plan.interval)
        wait(process, lambda: reached(workdir) >= target)
        time.sleep(rng.uniform(0.0, 0.05))
    if process.poll() is not None:
        assert process.returncode == 0, log.read_text()
        return None
    process.kill()
    process.wait()
    return Kill(moment, reached(workdir), saved(workdir))


def finish(plan: Plan, workdir: pathlib.Path, log: pathlib.Path) -> str:
    """Run to the end; the digest of the last state."""
    assert start(plan, plan.command(workdir), log).wait() == 0, log.read_text()
    row = json.loads((workdir / "metrics.jsonl").read_text().splitlines()[-1])
    assert row["step"] == plan.steps
    return row["digest"]


def resumed(log: pathlib.Path) -> int | None:
    """The step that a run went on from, as it said; None if it had not come so far."""
    text = log.read_text()
    found = re.search(r"Going on from the checkpoint of step ([\d,]+)", text)
    if found:
        return int(found[1].replace(",", ""))
    return 0 if "starting at step 0" in text or re.search(r"^step 1/", text, re.MULTILINE) else None


def chaos(
    plan: Plan, folder: pathlib.Path, kills: int, seed: int, say: Callable[[str], None]
) -> tuple[list[Kill], str, str]:
    """Kill one run so many times and let it end; returns the kills and the digests of both runs' ends."""
    rng, done = random.Random(seed), []
    log, workdir = folder / "log.txt", folder / "killed"
    while len(done) < kills:
        moment = MOMENTS[len(done) % len(MOMENTS)]
        last = kill(plan, workdir, log, moment, rng)
        if last is None:
            say(f"The run was over after {len(done)} kills: it needs more steps.")
            break
        came = resumed(log)
        if done and came is not None:
            assert came >= done[-1].saved, f"{done[-1]} went on from {came}"
        done.append(dataclasses.replace(last, resumed=-1 if came is None else came))
        say(f"{len(done):3}  {moment:11}  step {last.reached:5}  newest whole checkpoint {last.saved:5}")
    return done, finish(plan, workdir, log), finish(plan, folder / "alone", log)


def kill_evaluations(plan: Plan, folder: pathlib.Path, kills: int, seed: int, say: Callable[[str], None]) -> None:
    """Kill `ssl-jax evaluate` of `folder / "killed"` so many times: in turn just after a result, and at any time."""
    rng, log, workdir = random.Random(seed), folder / "log.txt", folder / "killed"
    for number in range(1, kills + 1):
        before = len(results(workdir))
        process = start(plan, evaluation(plan, workdir), log)
        end = time.monotonic() + (300.0 if number % 2 else rng.uniform(0.0, 10.0))
        wait(process, lambda: len(results(workdir)) > before or time.monotonic() > end)  # noqa: B023
        time.sleep(rng.uniform(0.0, 0.05))
        process.kill()
        process.wait()
        found = len(results(workdir))
        say(f"{number:3}  evaluation   {found:5} results" + ("; it was complete" if process.returncode == 0 else ""))


def evaluate(plan: Plan, workdir: pathlib.Path, log: pathlib.Path) -> list[dict]:
    """Evaluate to the end; the results, in the order of what they are of."""
    assert start(plan, evaluation(plan, workdir), log).wait() == 0, log.read_text()
    return sorted(results(workdir), key=lambda row: json.dumps(row["of"], sort_keys=True) + row["metric"])


def evaluation(plan: Plan, workdir: pathlib.Path) -> list[str]:
    """The command that evaluates a run."""
    return ["evaluate", f"--workdir={workdir}", f"--protocol={plan.protocols}", "--noreport"]


def results(workdir: pathlib.Path) -> list[dict]:
    """What `evaluation.json` holds, which must be whole at any time."""
    path = workdir / "evaluation.json"
    return json.loads(path.read_text())["results"] if path.exists() else []


def prepare(out: pathlib.Path) -> list[str]:
    """The command that prepares digits in 46 files."""
    return ["data", "prepare", "digits", f"--out={out}", "--shard_images=40"]


def kill_preparations(plan: Plan, folder: pathlib.Path, kills: int, seed: int, say: Callable[[str], None]) -> bool:
    """Kill `ssl-jax data prepare` so many times, in turn while files are written and at any time, and let it end.

    Returns:
      Whether it came to the same records as an undisturbed one, with nothing written twice and nothing left behind.
    """
    rng, log, kept = random.Random(seed), folder / "log.txt", {}
    places = folder / "prepared", folder / "prepared alone"
    for number in range(1, kills + 1):
        process, before = start(plan, prepare(places[0]), log), len(shards(places[0]))
        end = time.monotonic() + (300.0 if number % 2 else rng.uniform(0.0, 10.0))
        wait(process, lambda: len(shards(places[0])) > before or time.monotonic() > end)  # noqa: B023
        time.sleep(rng.uniform(0.0, 0.1))
        process.kill()
        process.wait()
        found = shards(places[0])
        assert all(found[name] == written for name, written in kept.items()), "a whole file was written again"
        # A file counts as whole once what is in it has been noted beside it, which is a moment later.
        kept = {name: at for name, at in found.items() if next(places[0].rglob(f"{name}.json"), None)}
        say(f"{number:3}  data prepare {len(found):5} files" + ("; it was complete" if process.returncode == 0 else ""))
    for place in places:
        assert start(plan, prepare(place), log).wait() == 0, log.read_text()
    assert all(shards(places[0])[name] == written for name, written in kept.items()), "a whole file was written again"
    assert set(shards(places[0])) == set(shards(places[1]))
    assert not list(places[0].rglob("*.writing")), "something half-written is left"
    pairs = [[data.load("tfds:digits", split, data_dir=place) for place in places] for split in ("train", "test")]
    return all(np.array_equal(a.images, b.images) and np.array_equal(a.labels, b.labels) for a, b in pairs)


def shards(out: pathlib.Path) -> dict[str, int]:
    """The whole files of prepared data, and when each was written."""
    found = out.rglob("*.array_record-?????-of-?????")
    return {path.name: path.stat().st_mtime_ns for path in found}
