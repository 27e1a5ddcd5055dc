"""Several processes as one run: two and four of them on this machine, which talk through Gloo as hosts do."""

import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import time
import types

import jax
import numpy as np
import pytest
import recipes
import several_processes
from jax._src import distributed as jax_distributed
from several_processes import EVERYTHING, FIELDS

from ssl_jax import hosts, launchers, train
from ssl_jax.checkpoint import Checkpoints
from ssl_jax.core import TrainState, UserError
from ssl_jax.experiment import build
from ssl_jax.pretrain import pretrain

SCRIPT = str(pathlib.Path(several_processes.__file__))


def free_port() -> str:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{s.getsockname()[1]}"


def start(*argv: str, devices: int = 1) -> subprocess.Popen:
    """Begin a process with its own devices."""
    flags = os.environ["XLA_FLAGS"].replace("device_count=8", f"device_count={devices}")
    environment = {**os.environ, "XLA_FLAGS": flags, "PYTHONUNBUFFERED": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen([sys.executable, *argv], env=environment, text=True, **pipes)


def end(process: subprocess.Popen) -> tuple[int, str, str]:
    """Status, standard output without what Gloo says there, and standard error."""
    out, err = process.communicate(timeout=200)
    return process.returncode, "\n".join(line for line in out.splitlines() if "[Gloo]" not in line), err


def train_as_one(count: int, folder: pathlib.Path, *more: str) -> None:
    """Twenty steps in float64 to 1e-9 (the checkpoints below have float32); and errors of one are errors of all.

    Two processes have the state split between them (fsdp), four have it whole, and so has the process here.
    """
    file, address = folder / f"{count}.npz", free_port()
    group = [start(SCRIPT, address, str(count), str(i), str(file), *more) for i in range(count)]
    expected = several_processes.parameters(count)
    for i, (status, out, err) in enumerate(map(end, group)):
        assert status == 0, err
        failed, differ, unshared = out.splitlines()
        assert failed == ("no data here" if i == 1 else "Process 1 had to stop: no data here")
        assert differ == "The processes 0 and 1 differ in jax: 0.0 / 0.1. Use one version."
        assert "on a file system that all hosts share" in unshared
        assert unshared.startswith("Process 1 had to stop: ") == (i == 0)
    assert not [path for path in folder.rglob("*") if "seen-by-all" in path.name]
    found = np.load(file)
    assert set(found) == set(expected)
    scale = max(np.abs(x).max() for x in expected.values())
    for name, x in expected.items():
        assert found[name].dtype == "float64"
        np.testing.assert_allclose(found[name], x, rtol=0, atol=1e-9 * scale, err_msg=name)


def test_two_processes_train_as_one(tmp_path):
    train_as_one(2, tmp_path)


def saved(directory: pathlib.Path, step: int, like: TrainState) -> TrainState:
    """The state of a checkpoint, on this process's devices."""
    reader = Checkpoints(directory / "checkpoints", read_only=True)
    trees, _ = reader.restore(step, {"state": like})
    reader.close()
    return trees["state"]


def assert_close(a: TrainState, b: TrainState) -> None:
    """Parameters after one step in float32."""
    for x, y in zip(jax.tree.leaves(a.params), jax.tree.leaves(b.params), strict=True):
        np.testing.assert_allclose(x, y, rtol=0, atol=1e-6)


def test_a_run_that_loses_a_process_goes_on_with_another_number_of_them(tmp_path):
    """The command line: both train, the first alone speaks; one is killed, the other ends; one and four go on.

    The two split the state (fsdp); those that go on have it whole.
    """
    directory, address = tmp_path / "run", free_port()
    split = {"sharding": "fsdp", "sharding_rules": EVERYTHING}
    settings = [f"--config.{name}={value}" for name, value in {**FIELDS, **split, "knn_every": 1}.items()]
    command = ["-m", "ssl_jax", "pretrain", "--config=simclr:test", f"--workdir={directory}", *settings]
    command += [f"--coordinator={address}", "--processes=2", "--host_timeout=20"]
    pair = [start(*command, f"--process={i}") for i in range(2)]
    limit = time.monotonic() + 120
    while not (directory / "checkpoints" / "2").is_dir():
        assert pair[0].poll() is None, pair[0].communicate()
        assert time.monotonic() < limit
        time.sleep(0.05)
    pair[1].kill()
    began = time.monotonic()
    (status, out, err), (killed, silence, words) = map(end, pair)
    assert time.monotonic() - began < 60
    assert status != 0
    assert killed == -signal.SIGKILL
    assert "Another process of this run has ended" in err or "another task died" in err
    assert "on 2 cpu device(s), 2 processes" in err
    assert "probe" in err
    assert "k-NN" in err
    assert not out
    assert not silence
    assert not words

    config = recipes.config("simclr", **FIELDS, knn_every=-1)
    parts = build(config)
    assert jax.process_count() == 1
    first, *_ = next(
        train(parts.method, parts.source, tx=parts.tx, views=parts.views, batch_size=64, steps=10, mesh=parts.mesh)
    )
    assert_close(saved(directory, 1, first), first)

    came = max(int(path.name) for path in (directory / "checkpoints").iterdir() if path.name.isdigit())
    four = tmp_path / "four"
    shutil.copytree(directory, four)
    train_as_one(4, tmp_path, str(four), str(came + 1))
    said: list[str] = []
    state = pretrain(config, directory, announce=said.append)
    assert said[-1] == f"Going on from the checkpoint of step {came}."
    assert int(state.step) == 10
    assert_close(saved(four, came + 1, first), saved(directory, came + 1, first))
    for path, processes in ((directory, 1), (four, 4)):
        rows = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
        assert [row["step"] for row in rows] == list(range(1, 11))
        record = json.loads((path / "run.json").read_text())
        assert record["processes"] == 2
        assert record["continued"][-1]["processes"] == processes


def test_hosts_with_different_numbers_of_devices():
    """Both end in order, with the same sentence, before anything is computed together."""
    text = """
import sys
from ssl_jax import UserError, hosts
try:
    with hosts.session(coordinator=sys.argv[1], processes=2, process=int(sys.argv[2]), timeout=60):
        hosts.exchange("anything")
except UserError as error:
    print(error)
"""
    address = free_port()
    pair = [start("-c", text, address, str(i), devices=2 - i) for i in range(2)]
    for status, out, err in map(end, pair):
        assert status == 0, err
        assert out == (
            "The processes 0 and 1 differ in devices: 2 / 1. Give each the same number of them, of one kind."
        )


def test_a_failed_meeting_is_no_run_alone(monkeypatch):
    """On a TPU's machine that no variable names, only JAX's own word that there is nobody means a run by itself."""
    monkeypatch.setattr(launchers, "on_tpu_vm", lambda environment: True)
    nobody = lambda **_: jax_distributed.State().initialize(cluster_detection_method="deactivate")  # noqa: E731
    monkeypatch.setattr(jax.distributed, "initialize", nobody)
    with hosts.session(environment={}):
        pass

    class ConfigException(Exception):
        """As of the package `kubernetes`, a kind that nobody here can name."""

    def fail(**arguments):
        raise ConfigException("Service token file does not exist.")

    monkeypatch.setattr(jax.distributed, "initialize", fail)
    kubernetes = {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "JOB_COMPLETION_INDEX": "0"}
    for environment in ({}, kubernetes):
        words = r"joined at .* \(Service token file.* --distributed=off"
        with pytest.raises(UserError, match=words), hosts.session(environment=environment):
            raise AssertionError("it must not go on alone")


def test_who_waits_in_vain_says_where(monkeypatch):
    """As far as JAX has found it out; else by the launcher's name."""
    assert "the coordinator that Slurm names in 5 seconds" in hosts._in_vain({}, "Slurm", 5)
    found = types.SimpleNamespace(coordinator_address="alpha:62000", process_id=0, num_processes=3)
    monkeypatch.setattr(jax_distributed, "global_state", found)
    assert hosts._in_vain({}, "Slurm", 5).startswith(
        "Waited 5 seconds in vain for the other 2 process(es) to come to a"
    )
    found.process_id = 1
    assert "No answer from the coordinator at alpha:62000 in 5 seconds" in hosts._in_vain({}, "Slurm", 5)


def test_open_mpi_5_wants_to_be_told_the_first_host():
    """It sets no variable that JAX finds the first process by; the rest of what is needed it does say."""
    four = {"OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_RANK": "3", "OMPI_COMM_WORLD_LOCAL_RANK": "1"}
    assert launchers.arguments(None, None, None, {**four, "OMPI_MCA_orte_hnp_uri": "1.0;tcp://10.0.0.1:2"}) == {}
    with pytest.raises(UserError, match=r"Open MPI 5 does not tell .* add --coordinator=HOST:PORT"):
        launchers.arguments(None, None, None, four)
    found = launchers.arguments("a:1", None, None, four)
    assert found == {**launchers.meeting_at("a:1", 4, 3), "local_device_ids": [1]}
    found = launchers.arguments("a:1", None, None, {**four, "OMPI_COMM_WORLD_LOCAL_SIZE": "1"})
    assert found == {**launchers.meeting_at("a:1", 4, 3), "local_device_ids": []}
    assert launchers.arguments("a:1", 2, 0, four) == launchers.meeting_at("a:1", 2, 0)


def test_no_answer_is_one_sentence():
    address = free_port()
    flags = [f"--coordinator={address}", "--processes=2", "--process=1", "--host_timeout=1"]
    status, out, err = end(start("-m", "ssl_jax", "pretrain", "--config=simclr:test", "--workdir=unused", *flags))
    assert status == 1
    assert not out
    assert err.startswith(f"ssl-jax: No answer from the coordinator at {address} in 1 seconds")
    assert err.count("\n") == 1


def test_where_the_others_are():
    """Launchers by their environment; alone, nothing is joined and so nothing waited for."""
    slurm = {"SLURM_NTASKS": "4", "SLURM_PROCID": "1", "SLURM_STEP_NODELIST": "a[1-4]"}
    alone = {"JAX_PLATFORMS": "cpu", "SLURM_NTASKS": "1", "OMPI_COMM_WORLD_SIZE": "1", "TPU_WORKER_HOSTNAMES": "one"}
    assert launchers.cluster(slurm) == "Slurm"
    assert launchers.cluster({"SLURM_NTASKS": "4"}) == "", "sbatch without srun"
    assert launchers.cluster({"OMPI_COMM_WORLD_SIZE": "2"}) == "Open MPI"
    assert (
        launchers.cluster({"TPU_WORKER_HOSTNAMES": "a,b"}) == launchers.cluster({"MEGASCALE_NUM_SLICES": "2"}) == "TPU"
    )
    assert launchers.cluster({"KUBERNETES_SERVICE_HOST": "10.0.0.1", "JOB_COMPLETION_INDEX": "0"}) == "Kubernetes"
    assert launchers.arguments(None, None, None, alone) is None
    assert launchers.arguments("a:1", 1, 0, slurm) is None
    assert launchers.arguments(None, None, None, slurm) == {}, "JAX gives each task one accelerator"
    one = {**slurm, "SLURM_STEP_TASKS_PER_NODE": "1(x4)"}
    assert launchers.arguments(None, None, None, one) == {"local_device_ids": []}, "and a lone one all"
    found = launchers.arguments("a:1", 2, 1, {})
    assert found is not None
    assert found["process_id"] == 1


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("a:1", 2, None), "--process is missing"),
        (("a", 2, 0), "HOST:PORT, not 'a'"),
        (("a:1", 2, 2), "--process=2 must lie in 0 to 1"),
    ],
)
def test_flags_that_make_no_sense(flags, words):
    with pytest.raises(UserError, match=words):
        launchers.arguments(*flags, {})
