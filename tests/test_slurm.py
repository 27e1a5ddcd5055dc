"""`launch/slurm.sh` on a real Slurm of two nodes, where it is installed (Debian: slurm-wlm, munge)."""

import json
import os
import pathlib
import re
import subprocess
import sys
import time
from collections.abc import Callable

import local_slurm
import pytest

from ssl_jax import workdir

pytestmark = pytest.mark.skipif(bool(local_slurm.missing()), reason="Slurm is not installed")
SCRIPT = pathlib.Path(__file__).parents[1] / "launch" / "slurm.sh"
FIELDS = {"steps": 100, "log_every": 5, "checkpoint_every": 100, "knn_every": -1, "probe": False}


class Queue:
    """Jobs of one cluster, whose output goes to one directory."""

    def __init__(self, environment: dict[str, str], folder: pathlib.Path):
        flags = os.environ["XLA_FLAGS"].replace("device_count=8", "device_count=1")
        command = pathlib.Path(sys.executable).with_name("ssl-jax")
        self.environment = {**environment, "XLA_FLAGS": flags, "SSL_JAX": str(command), "PYTHONUNBUFFERED": "1"}
        self.folder = folder

    def call(self, *argv: str, **more: str) -> str:
        environment = {**self.environment, **more}
        done = subprocess.run(argv, env=environment, cwd=self.folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def submit(self, directory: str, *options: str, **environment: str) -> str:
        """Put a run into the queue; its number."""
        settings = ["--noreport", *(f"--config.{name}={value}" for name, value in FIELDS.items())]
        run = ["simclr:test", str(self.folder / directory), *settings]
        said = self.call("sbatch", "--output=%A.out", *options, str(SCRIPT), *run, **environment)
        return said.split()[-1]

    def output(self, job: str) -> str:
        path = self.folder / f"{job}.out"
        return path.read_text() if path.exists() else ""

    def state(self, job: str) -> str:
        return re.search(r"JobState=(\w+)", self.call("scontrol", "show", "job", job))[1]

    def until(self, job: str, condition: Callable[[], bool]) -> None:
        end = time.monotonic() + 240
        while not condition():
            assert time.monotonic() < end, (self.state(job), self.output(job))
            time.sleep(0.3)


@pytest.fixture(scope="module")
def environment():
    with local_slurm.cluster() as found:
        yield found


@pytest.fixture
def queue(environment, tmp_path):
    return Queue(environment, tmp_path)


def test_a_run_on_two_nodes_that_is_stopped_goes_on_by_itself(queue, tmp_path):
    """SIGTERM, as before a time limit: saved, queued again, and to the end that an undisturbed run comes to."""
    job = queue.submit("stopped", "--nodes=2")
    queue.until(job, lambda: bool(workdir.read_metrics(tmp_path / "stopped")))
    queue.call("scancel", "--signal=TERM", job)
    queue.until(job, lambda: queue.state(job) == "PENDING")
    stopped = int(re.search(r"Stopped at step (\d+) and saved", queue.output(job))[1])
    assert 5 <= stopped < FIELDS["steps"]
    assert f"job {job} goes into the queue again" in queue.output(job)

    alone = queue.submit("alone", "--nodes=2", "--array=0")  # while the other rests
    queue.until(alone, lambda: queue.state(alone) == "COMPLETED")
    queue.call("scontrol", "update", f"JobId={job}", "StartTime=now")
    queue.until(job, lambda: queue.state(job) == "COMPLETED")
    assert "Restarts=1" in queue.call("scontrol", "show", "job", job)
    assert queue.output(job).count(f"Going on from the checkpoint of step {stopped}.") == 1, "one process speaks"
    ends = [workdir.read_metrics(tmp_path / name)[-1] for name in ("stopped", "alone/0")]
    assert [row["step"] for row in ends] == [FIELDS["steps"]] * 2
    assert ends[0]["digest"] == ends[1]["digest"]
    record = json.loads((tmp_path / "stopped" / "run.json").read_text())
    assert (record["processes"], record["devices"]["count"]) == (2, 2)


def test_a_run_that_fails_is_not_queued_again(queue, tmp_path):
    """One task fails while the other works on: ending it by a signal must not look like a request to stop."""
    program = tmp_path / "ssl-jax"
    program.write_text('#!/bin/sh\n[ "$SLURM_PROCID" = 0 ] || exit 3\nsleep 3\necho I end by myself\nexit 1\n')
    program.chmod(0o755)
    job = queue.submit("failed", "--nodes=2", SSL_JAX=str(program))
    queue.until(job, lambda: queue.state(job) == "FAILED")
    assert "I end by myself" in queue.output(job)
    assert "goes into the queue again" not in queue.output(job)
