"""A Slurm cluster of two nodes on this machine, for as long as a context lasts; all of it in one directory.

`python tests/local_slurm.py COMMAND ...` runs a command that finds the cluster. It needs Debian's packages slurm-wlm
and munge, and no special rights: nothing in /etc is read or written.
"""

import contextlib
import getpass
import os
import pathlib
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun")
PLACES = f"{os.environ['PATH']}:/usr/sbin:/sbin"
# Names that are addresses: JAX asks the first node of a step to coordinate, and these are found without a name server.
NODES = ("127.0.0.1", "127.0.0.2")

CONFIG = """
ClusterName=local
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
MpiDefault=none
ReturnToService=2
KillWait=30
{nodes}
PartitionName=main Nodes=ALL Default=YES MaxTime=60 State=UP
"""


def missing() -> list[str]:
    """Programs that are not installed."""
    return [name for name in PROGRAMS if shutil.which(name, path=PLACES) is None]


@contextlib.contextmanager
def cluster() -> Iterator[dict[str, str]]:
    """Start the daemons, wait until both nodes are idle, and stop them at the end; yields what clients need to know."""
    with tempfile.TemporaryDirectory(prefix="slurm-", dir="/tmp") as name, contextlib.ExitStack() as stack:
        folder = pathlib.Path(name)
        folder.chmod(0o755)  # munged refuses a socket that others can't reach
        environment = {**os.environ, "PATH": PLACES, "SLURM_CONF": str(folder / "slurm.conf")}
        _write_config(folder)
        key = folder / "munge.key"
        key.write_bytes(secrets.token_bytes(128))
        key.chmod(0o400)
        munge = {"key-file": key, "socket": folder / "munge.socket", "pid-file": folder / "munge.pid"}
        munge |= {"log-file": folder / "munge.log", "seed-file": folder / "munge.seed"}
        daemons = [["munged", "--foreground", "--force", *(f"--{option}={path}" for option, path in munge.items())]]
        daemons += [["slurmctld", "-D"], *(["slurmd", "-D", "-N", node] for node in NODES)]
        for command in daemons:
            stack.enter_context(_running(command, environment, folder))
            _until(lambda: munge["socket"].exists(), folder)
        idle = ["sinfo", "--noheader", "--states=idle", "--format=%D"]
        _until(
            lambda: subprocess.run(idle, env=environment, capture_output=True, text=True).stdout.strip() == "2", folder
        )
        yield environment


def _write_config(folder: pathlib.Path) -> None:
    (folder / "state").mkdir()
    sockets = [socket.socket() for _ in range(3)]
    for s in sockets:
        s.bind(("127.0.0.1", 0))
    controller, *ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    nodes = "\n".join(
        f"NodeName={node} NodeHostname={node} NodeAddr=127.0.0.1 Port={port} CPUs={os.cpu_count()} State=UNKNOWN"
        for node, port in zip(NODES, ports, strict=True)
    )
    text = CONFIG.format(
        folder=folder,
        host=socket.gethostname().split(".")[0],
        user=getpass.getuser(),
        controller=controller,
        nodes=nodes,
    )
    (folder / "slurm.conf").write_text(text)


@contextlib.contextmanager
def _running(command: list[str], environment: dict[str, str], folder: pathlib.Path) -> Iterator[None]:
    with (folder / "daemons.log").open("a") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _until(condition, folder: pathlib.Path, seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            logs = "\n".join(f"{path.name}:\n{path.read_text()[-2000:]}" for path in sorted(folder.glob("*.log")))
            raise RuntimeError(f"Slurm has not come up in {seconds:.0f} s.\n{logs}")
        time.sleep(0.1)


if __name__ == "__main__":
    with cluster() as found:
        raise SystemExit(subprocess.run(sys.argv[1:], env=found).returncode)
