"""Several processes, one per host or accelerator, as one run: how they find each other, agree, and stop together.

With one process every function here does its work at once and waits for nobody.
"""

import collections
import contextlib
import json
import os
import pathlib
import platform
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from ssl_jax import launchers
from ssl_jax.core import UserError
from ssl_jax.sharding import by_example, replicated

T = TypeVar("T")
HEARTBEAT = 60  # seconds after which a silent process counts as lost, and JAX ends the others
PATIENCE = 60  # seconds in which a file that one host has made is to be seen by all; NFS may need thirty
ALONE = "coordinator_address should be defined"  # JAX's words where it knows of no launcher


class Agreed(UserError):
    """An error that every process raises at the same point, so that all of them can end in order."""


class Lost(UserError):
    """Another process of the run has gone: nothing that needs all of them, such as a checkpoint, can be done."""


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
    known = launchers.arguments(coordinator, processes, process, environment)
    if known is None or not _initialize(known, launchers.cluster(environment), timeout):
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
    # JAX itself would abort the process with a stack trace.
    timer = threading.Timer(timeout, lambda: _give_up(_in_vain(known, launcher, timeout)))
    timer.daemon = True
    timer.start()
    limits: dict[str, Any] = {"initialization_timeout": timeout + 60, "shutdown_timeout_seconds": HEARTBEAT}
    try:
        jax.distributed.initialize(**known, **limits, heartbeat_timeout_seconds=min(HEARTBEAT, timeout))
    except Exception as error:  # of JAX, of the metadata's server, of a launcher's own package
        if not launcher and "coordinator_address" not in known and ALONE in str(error):
            return False
        reason = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise UserError(
            f"The processes of {launcher or 'this run'} could not be joined at {_meeting(known, launcher)[0]} "
            f"({reason}). Give --coordinator=HOST:PORT, --processes=N and --process=I, or --distributed=off for a "
            "process by itself."
        ) from error
    finally:
        timer.cancel()
    return True


def _meeting(known: dict[str, Any], launcher: str) -> tuple[str, int | None, int | None]:
    """Where processes meet, which one this is and how many there are; by the arguments or what JAX has found out."""
    jaxs = getattr(sys.modules.get("jax._src.distributed"), "global_state", None)  # it says so nowhere else
    if known.get("coordinator_address"):
        return known["coordinator_address"], known["process_id"], known["num_processes"]
    if address := getattr(jaxs, "coordinator_address", None):
        return address, getattr(jaxs, "process_id", None), getattr(jaxs, "num_processes", None)
    return f"the coordinator that {launcher or 'the TPU'} names", None, None


def _in_vain(known: dict[str, Any], launcher: str, timeout: int) -> str:
    where, index, count = _meeting(known, launcher)
    text = (
        f"Waited {timeout} seconds in vain for the other {count - 1} process(es) to come to {where}"
        if index == 0 and count
        else f"No answer from the coordinator at {where} in {timeout} seconds, or not all processes came"
    )
    return f"{text}: are all started, with the same address and number?"


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


def check_devices() -> None:
    """Raise in all processes if they have not the same number of devices, which whatever they compute rests on."""
    counts = collections.Counter(device.process_index for device in jax.devices())
    odd = next((i for i in sorted(counts) if counts[i] != counts[0]), None)
    if odd is not None:
        raise Agreed(
            f"The processes 0 and {odd} differ in devices: {counts[0]} / {counts[odd]}. Give each the same number of "
            "them, of one kind."
        )


def exchange(value: Any) -> list[Any]:
    """Every process hands in a value that JSON has, and gets all of them, in the order of processes.

    Raises:
      Agreed: see `check_devices`.
    """
    if jax.process_count() == 1:
        return [value]
    check_devices()
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


def check_shared(directory: pathlib.Path) -> None:
    """Raise in all processes if a directory is not the same for all of them: what the first makes there, all must see.

    The file has a name that nobody can have looked for before, so that no host remembers that it is not there.
    """
    if jax.process_count() == 1:
        return

    def leave_a_file() -> str:
        name = f".seen-by-all-{uuid.uuid4().hex}"
        (directory / name).touch()
        return name

    name = on_first(leave_a_file)

    def look() -> None:
        limit = time.monotonic() + PATIENCE
        while not (directory / name).exists():
            if time.monotonic() > limit:
                raise UserError(
                    f"{platform.node()} does not see in {directory} what the first host wrote there; it must be on a "
                    "file system that all hosts share."
                )
            time.sleep(0.1)

    try:
        together(look)
    finally:
        if is_first():
            (directory / name).unlink(missing_ok=True)


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
