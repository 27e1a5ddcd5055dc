"""The files of a run: `run.json`, `metrics.jsonl`, TensorBoard events; and the checks before they are touched."""

import contextlib
import functools
import importlib.metadata
import json
import math
import os
import pathlib
import platform
import subprocess
import sys
import time
from typing import Any

import jax
from ml_collections import ConfigDict

from ssl_jax import atomic, hosts, own_encoder
from ssl_jax.core import UserError

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
PLACEMENT = ("sharding", "sharding_rules", "model_parallel", "remat")  # fields that change rounding, and no more
# Fields of a config that don't change what is trained, so that a run may go on with other values. What comes of
# `host_crop` and `decoder` does, and is part of the data's fingerprint.
ONLOOKERS = (
    *PLACEMENT,
    "host_crop",
    "decoder",
    "max_damaged",
    "log_every",
    "checkpoint_every",
    "keep_checkpoints",
    "max_collapsed",
    "max_skipped_steps",
    "probe",
    "knn_every",
    "knn_bank",
    "knn_queries",
)

SAVED = ".saved"  # a file that is there once a run has had a whole checkpoint

# Fields that configs did not always have, and what a run from before was made with.
LATER = {
    "micro_batches": 1,
    "accumulate": "no",
    "max_collapsed": 0,
    "max_skipped_steps": 10,
    "weights": None,
    "lengthen": None,
    "host_crop": "no",
    "decoder": "auto",
    "max_damaged": 1.0,
    "sharding": "replicated",
    "sharding_rules": [],
    "model_parallel": 1,
    "remat": "none",
}


def plain(value: Any) -> Any:
    """A config value as JSON has it: tuples become lists, nested configs dicts."""
    if isinstance(value, ConfigDict):
        return {k: plain(v) for k, v in sorted(value.copy_and_resolve_references().items())}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    return value


def write_json(path: pathlib.Path, value: Any) -> None:
    """Write a JSON file in one step, so that a reader, a crash or a loss of power never sees half of it."""
    draft = f".{platform.node()}-{os.getpid()}.part"  # no other process's
    atomic.write_text(path, json.dumps(finite(value), indent=1, allow_nan=False) + "\n", suffix=draft)


