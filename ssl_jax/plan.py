"""What the training step of a config would need on a topology: compiled for it, or else estimated from its trace.

The step is that of `pretrain`, built from the config; of the data only numbers and shapes are used, and no array is
ever made.
"""

import contextlib
import dataclasses
import functools
import math
import re
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from ssl_jax import costs, forecast, hlo, outline, target
from ssl_jax.collectives import Collective, collectives
from ssl_jax.core import PyTree
from ssl_jax.experiment import Experiment, build, build_method, check_micro_batches
from ssl_jax.hardware import GIB, Topology
from ssl_jax.sharding import by_example, check_divisible, data_mesh, replicated
from ssl_jax.train_step import gradients, init_state, make_train_step, with_views
from ssl_jax.training import for_step


@dataclasses.dataclass(frozen=True)
class Step:
    """A training step with the shapes that go into it, and where these are to be.

    Attributes:
      experiment: its parts, with the devices that it is for as their mesh.
      function: `(state, batch) -> (state, metrics)`, jitted.
      state: abstract arrays with shardings.
      batch: likewise.
    """

    experiment: Experiment
    function: Any
    state: PyTree
    batch: PyTree


def step_for(config: ConfigDict, devices: list[Any], **numbers: int | None) -> Step:
    """The step of a config on these devices; `numbers` as `outline.outline`.

    Raises:
      UserError: the batch does not fall into the devices, or the config makes no sense.
    """
    source = outline.outline(config, **numbers)
    experiment = build(config, devices=devices, source=source, teacher=outline.teacher(config, source))
    mesh, method, views = experiment.mesh, experiment.method, experiment.views
    check_divisible(config.batch_size, mesh)
    check_micro_batches(config, mesh)
    row = for_step(method, {**source[np.arange(1)], "id": np.zeros(1, np.int32)})
    batch = {
        name: jax.ShapeDtypeStruct((config.batch_size, *x.shape[1:]), x.dtype, sharding=by_example(mesh))
        for name, x in row.items()
    }
    here = {**experiment.parts, "mesh": data_mesh(jax.devices()[:1])}  # an initial state can't be made elsewhere
    state = jax.eval_shape(lambda: init_state(method, batch=row, **here))
    state = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=replicated(mesh)), state)
    return Step(experiment, make_train_step(method, experiment.tx, views=views, mesh=mesh), state, batch)


def nowhere(count: int) -> list[Any]:
    """Stand-ins for devices that nothing is compiled for: one of this machine's, so many times."""
    return jax.devices()[:1] * count


def per_device(tree: PyTree) -> int:
    """Bytes of a tree of abstract arrays on each device, by their shardings."""
    return sum(_part(x) for x in jax.tree.leaves(tree))


def _part(x: Any) -> int:
    local = x.sharding.shard_shape(x.shape)
    return costs.nbytes(jax.ShapeDtypeStruct(local, x.dtype))


def memory_by_kind(step: Step) -> dict[str, int]:
    """Bytes on each device of what goes into a step."""
    state = step.state
    return {
        "parameters": per_device(state.params),
        "optimizer": per_device(state.opt_state),
        "batch statistics": per_device(state.carry.model_state),
        "teacher": per_device(state.carry.teacher),
        "memory bank": per_device(state.carry.memory),
        "batch": per_device(step.batch),
    }


def model_flops(step: Step, platform: str) -> float:
    """Operations of products in loss and gradient of a batch: no augmentation, and nothing computed twice."""
    experiment = step.experiment
    config = experiment.config.copy_and_resolve_references()
    config.micro_batches = 1
    teacher = outline.teacher(config, experiment.source)
    method = build_method(config, experiment.source, steps=experiment.steps, teacher=teacher)
    batch = jax.eval_shape(functools.partial(with_views, experiment.views), step.state.rng, step.batch)
    mesh = experiment.mesh
    jaxpr = costs.trace(lambda state, batch: gradients(method, None, state, batch, mesh), step.state, batch)
    return costs.flops(jaxpr, platform)


def estimate(step: Step, topology: Topology) -> dict[str, Any]:
    """Operations, memory and collectives from the trace alone."""
    platform = topology.chip.platform
    jaxpr = costs.trace(step.function, step.state, step.batch)
    kinds = memory_by_kind(step)
    # What is as large as the parameters is on every device (gradient, update); the rest grows with the batch.
    whole = 2 * kinds["parameters"]
    split = max(costs.peak(jaxpr, platform) - whole, 0) / topology.devices
    kinds["activations and temporaries"] = round(whole + split)
    found = [Collective("all-reduce", kinds["parameters"], topology.devices, 1, True)] if topology.devices > 1 else []
    return {
        "memory": kinds,
        "flops": costs.flops(jaxpr, platform),
        "traffic": costs.traffic(jaxpr, platform) / topology.devices,
        "cycles": None,
        "collectives": found,
    }


def compiled_for(step: Step, *, anew: bool = False) -> tuple[Any, float]:
    """The compiled step, and the seconds that it took.

    `anew` passes over the cache of compiled programs: what comes from there can't be written to a file again.

    Raises:
      jax.errors.JaxRuntimeError: it does not fit into memory, among others.
    """
    began = time.perf_counter()
    here = step.experiment.mesh.devices.flat[0] in jax.devices()
    # Programs for devices that are not here can't be read back, so that keeping them would be of no use.
    with contextlib.nullcontext() if here and not anew else without_cache():
        return step.function.lower(step.state, step.batch).compile(), time.perf_counter() - began


