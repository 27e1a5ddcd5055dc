"""What a part needs that measures in a process of its own: the device, seconds of a call, its memory."""

import statistics
import time
from collections.abc import Callable
from typing import Any

import jax

SECONDS = 1.0  # that one figure is measured for, at least three calls


def machine() -> dict[str, Any]:
    """The device by name, and JAX's platform."""
    device = jax.devices()[0]
    return {"device": device.device_kind, "platform": device.platform, "devices": jax.device_count()}


def seconds(call: Callable, *arguments: Any, enough: float = SECONDS) -> dict[str, float]:
    """Of one call, by rounds: a round waits for its end, and is as many calls as take about a tenth of `enough`."""
    jax.block_until_ready(call(*arguments))
    began = time.perf_counter()
    jax.block_until_ready(call(*arguments))
    once = time.perf_counter() - began
    count = max(1, round(enough / 10 / max(once, 1e-6)))
    took: list[float] = []
    while len(took) < 3 or (sum(took) * count < enough and len(took) < 10):
        began = time.perf_counter()
        for _ in range(count):
            result = call(*arguments)
        jax.block_until_ready(result)
        took.append((time.perf_counter() - began) / count)
    return {"s": statistics.median(took), "fastest_s": min(took), "slowest_s": max(took)}


def compiled(function: Callable, *arguments: Any) -> tuple[Callable, dict[str, float]]:
    """A function compiled for its arguments; seconds that took, and bytes of temporaries."""
    began = time.perf_counter()
    call = jax.jit(function).lower(*arguments).compile()
    took = time.perf_counter() - began
    return call, {"compile_s": took, "temporary_bytes": call.memory_analysis().temp_size_in_bytes}


def out_of_memory(error: Exception) -> bool:
    """Whether the device's memory was too small, when a program was made or run."""
    return "RESOURCE_EXHAUSTED" in str(error) or "out of memory" in str(error).lower()
