"""How long a step would take on hardware that is not there: arithmetic on peaks, bytes and cycles.

A roofline is a bound from below: as long as the slowest of multiplying at the peak and reading memory at full speed.
The TPU's compiler counts cycles itself, which takes its formulations into account. Collectives come on top, as if none
were hidden behind arithmetic, at the speed of all links in a ring and with a latency per hop.
"""

import math
from collections.abc import Iterable
from typing import Any

from ssl_jax.collectives import Collective
from ssl_jax.hardware import Topology

HOP = 1e-6  # seconds from chip to neighbouring chip of a TPU slice (Austin et al., 2025, "How to Scale Your Model")
GPU_HOP = 10e-6  # assumed, for an operation within a node, and again for every doubling of nodes
SLICE_HOP = 100e-6  # assumed, from slice to slice over the data centre's network


def hops(kind: str, topology: Topology) -> int:
    """Neighbours that a message passes one after the other in a collective on a torus, both ways round."""
    if kind == "collective-permute":
        return 1
    once = sum(max(n // 2, n > 1) for n in topology.shape)
    return 2 * once if kind == "all-reduce" else once


def latency(kind: str, topology: Topology) -> float:
    """Seconds that a collective of no bytes takes."""
    if kind == "send":
        return SLICE_HOP
    if topology.chip.platform == "tpu":
        return HOP * hops(kind, topology)
    nodes = math.ceil(topology.devices / (topology.chip.node or topology.devices))
    return GPU_HOP * (1 + math.ceil(math.log2(nodes))) if topology.devices > 1 else 0.0


def speed(kind: str, topology: Topology) -> float | None:
    """Bytes per second that a device sends in a collective."""
    chip = topology.chip
    beyond = chip.node is not None and topology.devices > chip.node
    if kind == "send" or beyond:
        return chip.network
    if kind == "collective-permute" and chip.dims and chip.links:  # over one of the links, in one direction
        return chip.links * chip.cores / (2 * chip.dims)
    return chip.links


def seconds_of(c: Collective, topology: Topology) -> float | None:
    """Of all times that a collective runs in a step."""
    fast = speed(c.kind, topology)
    return None if fast is None else c.sent / fast + c.times * latency(c.kind, topology)


def summary(found: Iterable[Collective], topology: Topology) -> list[dict[str, Any]]:
    """One row per kind: how often, bytes of the arrays, bytes that each device sends, seconds."""
    found, rows = list(found), []
    for kind in dict.fromkeys(c.kind for c in found):
        these = [c for c in found if c.kind == kind]
        seconds = [seconds_of(c, topology) for c in these]
        rows.append(
            {
                "kind": kind,
                "count": sum(c.times for c in these),
                "bytes": sum(c.bytes * c.times for c in these),
                "sent_per_device": sum(c.sent for c in these),
                "seconds": None if None in seconds else math.fsum(s for s in seconds if s is not None),
                "loops_known": all(c.known for c in these),
            }
        )
    return rows


def step_seconds(
    topology: Topology,
    *,
    flops: float,
    traffic: float,
    cycles: int | None,
    rows: list[dict[str, Any]],
    dtype: str = "bfloat16",
) -> dict[str, Any]:
    """Seconds of a step by part, and of the whole with what it rests on.

    Args:
      topology: devices.
      flops: operations of products in a step, on all devices together.
      traffic: bytes of memory that a device reads and writes in it.
      cycles: of a device's arithmetic by its compiler, or None.
      rows: what `summary` says.
      dtype: of the config, which products are made in.

    Returns:
      products, memory, compiler, collectives, step (None where the chip's figures are not known) and basis, "compiler"
      or "roofline".
    """
    chip = topology.chip
    peak = chip.peak(dtype)
    products = None if peak is None else flops / topology.devices / peak
    memory = None if chip.bandwidth is None else traffic / chip.bandwidth
    compiler = cycles / chip.clock if cycles and chip.clock else None
    talk = [row["seconds"] for row in rows]
    collectives = None if None in talk else math.fsum(talk)
    bound = None if products is None or memory is None else max(products, memory)
    arithmetic = compiler or bound
    return {
        "products": products,
        "memory": memory,
        "compiler": compiler,
        "collectives": collectives,
        "step": None if arithmetic is None or collectives is None else arithmetic + collectives,
        "basis": "compiler" if compiler else "roofline",
    }


def run(
    topology: Topology,
    *,
    step: float | None,
    steps: int,
    batch: int,
    flops: float,
    price: float | None,
    dtype: str = "bfloat16",
) -> dict[str, Any]:
    """Speed, utilisation, time and cost of a whole run.

    Args:
      topology: devices.
      step: seconds of a step, or None if not known.
      steps: of the run.
      batch: images of a step.
      flops: of the model alone (no augmentation, nothing computed twice) in a step, on all devices together.
      price: of a chip and hour, in any currency, or None.
      dtype: of the config; utilisation is that of its peak.
    """
    if step is None:
        return dict.fromkeys(("images_per_second", "model_flop_utilisation", "hours", "chip_hours", "cost"))
    hours = steps * step / 3600
    peak = topology.chip.peak(dtype)
    return {
        "images_per_second": batch / step,
        "model_flop_utilisation": flops / (step * topology.devices * peak) if peak else None,
        "hours": hours,
        "chip_hours": hours * topology.chips,
        "cost": None if price is None else hours * topology.chips * price,
    }
