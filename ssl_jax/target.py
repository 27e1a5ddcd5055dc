"""The devices of a topology that a program is compiled for, whether they are there or not."""

import importlib.metadata
import importlib.util
import os
import re
from typing import Any

import jax

from ssl_jax.core import UserError
from ssl_jax.hardware import CHIPS, SHARE, Topology

# libtpu asks the machine which TPU it is, locks it, and is talkative about finding none.
LIBTPU = {
    "TPU_SKIP_MDS_QUERY": "1",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
    "TPU_STDERR_LOG_LEVEL": "3",
    "TPU_MIN_LOG_LEVEL": "3",
}


def prepare(topology: Topology) -> None:
    """Set what has to be set before JAX starts its devices: CPUs only, and as many as asked for.

    An accelerator of this machine is left alone, unless it is what is planned for.
    """
    if topology.chip.platform != "gpu":
        os.environ.setdefault("JAX_PLATFORMS", "cpu")
        jax.config.update("jax_platforms", "cpu")
    flag, given = "--xla_force_host_platform_device_count", os.environ.get("XLA_FLAGS", "")
    if topology.kind == "cpu" and flag not in given:
        os.environ["XLA_FLAGS"] = f"{given} {flag}={topology.devices}".strip()


def devices(topology: Topology) -> list[Any]:
    """The devices, which can be compiled for, and run on only if they are there.

    Raises:
      UserError: libtpu is missing or knows no such slice; there are fewer GPUs or CPU devices.
    """
    if topology.chip.platform == "tpu":
        return _tpus(topology)
    platform = topology.chip.platform
    try:
        here = jax.devices(platform)
    except RuntimeError:
        here = []
    if topology.kind not in ("gpu", "cpu"):
        here = [d for d in here if is_a(topology.kind, d)]
    if len(here) < topology.devices:
        raise UserError(
            f"{topology} wants {topology.devices} devices, and {len(here)} of these are here, so that nothing can be "
            f"compiled for them; --nocompile estimates."
        )
    return here[: topology.devices]


def _tpus(topology: Topology) -> list[Any]:
    if importlib.util.find_spec("libtpu") is None:
        raise UserError(
            f"To compile for {topology} takes the TPU compiler, which needs no TPU: pip install 'ssl_jax[tpu]'; or "
            "--nocompile, which estimates."
        )
    from jax.experimental import topologies

    for name, value in LIBTPU.items():
        os.environ.setdefault(name, value)
    options: dict[str, Any] = dict(topology.chip.options)
    if topology.slices > 1:
        options["num_slices"] = topology.slices
    if topology.chips == topology.slices:
        options["chips_per_host_bounds"] = [1] * 3
    try:
        described = topologies.get_topology_desc(topology_name=topology.name, platform="tpu", **options)
    except jax.errors.JaxRuntimeError as error:
        raise UserError(f"libtpu knows no {topology}: {str(error).splitlines()[0]}") from error
    return list(described.devices)


def is_a(kind: str, device: Any) -> bool:
    """Whether a device's name has that of a kind as a word: an H200 is not half of a GH200."""
    return re.search(rf"\b{kind}\b", device.device_kind.lower()) is not None


def kind_of(device: Any, topology: Topology) -> str:
    """Key of `CHIPS` for a device: a GPU of this machine by its name, if its peaks are known."""
    if topology.kind != "gpu" or re.search(r"\b(pcie|nvl|mig)\b", device.device_kind.lower()):  # slower forms, parts
        return topology.kind
    return next((kind for kind in CHIPS if is_a(kind, device)), topology.kind)


def memory(topology: Topology, device: Any) -> tuple[float | None, float | None]:
    """Bytes that programs have on each device, and the share of a GPU that this is, if it is one.

    JAX takes a share of a GPU for itself. How much that is says a device that is there, of whatever card; of others it
    is what the environment sets for this process.

    Args:
      topology: what is planned for.
      device: one of it, or of this machine in its place.
    """
    card = topology.chip.memory
    if topology.chip.platform != "gpu":
        return card, None
    if device.platform == "gpu" and (topology.kind == "gpu" or is_a(topology.kind, device)):
        limit = (device.memory_stats() or {}).get("bytes_limit")
        if limit:
            return float(limit), None
    share = float(os.environ.get(SHARE, "0.75"))
    return (None, None) if card is None else (share * card, share)


def versions(topology: Topology) -> dict[str, str]:
    """Versions of what compiled: a saved executable is for the same ones only."""
    found = {"jax": jax.__version__, "jaxlib": importlib.metadata.version("jaxlib")}
    return found | ({"libtpu": importlib.metadata.version("libtpu")} if topology.chip.platform == "tpu" else {})
