"""`launch/`: the scripts for many hosts, with stand-ins for ssh, srun and gcloud; and the manifest."""

import os
import pathlib
import re
import shutil
import subprocess

import kubernetes_validate
import pytest
import yaml

from ssl_jax import config_flag

LAUNCH = pathlib.Path(__file__).parents[1] / "launch"
SCRIPTS = sorted(LAUNCH.glob("*.sh"))


@pytest.fixture
def tools(tmp_path):
    """Put programs of the given names and texts first on PATH; returns a function that runs a script with them."""
    folder = tmp_path / "bin"
    folder.mkdir()

    def run(script: str, *argv: str, programs: dict[str, str], **environment: str) -> subprocess.CompletedProcess:
        for name, text in programs.items():
            (folder / name).write_text(f"#!/usr/bin/env bash\n{text}\n")
            (folder / name).chmod(0o755)
        place = {
            "PATH": f"{folder}:{os.environ['PATH']}",
            "SSL_JAX": str(folder / "ssl-jax"),
            "LOG": str(folder / "log"),
        }
        return subprocess.run(
            [str(LAUNCH / script), *argv],
            env={**os.environ, **place, **environment},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    return run


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_sound(path):
    """By bash, and by shellcheck where it is installed."""
    checks = [["bash", "-n"], *([["shellcheck", "-x"]] if shutil.which("shellcheck") else [])]
    for check in checks:
        done = subprocess.run([*check, str(path)], cwd=LAUNCH.parent, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    assert os.access(path, os.X_OK) or path.name.startswith("_")


def test_hosts_start_one_process_each(tools):
    """Arguments arrive whole through two shells; an end with an error is tried again as often as was asked."""
    programs = {"ssh": 'exec bash -c "$2"', "ssl-jax": 'printf "%s|" "$@"; echo; ! [ "$3" = "--workdir=/a b" ]'}
    settings = ["simclr", "/a b", "--config.drop_epochs=(1, 2)"]
    done = tools("hosts.sh", "one two", *settings, programs=programs, RETRIES="1", PAUSE="0")
    command = (
        "pretrain|--config=simclr|--workdir=/a b|--config.drop_epochs=(1, 2)|--coordinator=one:52731|--processes=2"
    )
    expected = [f"{host}: {command}|--process={i}|" for i, host in enumerate(("one", "two"))]
    assert sorted(done.stdout.splitlines()) == sorted(expected * 2)
    assert done.returncode == 1
    assert "starting again (1 of 1)" in done.stderr
    assert tools("hosts.sh", "one", "simclr", "/a", programs=programs).returncode == 0
    assert tools("hosts.sh", "one", programs={}).returncode == 2
    done = tools("hosts.sh", " ", "simclr", "/a", programs={})
    assert (done.returncode, done.stderr[:6]) == (2, "usage:"), "no host"
    done = tools("hosts.sh", "me@one you@two", "simclr", "/a", programs=programs)
    assert done.stdout.count("|--coordinator=one:52731|") == 2, "the name of a user is ssh's affair"


def test_a_pause_before_another_attempt_can_be_interrupted(tools, tmp_path):
    ssh = 'echo "$1" >>"$LOG"; { sleep 0.3; kill -TERM "$PPID"; } >/dev/null 2>&1 & exit 3'
    done = tools("hosts.sh", "one", "simclr", "/a", programs={"ssh": ssh}, RETRIES="5", PAUSE="20")
    assert done.returncode == 3
    assert "starting again (1 of 5)" in done.stderr
    assert (tmp_path / "bin" / "log").read_text() == "one\n"


def test_slurm_requeues_what_was_saved(tools):
    """Each task of an array has its seed and its directory; only an end by SIGTERM goes back into the queue."""
    programs = {"srun": 'echo "$@"; exit "$STATUS"', "scontrol": 'echo scontrol "$@"', "ssl-jax": ""}
    slurm = {"SLURM_JOB_ID": "12", "SLURM_SUBMIT_DIR": "/none"}
    array = {**slurm, "SLURM_ARRAY_TASK_ID": "3"}
    done = tools("slurm.sh", "simclr", "/runs", "--config.steps=5", programs=programs, STATUS="143", **array)
    assert done.returncode == 143
    started, queued = done.stdout.splitlines()
    assert started.endswith("ssl-jax pretrain --config=simclr --workdir=/runs/3 --config.seed=3 --config.steps=5")
    assert queued == "scontrol requeue 12"
    for status in ("0", "1"):
        done = tools("slurm.sh", "simclr", "/runs", programs=programs, STATUS=status, **slurm)
        assert done.returncode == int(status)
        assert done.stdout.splitlines()[0].endswith("--workdir=/runs")
        assert "scontrol" not in done.stdout
    for given, started in (("/none/ssl-jax", "/none/ssl-jax"), ("", "ssl-jax")):
        done = tools("slurm.sh", "simclr", "/runs", programs=programs, STATUS="0", SSL_JAX=given, **slurm)
        assert f" {started} pretrain " in done.stdout, "one that was asked for is not replaced by another"


def test_a_tpu_slice_that_is_taken_away_is_asked_for_again(tools, tmp_path):
    """Asked for, prepared, lost in the middle of training, asked for again, trained to the end, deleted."""
    gcloud = """
    echo "$3 $4 ${*: -1}" >>"$LOG"
    n=$(grep -c pretrain "$LOG")
    case "$3 $4" in
      "queued-resources describe") cat "$LOG.state" 2>/dev/null || { echo "ERROR: NOT_FOUND" >&2; exit 1; } ;;
      "queued-resources create") echo ACTIVE >"$LOG.state" ;;
      "queued-resources delete") rm "$LOG.state" ;;
      *) if [[ "${*: -1}" = *pretrain* && $n = 1 ]]; then echo SUSPENDED >"$LOG.state"; exit 1; fi ;;
    esac"""
    done = tools("tpu_pod.sh", "simclr", "/mnt/a b", programs={"gcloud": gcloud}, ZONE="z", SPOT="yes", PAUSE="0")
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("Asking for a v4-32 in z") == 2
    assert done.stderr.rstrip().endswith("deleting the slice.")
    kinds = [line.split(" ", 2)[:2] for line in (tmp_path / "bin" / "log").read_text().splitlines()]
    assert kinds.count(["queued-resources", "create"]) == kinds.count(["queued-resources", "delete"]) == 2
    assert kinds.count(["tpu-vm", "scp"]) == 2


@pytest.mark.parametrize(
    ("given", "runtime"),
    [
        ({}, "tpu-ubuntu2204-base"),
        ({"TYPE": "v5litepod-256"}, "v2-alpha-tpuv5-lite"),
        ({"TYPE": "v5p-512"}, "v2-alpha-tpuv5"),
        ({"TYPE": "v6e-8"}, "v2-alpha-tpuv6e"),
        ({"TYPE": "v6e-8", "RUNTIME": "own"}, "own"),
    ],
)
def test_each_type_of_slice_has_its_software(tools, given, runtime):
    gcloud = """
    case "$4" in
      describe) echo "ERROR: NOT_FOUND" >&2; exit 1 ;;
      *) echo "$@"; exit 3 ;;
    esac"""
    done = tools("tpu_pod.sh", "simclr", "/mnt/a", programs={"gcloud": gcloud}, ZONE="z", **given)
    assert done.returncode == 3
    assert f"--accelerator-type={given.get('TYPE', 'v4-32')} --runtime-version={runtime}" in done.stdout


@pytest.mark.parametrize("name", ["hosts.sh", "slurm.sh", "tpu_pod.sh"])
def test_the_top_of_a_script_names_what_it_reads(name):
    """Every variable of the environment, `${NAME:-...}`, apart from those that Slurm sets."""
    top, body = (LAUNCH / name).read_text(encoding="utf-8").split("set -euo pipefail", 1)
    read = {found for found in re.findall(r"\$\{([A-Z][A-Z_]+):?[-?]", body) if not found.startswith("SLURM_")}
    assert read
    assert read - set(re.findall(r"[A-Z_]+", top)) == set()


def test_what_passes_is_waited_out(tools, tmp_path):
    """Without network for a moment, and not to be deleted at once: neither asked for anew nor asked without a pause."""
    gcloud = """
    echo "$4" >>"$LOG"
    case "$4" in
      describe)
        now=$(head -n 1 "$LOG.states"); sed -i 1d "$LOG.states"
        [ "$now" != down ] || { echo "ERROR: no network" >&2; exit 1; }
        echo "$now" ;;
      delete) [ ! -e "$LOG.busy" ] || { rm "$LOG.busy"; exit 1; } ;;
    esac"""
    programs, log = {"gcloud": gcloud, "sleep": 'echo sleep >>"$LOG"'}, tmp_path / "bin" / "log"
    states = "WAITING", "down", "SUSPENDING", "SUSPENDED", "SUSPENDED", "ACTIVE"
    log.with_suffix(".states").write_text("".join(f"{state}\n" for state in states))
    log.with_suffix(".busy").touch()
    done = tools("tpu_pod.sh", "simclr", "/mnt", programs=programs, ZONE="z")
    assert done.returncode == 0, done.stderr
    assert "ERROR: no network" in done.stderr
    found = log.read_text().split()
    waits = ["describe", "sleep"] * 3 + ["describe", "delete", "sleep", "describe", "delete", "create", "describe"]
    assert [word for word in found if word in waits] == [*waits, "delete"]
    log.unlink()
    log.with_suffix(".states").write_text("down\n")
    done = tools("tpu_pod.sh", "simclr", "/mnt", programs=programs, ZONE="z")
    assert (done.returncode, done.stderr, log.read_text()) == (1, "ERROR: no network\n", "describe\n")


def test_an_environment_of_the_users_is_not_erased(tools, tmp_path):
    """One that was made here is, where its Python is too old or broken."""
    folder, log = tmp_path / "env", tmp_path / "bin" / "log"
    folder.mkdir()
    (folder / "pyvenv.cfg").touch()
    setting = {"SSL_JAX_VENV": "env", "SSL_JAX_PYTHON": "anypython"}
    programs = {"anypython": '[ "$2" != venv ] || echo "$@" >>"$LOG"'}
    done = tools("quickstart.sh", programs=programs, **setting)
    assert done.returncode == 1
    [line] = done.stderr.splitlines()
    assert line.startswith(f"error: the virtual environment {folder} has no working Python 3.11 or newer; move it")
    assert not log.exists()
    (folder / "ssl_jax.stamp").touch()
    tools("quickstart.sh", programs=programs, **setting)
    assert log.read_text() == f"-m venv --clear -- {folder}\n"


@pytest.mark.parametrize("elsewhere", [False, True])
def test_the_quick_start_ends_with_how_to_go_on(tools, tmp_path, elsewhere):
    """Its last lines can be typed: they put the command on PATH, and name the data where it is not found by itself."""
    folder, data = tmp_path / "an env", tmp_path / "my data"
    for place in (folder / "bin", data):
        place.mkdir(parents=True)
    for name in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"):
        (data / f"{name}-ubyte").touch()
    (folder / "pyvenv.cfg").touch()
    (folder / "ssl_jax.stamp").write_text("digest core\n")
    (folder / "bin" / "activate").write_text(f'PATH="{folder}/bin:$PATH"\n')
    scripts = {"python": "echo digest", "ssl-jax": "mkdir -p runs/mine && touch runs/mine/report.html"}
    for name, text in scripts.items():
        (folder / "bin" / name).write_text(f"#!/usr/bin/env bash\n{text}\n")
        (folder / "bin" / name).chmod(0o755)
    setting = (
        {"FASHION_MNIST_DIR": str(data)} if elsewhere else {"QUICKSTART_CONFIG": "simclr:test", "FASHION_MNIST_DIR": ""}
    )
    done = tools("quickstart.sh", "runs/mine", programs={}, SSL_JAX_VENV=str(folder), **setting)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f"The report: {tmp_path}/runs/mine/report.html"
    typed = done.stderr.splitlines()[-1].partition("in your shell: ")[2]
    shown = subprocess.run(
        ["bash", "-c", f"{typed} && command -v ssl-jax && echo $FASHION_MNIST_DIR"],
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=True,
    )
    assert shown.stdout.splitlines() == [str(folder / "bin" / "ssl-jax"), str(data) if elsewhere else ""]


@pytest.mark.parametrize(
    ("minor", "newest", "made", "pinned"),
    [("11", "", True, True), ("11", "1", True, False), ("12", "", True, False), ("11", "", False, False)],
)
def test_versions_are_the_tested_ones_in_environments_of_our_own(tmp_path, minor, newest, made, pinned):
    """On the Python that they were tested with; one that was there before keeps what it has."""
    folder = tmp_path / "env" / "bin"
    text = f"""#!/usr/bin/env bash
    case "$*" in
      *"-m venv --clear"*) mkdir -p '{folder}'; cp "$0" '{folder}/python' ;;
      *"sys.version_info[:2] != (3, 11)"*) [ {minor} = 11 ] ;;
      *"-m pip"*) echo "$*" >>'{tmp_path}/log' ;;
      *) echo name ;;
    esac"""
    (python := tmp_path / "anypython").write_text(text)
    python.chmod(0o755)
    if not made:
        folder.mkdir(parents=True)
        shutil.copy(python, folder / "python")
    places = {"SSL_JAX_VENV": str(tmp_path / "env"), "SSL_JAX_PYTHON": str(python)}
    done = subprocess.run(
        ["bash", "-c", f". {LAUNCH}/_environment.sh; install_package test; install_package test"],
        env={**os.environ, **places, "SSL_JAX_NEWEST": newest},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    [line] = (tmp_path / "log").read_text().splitlines()  # the second time all is there
    assert ("--constraint launch/constraints.txt" in line) == pinned
    assert line.endswith("--editable .[test]")


def test_the_manifest_starts_a_run_on_every_host():
    text = (LAUNCH / "gke_jobset.yaml").read_text()
    manifest = yaml.safe_load(text)
    assert (manifest["apiVersion"], manifest["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    assert manifest["spec"]["failurePolicy"]["maxRestarts"] > 0, "preemption is no end"
    [workers] = manifest["spec"]["replicatedJobs"]
    job = workers["template"]["spec"]
    assert job["completionMode"] == "Indexed"
    assert (job["parallelism"], job["completions"], job["backoffLimit"]) == (4, 4, 0)
    pod = job["template"]["spec"]
    assert pod["restartPolicy"] == "Never"
    [container] = pod["containers"]
    chips = container["resources"]["limits"]["google.com/tpu"] * job["parallelism"]
    rows, columns = map(int, pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"].split("x"))
    assert chips == rows * columns
    program, command, config, workdir = container["command"]
    assert (program, command) == ("ssl-jax", "pretrain")
    assert config_flag.resolve_config(config.removeprefix("--config="))
    [mount], [volume] = container["volumeMounts"], pod["volumes"]
    assert workdir.startswith(f"--workdir={mount['mountPath']}/")
    assert mount["name"] == volume["name"]
    assert re.search(r"xpk workload create .*--max-restarts", text, re.DOTALL)


@pytest.fixture
def job() -> dict:
    """What JobSet makes of the manifest's template: a Job as Kubernetes itself has it."""
    [workers] = yaml.safe_load((LAUNCH / "gke_jobset.yaml").read_text())["spec"]["replicatedJobs"]
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": workers["name"]}, **workers["template"]}


@pytest.mark.parametrize("version", ["1.31", None])
def test_the_manifest_is_as_kubernetes_reads_it(job, version):
    """Against the schema of the API's oldest version that the launcher is for, and of the newest that is known."""
    version = version or kubernetes_validate.latest_version()
    kubernetes_validate.validate(job, version, strict=True)
    pod = job["spec"]["template"]["spec"]
    pod["containers"][0]["resource"] = pod["containers"][0].pop("resources")
    with pytest.raises(kubernetes_validate.ValidationError, match="resource"):
        kubernetes_validate.validate(job, version, strict=True)
