"""Too little memory on the accelerator, told in one sentence: what a step needs, as planned, and what helps."""

import contextlib
import re
from collections.abc import Iterator, Mapping
from typing import Any

import jax

from ssl_jax.core import UserError
from ssl_jax.experiment import Experiment
from ssl_jax.hardware import Topology

KINDS = {"cpu": "cpu", "gpu": "gpu", "tpu": "v5e"}  # any of the platform: only what is traced for it matters here


@contextlib.contextmanager
def told(config: Any) -> Iterator[list[Experiment]]:
    """Raise a `UserError` with the plan's figures and three settings when an allocation fails.

    Yields:
      A list for the experiment, once there is one: without, there are no figures.
    """
    known: list[Experiment] = []
    try:
        yield known
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        memory = planned(known[0]) if known else {}
        raise UserError(sentence(config, memory, str(error))) from error


@contextlib.contextmanager
def told_of(protocol: str, options: Mapping[str, Any]) -> Iterator[None]:
    """The same of an evaluation by a protocol with these options."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        now = options.get("batch_size") or "the preset's"
        lower = f"lower --set={protocol}.batch_size (now {now}), or " if "batch_size" in options else ""
        raise UserError(
            f"{too_small(str(error))} for the protocol {protocol}: {lower}evaluate on the processor, with "
            "JAX_PLATFORMS=cpu before the command; what was found before is kept."
        ) from error


def planned(experiment: Experiment) -> dict[str, int]:
    """Bytes on each device that a step needs, by kind, estimated from its trace as `ssl-jax plan --nocompile` does."""
    from ssl_jax.plan import estimate  # only needed when a run ends
    from ssl_jax.plan_step import step_of

    device, devices = experiment.mesh.devices.flat[0], experiment.mesh.size
    try:
        return estimate(step_of(experiment), Topology(KINDS[device.platform], (devices,)))["memory"]
    except Exception:  # what has to be told is the shortage, with figures or without
        return {}


def sentence(config: Any, memory: dict[str, int], error: str) -> str:
    """What is said; `memory` as `planned` returns it."""
    return f"{too_small(error)}{figures(memory)}: {helps(config, memory)}."


def too_small(error: str) -> str:
    """The sentence's beginning: whose memory, how much there is, and what could not be allocated."""
    device = jax.local_devices()[0]
    limit = (device.memory_stats() or {}).get("bytes_limit")
    room = f", which has {limit / 2**30:.1f} GiB," if limit else ""
    wanted = re.search(r"allocat\w* ([\d.]+ ?\w*)", error)
    failed = f" (could not allocate {wanted[1].strip()})" if wanted else ""
    return f"The memory of the {device.device_kind}{room} is too small{failed}"


def figures(memory: dict[str, int]) -> str:
    """What a step needs, in words: the total, and every kind that is at least a hundredth of it."""
    from ssl_jax.plan_table import size

    total = sum(memory.values())
    kinds = ", ".join(f"{size(count)} {kind}" for kind, count in memory.items() if count >= 0.01 * total)
    return f" for a step that is planned with {size(total)} on each device ({kinds})" if total else ""


def helps(config: Any, memory: dict[str, int]) -> str:
    """The three settings that help most."""
    state = sum(memory.get(kind, 0) for kind in ("parameters", "optimizer", "teacher", "memory bank"))
    if state > 0.5 * sum(memory.values()) and config.sharding == "replicated" and jax.device_count() > 1:
        third = "--config.sharding=fsdp (now replicated)"
    elif config.dtype == "float32":
        third = "--config.dtype=bfloat16 (now float32)"
    else:
        third = f"--config.remat=blocks (now {config.remat})"
    return (
        f"raise --config.micro_batches (now {config.micro_batches}), lower --config.batch_size (now "
        f"{config.batch_size}), or use {third}"
    )
