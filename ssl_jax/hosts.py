"""Several processes, one per host or accelerator, as one run: how they find each other, agree, and stop together.

With one process every function here does its work at once and waits for nobody.
"""

import collections
import contextlib
import json
import os
import pathlib
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from ssl_jax.core import UserError
from ssl_jax.sharding import by_example, replicated

T = TypeVar("T")
HEARTBEAT = 60  # seconds after which a silent process counts as lost, and JAX ends the others


class Agreed(UserError):
    """An error that every process raises at the same point, so that all of them can end in order."""


class Lost(UserError):
    """Another process of the run has gone: nothing that needs all of them, such as a checkpoint, can be done."""


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
    given = {"coordinator": coordinator, "processes": processes, "process": process}
    missing = [f"--{name}" for name, value in given.items() if value is None]
    if len(missing) < 3:
        if missing:
            raise UserError(
                f"Of --coordinator=HOST:PORT, --processes=N and --process=I, {' and '.join(missing)} is missing."
            )
        assert coordinator is not None
        assert processes is not None
        assert process is not None
        if not re.fullmatch(r".+:\d+", coordinator):
            raise UserError(f"--coordinator is the first host's name and a free port, HOST:PORT, not {coordinator!r}.")
        if not 0 <= process < processes:
            raise UserError(f"--process={process} must lie in 0 to {processes - 1}, for --processes={processes}.")
        found = {"coordinator_address": coordinator, "num_processes": processes, "process_id": process}
        return {**found, "cluster_detection_method": "deactivate"} if processes > 1 else None
    if cluster(environment) or on_tpu_vm(environment):
        return {"local_device_ids": []} if one_task_per_node(environment) else {}
    return None


def on_tpu_vm(environment: Mapping[str, str]) -> bool:
    """Whether this is a virtual machine with TPU chips, which may be one of a slice's; its metadata will tell JAX."""
    wanted = environment.get("JAX_PLATFORMS", "tpu")
    return "tpu" in wanted and any(
        next(pathlib.Path("/dev").glob(name), None) for name in ("accel[0-9]*", "vfio/[0-9]*")
    )


@contextlib.contextmanager
def session(
    *,
    coordinator: str | None = None,
    processes: int | None = None,
    process: int | None = None,
    timeout: int = 300,
    environment: Mapping[str, str] = os.environ,
) -> Iterator[None]:
    """Join the other processes of a run for the time of the context; a process by itself just goes on.

    Where they are comes from the arguments, or from Slurm, Open MPI, Kubernetes (an indexed Job or a JobSet) or a TPU
    slice. To be entered before JAX starts its devices.

    Args:
      coordinator: `HOST:PORT` of process 0, which listens there.
      processes: how many there are.
      process: which one this is, from 0.
      timeout: seconds to wait for the others.
      environment: of this process.

    Raises:
      UserError: the arguments make no sense, or what the environment says is not enough.
    """
    known = arguments(coordinator, processes, process, environment)
    if known is None or not _initialize(known, cluster(environment), timeout):
        yield
        return
    try:
        yield
    except (Agreed, SystemExit):  # all processes have come to the same end; of any other error the rest know nothing
        jax.distributed.shutdown()
        raise
    jax.distributed.shutdown()


def _initialize(known: dict[str, Any], launcher: str, timeout: int) -> bool:
    """Start `jax.distributed`; False if no launcher is known and JAX finds no other process either."""
    where = known.get("coordinator_address") or f"the coordinator that {launcher or 'the TPU'} names"
    index, count = known.get("process_id"), known.get("num_processes")
    text = (
        f"Waited {timeout} seconds in vain for the other {count - 1} process(es) to come to {where}"
        if index == 0 and count
        else f"No answer from the coordinator at {where} in {timeout} seconds, or not all processes came"
    )
    # JAX itself would abort the process with a stack trace.
    timer = threading.Timer(timeout, _give_up, [f"{text}: are all started, with the same address and number?"])
    timer.daemon = True
    timer.start()
    limits: dict[str, Any] = {"initialization_timeout": timeout + 60, "shutdown_timeout_seconds": HEARTBEAT}
    try:
        jax.distributed.initialize(**known, **limits, heartbeat_timeout_seconds=min(HEARTBEAT, timeout))
    except (RuntimeError, ValueError, KeyError) as error:
        if not launcher and "coordinator_address" not in known:
            return False
        reason = next(iter(str(error).splitlines()), "")
        raise UserError(
            f"The processes of {launcher or 'this run'} could not be joined at {where} ({reason}). Give "
            "--coordinator=HOST:PORT, --processes=N and --process=I, or --distributed=off for a process by itself."
        ) from error
    finally:
        timer.cancel()
    return True


