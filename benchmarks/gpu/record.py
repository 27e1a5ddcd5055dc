"""What a part has measured: one JSON file, written anew after every row, so that nothing is lost if time runs out."""

import contextlib
import importlib.metadata
import json
import os
import pathlib
import platform
import subprocess
import time
from typing import Any

PACKAGES = ("jax", "jaxlib", "flax", "optax", "torch", "lightly", "numpy")


class Clock:
    """A time limit in seconds from now; None is none."""

    def __init__(self, seconds: float | None):
        self.end = None if seconds is None else time.monotonic() + seconds

    def left(self) -> float:
        """Seconds that are left, at least 0."""
        return float("inf") if self.end is None else max(self.end - time.monotonic(), 0.0)


class Record:
    """Rows of one part, and the machine that they are from; `add` writes them to `FOLDER/PART.json`."""

    def __init__(self, folder: pathlib.Path, part: str, machine: dict[str, Any], clock: Clock):
        folder.mkdir(parents=True, exist_ok=True)
        self.path, self.clock = folder / f"{part}.json", clock
        self.content: dict[str, Any] = {"part": part, "machine": machine, "complete": False, "rows": []}
        self._write()

    def add(self, **row: Any) -> dict[str, Any]:
        """Keep a row, and print it."""
        self.content["rows"].append(row)
        self._write()
        print(json.dumps(row), flush=True)
        return row

    def close(self, *, complete: bool) -> None:
        """Say whether everything that was planned has been measured."""
        self.content["complete"] = complete
        self._write()

    def _write(self) -> None:
        new = self.path.with_suffix(".new")
        new.write_text(json.dumps(self.content, indent=1) + "\n")
        new.replace(self.path)


def load(folder: pathlib.Path) -> dict[str, dict[str, Any]]:
    """The records in a folder by part."""
    found = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    return {content["part"]: content for content in found}


def versions() -> dict[str, str]:
    """Of Python and of the packages that are installed."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


def driver() -> str | None:
    """Version of the GPU's driver, as nvidia-smi says."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout.strip()
    return None


def host() -> dict[str, Any]:
    """Of the machine around the GPU; no JAX is started."""
    return {"cores": os.cpu_count(), "driver": driver(), "date": time.strftime("%Y-%m-%d"), "versions": versions()}
