"""Who started this process as one of several, and how to join the others: what the environment and flags say of it."""

import pathlib
import re
from collections.abc import Mapping
from typing import Any

from ssl_jax.core import UserError

HEAD_OF_OPEN_MPI = "OMPI_MCA_orte_hnp_uri"  # by which JAX finds the first process; Open MPI 4 sets it, 5 does not


def cluster(environment: Mapping[str, str]) -> str:
    """Name the launcher that started this process as one of several; empty if none did."""
    several = lambda name: int(environment.get(name, "1")) > 1  # noqa: E731
    if several("SLURM_NTASKS") and {"SLURM_PROCID", "SLURM_STEP_NODELIST"} <= environment.keys():
        return "Slurm"
    if several("OMPI_COMM_WORLD_SIZE"):
        return "Open MPI"
    if "," in environment.get("TPU_WORKER_HOSTNAMES", "") or several("MEGASCALE_NUM_SLICES"):
        return "TPU"
    if "KUBERNETES_SERVICE_HOST" in environment and "JOB_COMPLETION_INDEX" in environment:
        return "Kubernetes"
    return ""


def one_task_per_node(environment: Mapping[str, str]) -> bool:
    """Whether Slurm or Open MPI started one process on each host, which then has all of its accelerators.

    JAX takes one accelerator per process under these two unless told.
    """
    slurm = re.fullmatch(r"1(\(x\d+\))?", environment.get("SLURM_STEP_TASKS_PER_NODE", ""))
    return bool(slurm) or environment.get("OMPI_COMM_WORLD_LOCAL_SIZE") == "1"


def arguments(
    coordinator: str | None, processes: int | None, process: int | None, environment: Mapping[str, str]
) -> dict[str, Any] | None:
    """Arguments of `jax.distributed.initialize` from flags or else the environment; None for a process by itself.

    Raises:
      UserError: the flags are incomplete or make no sense.
    """
    launcher = cluster(environment)
    if launcher == "Open MPI" and coordinator is not None and processes is process is None:
        processes, process = (int(environment[f"OMPI_COMM_WORLD_{name}"]) for name in ("SIZE", "RANK"))
        return {**meeting_at(coordinator, processes, process), "local_device_ids": _own_of_open_mpi(environment)}
    given = {"coordinator": coordinator, "processes": processes, "process": process}
    missing = [f"--{name}" for name, value in given.items() if value is None]
    if coordinator is not None and processes is not None and process is not None:
        found = meeting_at(coordinator, processes, process)
        return found if processes > 1 else None
    if len(missing) < 3:
        raise UserError(
            f"Of --coordinator=HOST:PORT, --processes=N and --process=I, {' and '.join(missing)} is missing."
        )
    if launcher == "Open MPI" and HEAD_OF_OPEN_MPI not in environment:
        raise UserError(
            "Open MPI 5 does not tell its processes where the first of them is: add --coordinator=HOST:PORT, the first "
            "host's name and a free port, or --distributed=off for a process by itself."
        )
    if launcher or on_tpu_vm(environment):
        return {"local_device_ids": []} if one_task_per_node(environment) else {}
    return None


def meeting_at(coordinator: str, processes: int, process: int) -> dict[str, Any]:
    """Arguments of `jax.distributed.initialize` where all is said, so that JAX looks for nothing.

    Raises:
      UserError: they make no sense.
    """
    if not re.fullmatch(r".+:\d+", coordinator):
        raise UserError(f"--coordinator is the first host's name and a free port, HOST:PORT, not {coordinator!r}.")
    if not 0 <= process < processes:
        raise UserError(f"--process={process} must lie in 0 to {processes - 1}, for --processes={processes}.")
    found = {"coordinator_address": coordinator, "num_processes": processes, "process_id": process}
    return {**found, "cluster_detection_method": "deactivate"}


def _own_of_open_mpi(environment: Mapping[str, str]) -> list[int]:
    """Numbers of the accelerators that a process takes, as under Open MPI 4; empty for all, with a host to itself."""
    return [] if one_task_per_node(environment) else [int(environment["OMPI_COMM_WORLD_LOCAL_RANK"])]


def on_tpu_vm(environment: Mapping[str, str]) -> bool:
    """Whether this is a virtual machine with TPU chips, which may be one of a slice's; its metadata will tell JAX."""
    wanted = environment.get("JAX_PLATFORMS", "tpu")
    return "tpu" in wanted and any(
        next(pathlib.Path("/dev").glob(name), None) for name in ("accel[0-9]*", "vfio/[0-9]*")
    )
