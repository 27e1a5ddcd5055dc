"""What the training step of a config would need on a topology: compiled for it, or else estimated from its trace."""

import dataclasses
import math
import re
from collections.abc import Callable
from typing import Any

import jax
from ml_collections import ConfigDict

from ssl_jax import costs, forecast, hlo, target
from ssl_jax.advice import advice, faster, fits
from ssl_jax.collectives import Collective, collectives
from ssl_jax.hardware import Topology
from ssl_jax.plan_step import Step, compiled_for, memory_by_kind, model_flops, nowhere, step_for


def estimate(step: Step, topology: Topology) -> dict[str, Any]:
    """Operations, memory and collectives from the trace alone."""
    platform = topology.chip.platform
    jaxpr = costs.trace(step.function, step.state, step.batch)
    kinds = memory_by_kind(step)
    # What is as large as the parameters is on every device (gradient, update); the rest grows with the batch.
    parameters = sum(map(costs.nbytes, jax.tree.leaves(step.state.params)))
    whole = 2 * parameters
    split = max(costs.peak(jaxpr, platform) - whole, 0) / topology.devices
    kinds["activations and temporaries"] = round(whole + split)
    each = topology.devices // topology.slices
    found = [Collective("all-reduce", parameters, topology.devices, 1, True)] if topology.devices > 1 else []
    if kinds["parameters"] < parameters:  # they are split, and come together for the step
        found.append(Collective("all-gather", parameters, topology.devices, 1, True))
    if topology.slices > 1:  # each device passes its share on to the next slice
        found.append(Collective("send", parameters // each, 2, 1, True))
    return {
        "memory": kinds,
        "flops": costs.flops(jaxpr, platform),
        "traffic": costs.traffic(jaxpr, platform) / topology.devices,
        "cycles": None,
        "collectives": found,
    }


def measured(compiled: Any, step: Step, traced: float) -> dict[str, Any]:
    """What the compiler says of the step it has made; `traced` are the bytes of `costs.traffic` on each device.

    The compiler counts the bytes of a loop once, however often it goes round; the trace's count is the least then.
    """
    stats, cost, text = compiled.memory_analysis(), compiled.cost_analysis() or {}, compiled.as_text()
    kinds = memory_by_kind(step)
    kinds["padding of these"] = max(stats.argument_size_in_bytes - sum(kinds.values()), 0)
    kinds["activations and temporaries"] = stats.temp_size_in_bytes
    kinds["results that are not written in place"] = stats.output_size_in_bytes - stats.alias_size_in_bytes
    kinds["program"] = stats.generated_code_size_in_bytes
    return {
        "memory": kinds,
        "compiler_flops": cost.get("flops"),
        "traffic": max(cost.get("bytes accessed", 0.0), traced),
        "cycles": cycles(text),
        "collectives": collectives(text),
        "largest_arrays": largest(text),
    }


def cycles(text: str) -> int | None:
    """Cycles of all instructions as a TPU's compiler estimates them, loops multiplied out; None if it says none."""
    found = [
        (int(match[1]), times.count)
        for instruction, times in hlo.walk(text)
        if (match := re.search(r'"estimated_cycles":"(\d+)"', instruction.rest))
    ]
    return sum(n * times for n, times in found) or None


def largest(text: str, count: int = 3) -> list[str]:
    """The largest arrays of a program, such as `bf16[256,56,56,256]`."""
    order = sorted(set(hlo.arrays(text)), key=lambda array: -hlo.size_of(*array))
    return [f"{dtype}[{','.join(map(str, shape))}]" for dtype, shape in order[:count]]


def wanted_bytes(error: Exception) -> int | None:
    """How much memory a program wants that the compiler says does not fit; None if this is not what it says."""
    text = str(error)
    if "RESOURCE_EXHAUSTED" not in text and "out of memory" not in text.lower():
        return None
    found = re.search(r"Used ([\d.]+)([KMGT]) of|temporaries \(([\d.]+)([KMGT])\)", text)
    if found is None:
        return 0
    number, unit = (found[1], found[2]) if found[1] else (found[3], found[4])
    return round(float(number) * 1024 ** ("KMGT".index(unit) + 1))


def plan(
    config: ConfigDict,
    topology: Topology,
    *,
    compiling: bool = True,
    anew: bool = False,
    price: float | None = None,
    announce: Callable[[str], None] = lambda text: None,
    **numbers: int | None,
) -> tuple[dict[str, Any], Any]:
    """What the config's step needs on a topology, as a record of plain values, and the compiled step or None.

    Args:
      config: see `configs/common.py`.
      topology: see `hardware.parse`.
      compiling: False estimates from the trace, in seconds and without the topology's compiler.
      anew: see `compiled_for`; for a step that is to be saved.
      price: of a chip and hour, in any currency.
      announce: where messages go.
      numbers: examples and classes of the data, see `outline.outline`.

    Raises:
      UserError: see `step_for` and `target.devices`.
    """
    devices = target.devices(topology) if compiling else nowhere(topology.devices)
    step = step_for(config, devices, **numbers)
    topology = dataclasses.replace(topology, kind=target.kind_of(devices[0], topology))
    found, compiled, took, wanted = estimate(step, topology), None, None, None
    operations = found["flops"]
    if compiling:
        announce(f"Compiling the step of {config.method} with {config.encoder} for {topology}; this takes minutes.")
        try:
            compiled, took = compiled_for(step, anew=anew)
            found |= measured(compiled, step, found["traffic"])
        except jax.errors.JaxRuntimeError as error:
            wanted = wanted_bytes(error)
            if wanted is None:
                raise
            announce("It does not fit; what follows is an estimate.")
    rows = forecast.summary(found["collectives"], topology)
    seconds = forecast.step_seconds(
        topology,
        flops=operations,
        traffic=found["traffic"],
        cycles=found["cycles"],
        rows=rows,
        dtype=config.dtype,
    )
    model, batch, steps = model_flops(step, topology.chip.platform), config.batch_size, step.experiment.steps
    whole_run = forecast.run(
        topology, step=seconds["step"], steps=steps, batch=batch, flops=model, price=price, dtype=config.dtype
    )
    room, share = target.memory(topology, devices[0])
    record = {
        "config": describe(config, step),
        "topology": describe_topology(topology, config.dtype),
        "basis": "compiled" if compiled is not None else "estimate" if wanted is None else "refused",
        "compile_seconds": took and round(took, 1),
        "versions": target.versions(topology) if compiling else {"jax": jax.__version__},
        "memory": fits(found["memory"], room, wanted, share=share),
        "flops": {"step": operations, "model": model, "compiler_per_device": found.get("compiler_flops")},
        "bytes_accessed_per_device": found["traffic"],
        "cycles_per_device": found["cycles"],
        "collectives": rows,
        "largest_arrays": found.get("largest_arrays"),
        "seconds": seconds,
        "run": {
            "steps": steps,
            "epochs": steps * batch / len(step.experiment.source),
            **whole_run,
            "price_per_chip_hour": price,
        },
    }
    record["advice"] = advice(config, topology, record["memory"]) or faster(config, rows, seconds["step"])
    return record, compiled


def describe(config: ConfigDict, step: Step) -> dict[str, Any]:
    """The fields of a config that a plan depends on most."""
    names = ("method", "encoder", "dtype", "batch_size", "micro_batches", "accumulate", "view_size", "optimizer")
    count = sum(math.prod(x.shape) for x in jax.tree.leaves(step.state.params))
    source = step.experiment.source
    return {**{name: config[name] for name in names}, "parameters": count, "data": config.data, "images": len(source)}


def describe_topology(topology: Topology, dtype: str) -> dict[str, Any]:
    """Name, numbers and peaks; that of products is for a config's dtype."""
    chip = topology.chip
    return {
        "name": topology.name,
        "slices": topology.slices,
        "chip": chip.title,
        "chips": topology.chips,
        "devices": topology.devices,
        "memory_per_device": chip.memory,
        "flops_per_second_per_device": chip.peak(dtype),
        "products_in": chip.arithmetic(dtype),
        "memory_bytes_per_second": chip.bandwidth,
        "interconnect_bytes_per_second": chip.links,
    }