def _give_up(text: str) -> None:
    print(f"ssl-jax: {text}", file=sys.stderr, flush=True)
    os._exit(1)


def leave() -> None:
    """End the process at once if it is still joined to others: the usual end would wait for them."""
    if jax.distributed.is_initialized() and jax.process_count() > 1:
        if is_first():
            time.sleep(1)  # JAX ends the others when their coordinator is gone, and they may have something to say
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(1)


def is_first() -> bool:
    """Whether this is the process that speaks and writes for all."""
    return jax.process_index() == 0


def exchange(value: Any) -> list[Any]:
    """Every process hands in a value that JSON has, and gets all of them, in the order of processes."""
    if jax.process_count() == 1:
        return [value]
    text = np.frombuffer(json.dumps(value).encode(), np.uint8)
    sizes = np.asarray(multihost_utils.process_allgather(np.asarray([text.size], np.int32))).reshape(-1)
    padded = np.zeros(1 << int(sizes.max()).bit_length(), np.uint8)  # few sizes, so few programs
    padded[: text.size] = text
    rows = np.asarray(multihost_utils.process_allgather(padded)).reshape(sizes.size, -1)
    return [json.loads(row[:size].tobytes()) for row, size in zip(rows, sizes, strict=True)]


def together(function: Callable[[], T]) -> T:
    """Call a function in every process; if it raises a `UserError` in any, all raise.

    Raises:
      Agreed: with one process's words, if another raised; otherwise what the function raised here.
    """
    if jax.process_count() == 1:
        return function()
    result, mine = None, None
    try:
        result = function()
    except UserError as error:
        mine = str(error)
    wrong = [(i, text) for i, text in enumerate(exchange(mine)) if text is not None]
    if wrong:
        raise Agreed(mine if mine is not None else f"Process {wrong[0][0]} had to stop: {wrong[0][1]}")
    return result  # type: ignore[return-value]


def on_first(function: Callable[[], T]) -> T:
    """Call a function in the first process alone; all get its result, as JSON has it, or raise its `UserError`."""
    return exchange(together(lambda: function() if is_first() else None))[0]


def agree(what: Mapping[str, Any], hint: str) -> None:
    """Raise in all processes if what they hand in differs, naming the entries; `hint` is what to do then."""
    first, *others = exchange(dict(what))
    for i, other in enumerate(others, start=1):
        changed = [
            f"{name}: {first.get(name, 'not set')} / {other.get(name, 'not set')}"
            for name in sorted(first.keys() | other.keys())
            if first.get(name) != other.get(name)
        ]
        if changed:
            more = f" and {len(changed) - 5} more" if len(changed) > 5 else ""
            raise Agreed(f"The processes 0 and {i} differ in {'; '.join(changed[:5])}{more}. {hint}")


class Vote:
    """Whether any process has seen a signal, so that all stop at the same step.

    An answer is read a few steps after its question on accelerators, which therefore never wait for it.
    """

    def __init__(self, mesh: Mesh):
        """For processes that call in step with each other, on a mesh over all of their devices."""
        self.mesh, self.several = mesh, jax.process_count() > 1
        self.behind = 0 if mesh.devices.flat[0].platform == "cpu" else 2
        self._any = jax.jit(lambda x: x.max(), out_shardings=replicated(mesh))
        self._asked: collections.deque[jax.Array] = collections.deque()

    def any(self, here: bool) -> bool:
        """Ask whether `here` is true in any process; to be called once per step."""
        if not self.several:
            return here
        local = np.full(jax.local_device_count(), here, np.int32)
        self._asked.append(self._any(jax.make_array_from_process_local_data(by_example(self.mesh), local)))
        return len(self._asked) > self.behind and bool(self._asked.popleft())


@contextlib.contextmanager
def lost() -> Iterator[None]:
    """Raise `Lost` where another process's end shows as an error of a collective operation."""
    try:
        yield
    except (jax.errors.JaxRuntimeError, ValueError) as error:
        words = ("Gloo", "NCCL", "UNAVAILABLE", "DEADLINE_EXCEEDED", "coordination", "CoordinationService", "Barrier")
        if isinstance(error, UserError) or jax.process_count() == 1 or not any(word in str(error) for word in words):
            raise
        reason = next(iter(str(error).splitlines()), "")[:200]
        raise Lost(
            f"Another process of this run has ended or can't be reached ({reason}). Its own messages say why; the same "
            "command on all hosts goes on from the newest checkpoint."
        ) from error