def finite(value: Any) -> Any:
    """Replace NaN and infinities by None, which JSON has."""
    if isinstance(value, dict):
        return {k: finite(v) for k, v in value.items()}
    if isinstance(value, list):
        return [finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_run(workdir: pathlib.Path) -> dict[str, Any]:
    """The record of a run, or a `UserError` if there is none; its config has the fields that came later, too."""
    path = workdir / "run.json"
    if not path.is_file():
        raise UserError(f"There is no run in {workdir} (no run.json); start one with `ssl-jax pretrain --workdir=...`.")
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise UserError(f"{path} is damaged: {error}.") from error
    config = {**LATER, **record["config"]}
    return {**record, "config": config, "placement": {name: config[name] for name in PLACEMENT}}


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Fields that differ between two configs and matter to the training, as `field: old -> new`."""
    a, b = _flat(old), _flat(new)
    fields = sorted(f for f in a.keys() | b.keys() if a.get(f) != b.get(f) and f not in ONLOOKERS)
    return [f"{f}: {a.get(f, 'not set')} -> {b.get(f, 'not set')}" for f in fields]


def changes(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What differs between two runs' records and matters to the training: fields of the config, and the images."""
    changed = differences(before["config"], now["config"])
    if before["data"]["fingerprint"] != now["data"]["fingerprint"]:
        old, new = before["data"]["train"], now["data"]["train"]
        changed.append("data: not the images that the run began with" if old == new else f"data: {old} -> {new}")
    return changed


@functools.cache
def _git_commit() -> str | None:
    """Commit of the checkout that this package runs from; None if it is an installed copy."""
    root = pathlib.Path(__file__).parent.parent
    if not (root / ".git").exists():
        return None
    git = ["git", "-C", str(root)]
    try:
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        changed = subprocess.run([*git, "status", "--porcelain", "-uno"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit + (" with changes" if changed.stdout.strip() else "")


def versions() -> dict[str, str]:
    """Of this library, of Python, and of the packages that a result depends on."""
    found = {name: importlib.metadata.version(name) for name in PACKAGES}
    return {"ssl_jax": importlib.metadata.version("ssl_jax"), "python": platform.python_version(), **found}


def environment(config: ConfigDict) -> dict[str, Any]:
    """What all processes of a run must have in common, flat: the config, versions, devices and flags of XLA."""
    flags = os.environ.get("XLA_FLAGS", "")
    devices = f"{jax.local_device_count()} {jax.local_devices()[0].device_kind}"
    here = {"devices": devices, "XLA_FLAGS": flags, "commit": _git_commit(), **versions()}
    here["encoder's file"] = (own_encoder.origin(config.encoder) or {}).get("digest")
    return {**_flat(plain(config), "config."), **here}


def describe_run(config: ConfigDict, *, command: list[str], source_name: str, fingerprint: str) -> dict[str, Any]:
    """What `run.json` holds: everything that says how a result came about."""
    devices = jax.devices()
    return {
        "config": plain(config),
        "command": command,
        "versions": versions(),
        "devices": {"platform": devices[0].platform, "kind": devices[0].device_kind, "count": len(devices)},
        "processes": jax.process_count(),
        "placement": {name: plain(config[name]) for name in PLACEMENT},
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
        "data": {"train": source_name, "fingerprint": fingerprint},
        "encoder_file": own_encoder.origin(config.encoder),
        "git": _git_commit(),
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def open_workdir(workdir: pathlib.Path, record: dict[str, Any]) -> bool:
    """Claim a directory for a run; returns whether a run with the same config is already there.

    Raises:
      UserError: the directory can't be written, or holds a run of another config or other data.
    """
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        probe = workdir / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError(f"The workdir {workdir} can't be written: {error.strerror or error}.") from error
    if not (workdir / "run.json").exists() or not has_begun(workdir):
        write_json(workdir / "run.json", record)
        return False
    if changed := changes(read_run(workdir), record):
        raise UserError(
            f"{workdir} holds a run with another config ({'; '.join(changed)}). Use another --workdir, or the first "
            "config to go on with that run."
        )
    return True


ENVIRONMENT = ("versions", "devices", "processes", "placement", "xla_flags", "encoder_file", "git", "command")


def note_environment(workdir: pathlib.Path, record: dict[str, Any], *, step: int) -> None:
    """Add to `run.json` that the run goes on from `step` with other versions, devices or flags, if that is so."""
    before = read_run(workdir)
    last = {**before, **(before.get("continued") or [{}])[-1]}
    changed = {name: record[name] for name in ENVIRONMENT if last.get(name) != record[name] and name != "command"}
    if changed and hosts.is_first():
        now = {"step": step, **{name: record[name] for name in ENVIRONMENT}, "created": record["created"]}
        write_json(workdir / "run.json", {**before, "continued": [*before.get("continued", []), now]})


def begin_anew(workdir: pathlib.Path, record: dict[str, Any]) -> None:
    """Replace `run.json` of a run that starts at its first step once more: nothing is left of what it did before."""
    if hosts.is_first():
        before = read_run(workdir)
        write_json(workdir / "run.json", {**record, **{k: before[k] for k in ("lengthened",) if k in before}})


def has_begun(workdir: pathlib.Path) -> bool:
    """Whether a run has left anything that took time: a line of metrics or a checkpoint, whole, half or gone."""
    return bool(read_metrics(workdir)) or bool(checkpoint_files(workdir)) or (workdir / SAVED).exists()


def checkpoint_files(workdir: pathlib.Path) -> list[str]:
    """Names in the directory of checkpoints; whole ones are numbers."""
    checkpoints = workdir / "checkpoints"
    return sorted(path.name for path in checkpoints.iterdir()) if checkpoints.is_dir() else []


def saved_steps(workdir: pathlib.Path) -> list[int]:
    """Steps of the whole checkpoints on the disk, oldest first."""
    return sorted(int(name) for name in checkpoint_files(workdir) if name.isdigit())


def mark_saved(workdir: pathlib.Path) -> None:
    """Remember, outside of the directory of checkpoints, that there was a whole one."""
    if hosts.is_first():
        (workdir / SAVED).touch()


def read_metrics(workdir: pathlib.Path) -> list[dict[str, Any]]:
    """All lines of `metrics.jsonl`; a half-written last line is left out."""
    path, rows = workdir / "metrics.jsonl", []
    if path.is_file():
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError:
                break
    return rows


class MetricWriter:
    """Writes metrics to `metrics.jsonl` and to TensorBoard; only in process 0.

    On opening, lines after `step` are dropped: a resumed run writes them again.
    """

    def __init__(self, workdir: pathlib.Path, *, step: int):
        """Open the files of a run that stands at `step`."""
        self.active = hosts.is_first()
        if not self.active:
            return
        kept = [row for row in read_metrics(workdir) if row["step"] <= step]
        self.started = time.time() - (kept[-1]["time"] if kept else 0.0)
        path = workdir / "metrics.jsonl"
        atomic.write_text(path, "".join(json.dumps(row) + "\n" for row in kept))
        self._file = path.open("a", encoding="utf-8")
        self._board = Board(workdir / "tensorboard", step=step)

    def write(self, step: int, metrics: dict[str, float], *, digest: str | None = None) -> None:
        """Append one line; `time` is seconds of training since the run's start, pauses between runs left out.

        `digest` is that of the state (see `ssl_jax.digest`), which TensorBoard does not show.
        """
        if not self.active:
            return
        row: dict[str, Any] = {"step": step, "time": round(time.time() - self.started, 3), **metrics}
        row |= {} if digest is None else {"digest": digest}
        self._file.write(json.dumps(finite(row), allow_nan=False) + "\n")
        self._file.flush()
        self._board.write(step, metrics)

    def close(self) -> None:
        """Close the files; that a disk is full has been said when a line could not be written."""
        for file in (self._file, self._board) if self.active else ():
            with contextlib.suppress(OSError):
                file.close()


class Board:
    """TensorBoard's scalars, written and brought to the disk by the caller itself.

    Not tensorboardX's `SummaryWriter`, whose thread and queue keep events back for up to two minutes, so that a kill
    would lose some from before a checkpoint; and whose thread dies of a full disk, so that the queue blocks for good.
    """

    def __init__(self, folder: pathlib.Path, *, step: int):
        """Open a file of events for a run that stands at `step`; those after it in other files are hidden."""
        from tensorboardX.event_file_writer import EventsWriter  # heavy
        from tensorboardX.proto.event_pb2 import SessionLog

        folder.mkdir(parents=True, exist_ok=True)
        # The suffix tells files of the same second apart.
        self._events = EventsWriter(str(folder / "events"), filename_suffix=f".{step}")
        self._add(step + 1, file_version="brain.Event:2")
        self._add(step + 1, session_log=SessionLog(status=SessionLog.START))
        self._events.flush()

    def _add(self, step: int, **content: Any) -> None:
        from tensorboardX.proto.event_pb2 import Event

        self._events.write_event(Event(step=step, wall_time=time.time(), **content))

    def write(self, step: int, metrics: dict[str, float]) -> None:
        """Add the scalars of one step; raises `OSError` if they can't be written."""
        from tensorboardX.summary import scalar

        for name, value in metrics.items():
            self._add(step, summary=scalar(name, value))
        self._events.flush()

    def close(self) -> None:
        """Close the file."""
        self._events.close()


def command_line() -> list[str]:
    """The command as typed, with the program's name instead of its path."""
    return ["ssl-jax", *sys.argv[1:]]