@contextlib.contextmanager
def without_cache() -> Iterator[None]:
    """Neither read nor write compiled programs in JAX's persistent cache."""
    from jax.experimental.compilation_cache import compilation_cache

    name = "jax_enable_compilation_cache"
    before = getattr(jax.config, name)
    jax.config.update(name, False)
    compilation_cache.reset_cache()  # it decides once whether it is used
    try:
        yield
    finally:
        jax.config.update(name, before)
        compilation_cache.reset_cache()


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
      price: of a chip and hour.
      announce: where messages go.
      numbers: examples and classes of the data, see `outline.outline`.

    Raises:
      UserError: see `step_for` and `target.devices`.
    """
    devices = target.devices(topology) if compiling else nowhere(topology.devices)
    step = step_for(config, devices, **numbers)
    if compiling:
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
        topology, flops=operations, traffic=found["traffic"], cycles=found["cycles"], rows=rows
    )
    model, batch, steps = model_flops(step, topology.chip.platform), config.batch_size, step.experiment.steps
    record = {
        "config": describe(config, step),
        "topology": describe_topology(topology),
        "basis": "estimate" if compiled is None else "compiled",
        "compile_seconds": took and round(took, 1),
        "versions": target.versions(topology) if compiling else {"jax": jax.__version__},
        "memory": fits(found["memory"], topology, wanted),
        "flops": {"step": operations, "model": model, "compiler_per_device": found.get("compiler_flops")},
        "bytes_accessed_per_device": found["traffic"],
        "cycles_per_device": found["cycles"],
        "collectives": rows,
        "largest_arrays": found.get("largest_arrays"),
        "seconds": seconds,
        "run": {
            "steps": steps,
            "epochs": steps * batch / len(step.experiment.source),
            **forecast.run(topology, step=seconds["step"], steps=steps, batch=batch, flops=model, price=price),
            "price_per_chip_hour": price,
        },
    }
    record["advice"] = advice(config, topology, record["memory"])
    return record, compiled


def describe(config: ConfigDict, step: Step) -> dict[str, Any]:
    """The fields of a config that a plan depends on most."""
    names = ("method", "encoder", "dtype", "batch_size", "micro_batches", "accumulate", "view_size", "optimizer")
    count = sum(math.prod(x.shape) for x in jax.tree.leaves(step.state.params))
    source = step.experiment.source
    return {**{name: config[name] for name in names}, "parameters": count, "data": config.data, "images": len(source)}


def describe_topology(topology: Topology) -> dict[str, Any]:
    """Name, numbers and peaks."""
    chip = topology.chip
    return {
        "name": topology.name,
        "slices": topology.slices,
        "chip": chip.title,
        "chips": topology.chips,
        "devices": topology.devices,
        "memory_per_device": chip.memory,
        "flops_per_second_per_device": chip.flops,
        "memory_bytes_per_second": chip.bandwidth,
        "interconnect_bytes_per_second": chip.links,
    }


def fits(kinds: dict[str, int], topology: Topology, wanted: int | None) -> dict[str, Any]:
    """Bytes by kind with their total, and whether a device has so many.

    `wanted` is what the compiler asked for in vain; it may be more than the estimate by kind.
    """
    total = max(sum(kinds.values()), wanted or 0)
    room = topology.chip.memory
    holds = None if room is None else wanted is None and total <= room
    return {"by_kind": kinds, "total": total, "available": room, "fits": holds}


def advice(config: ConfigDict, topology: Topology, memory: dict[str, Any]) -> list[str]:
    """What to change where a step does not fit, most helpful first; nothing where it does."""
    if memory["fits"] is not False:
        return []
    kinds, room = memory["by_kind"], memory["available"]
    activations = max(kinds["activations and temporaries"], memory["total"] - sum(kinds.values()))
    state = memory["total"] - activations
    said = []
    if state > room:
        said.append(f"Parameters and optimizer alone take {state / GIB:.1f} GiB on every device: shard them.")
    if config.dtype == "float32":
        said.append("--config.dtype=bfloat16 halves activations.")
    devices = topology.devices
    counts = [n for n in range(2, config.batch_size + 1) if config.batch_size % (n * devices) == 0]
    enough = [n for n in counts if state + activations / n * config.micro_batches <= 0.9 * room]
    if enough and enough[0] > config.micro_batches:
        said.append(
            f"--config.micro_batches={enough[0]} lets the batch through the encoder in parts of "
            f"{config.batch_size // enough[0]:,}, for a third more arithmetic (docs/scaling.md)."
        )
    factor = 2 ** math.ceil(math.log2(max(activations / max(0.9 * room - state, 1), 2)))
    if state < 0.9 * room and config.batch_size % (devices * factor) == 0:
        said.append(f"{factor} times as many devices ({devices * factor:,}) hold it as it is.")
    said.append("A smaller --config.batch_size or --config.view_size needs less.")
    return said
