"""Workers that take turns on one GPU: each a process with its own program, compiled and waiting until it is asked.

Two frameworks can't share a process's GPU memory well, and a process that starts anew for each turn would compile
anew. A worker reads lines from its standard input and answers each with one line of JSON, marked so that what
libraries print does not disturb.
"""

import collections
import contextlib
import json
import os
import pathlib
import queue
import signal
import statistics
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

MARK = "@ "
# Memory is taken as it is needed, since several processes are on one GPU.
SHARED = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", "XLA_CLIENT_MEM_FRACTION": "0.92"}
ROUND = 1.5  # seconds that a turn takes about


class Failed(Exception):
    """A worker did not answer: why, in one line."""


class Worker:
    """A process that runs `python -m MODULE ARGUMENTS`, which calls `serve`."""

    def __init__(self, module: str, *arguments: str, log: pathlib.Path, env: dict[str, str] | None = None):
        """Start it; what it prints elsewhere goes to the end of `log`."""
        command = [sys.executable, "-m", module, *arguments]
        self.name, self.log = " ".join([module, *arguments]), log
        environment = {**os.environ, **SHARED, **(env or {})}
        self.errors = log.open("a")
        self.errors.write(f"--- {self.name}\n")
        self.errors.flush()
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
            env=environment,
            process_group=0,
        )
        self.answers: queue.Queue[str | None] = queue.Queue()
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith(MARK):
                self.answers.put(line[len(MARK) :])
        self.answers.put(None)

    def answer(self, seconds: float) -> dict[str, Any]:
        """The next answer.

        Raises:
          Failed: the process ended, an exception came up in it, or so many seconds passed.
        """
        try:
            line = self.answers.get(timeout=min(seconds, 1e6))
        except queue.Empty:
            raise Failed(f"no answer within {seconds:.0f} s") from None
        if line is None:
            raise Failed(f"the process ended with status {self.process.wait()}, see {self.log.name}")
        found = json.loads(line)
        if "error" in found:
            raise Failed(found["error"])
        return found

    def ask(self, text: str, seconds: float) -> dict[str, Any]:
        """Send a line and wait for the answer."""
        assert self.process.stdin is not None
        with contextlib.suppress(OSError):  # it has ended, which `answer` says
            self.process.stdin.write(f"{text}\n")
            self.process.stdin.flush()
        return self.answer(seconds)

    def end(self) -> None:
        """Kill it with what it has started, and wait until it is gone, so that its memory is free."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.reader.join()
        for stream in (self.process.stdin, self.process.stdout, self.errors):
            with contextlib.suppress(OSError):  # what was still to be sent
                if stream is not None:
                    stream.close()


def reply(found: dict[str, Any]) -> None:
    """Answer, as a worker."""
    print(MARK + json.dumps(found), flush=True)


def serve(prepare: Callable[[], tuple[dict[str, Any], Callable[[int], dict[str, Any]]]]) -> None:
    """Be a worker: prepare, say what came of it, then run as many steps as each line says."""
    try:
        facts, run = prepare()
        reply(facts)
        for line in sys.stdin:
            reply(run(int(line)))
    except Exception as error:
        reply({"error": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"})
        raise


def compare(workers: dict[str, Worker], steps: dict[str, float], rounds: int, left: Callable[[], float]) -> dict:
    """Let workers take turns; seconds of a step of each, by round.

    Args:
      workers: ready ones.
      steps: seconds of one step of each, about, from which follows how many make a turn.
      rounds: turns of each.
      left: seconds that are left.

    Returns:
      For each name the seconds of a step in each of its turns, and what the last answer said besides.
    """
    took: dict[str, list[float]] = collections.defaultdict(list)
    last: dict[str, dict[str, Any]] = {}
    for _ in range(rounds):
        for name, worker in workers.items():
            count = max(1, round(ROUND / max(steps[name], 1e-6)))
            last[name] = worker.ask(str(count), left())
            took[name].append(last[name].pop("seconds") / count)
    return {name: {**last[name], **spread(took[name])} for name in workers}


def spread(seconds: list[float]) -> dict[str, float]:
    """Median, fastest and slowest."""
    return {
        "step_s": statistics.median(seconds),
        "fastest_s": min(seconds),
        "slowest_s": max(seconds),
        "turns": len(seconds),
    }
