"""The training step of a config with the shapes and places of what goes into it, and no array at all.

The step is that of `pretrain`, built from the config; of the data only numbers and shapes are used.
"""

import contextlib
import dataclasses
import functools
import time
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from ssl_jax import costs, outline
from ssl_jax.config_checks import check_numbers
from ssl_jax.core import PyTree
from ssl_jax.experiment import Experiment, build, build_method, check_micro_batches
from ssl_jax.sharding import by_example, check_divisible, data_mesh
from ssl_jax.sharding_rules import REPLICATED, state_shardings
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
    check_numbers(config)
    source = outline.outline(config, **numbers)
    experiment = build(config, devices=devices, source=source, teacher=outline.teacher(config, source))
    check_divisible(config.batch_size, experiment.mesh)
    check_micro_batches(config, experiment.mesh)
    return step_of(experiment)


def step_of(experiment: Experiment) -> Step:
    """The step of an experiment."""
    config, source = experiment.config, experiment.source
    mesh, method, views = experiment.mesh, experiment.method, experiment.views
    row = for_step(method, {**source[np.arange(1)], "id": np.zeros(1, np.int32)})
    batch = {
        name: jax.ShapeDtypeStruct((config.batch_size, *x.shape[1:]), x.dtype, sharding=by_example(mesh))
        for name, x in row.items()
    }
    # An initial state can't be made elsewhere.
    here = {**experiment.parts, "mesh": data_mesh(jax.devices()[:1]), "sharding": REPLICATED}
    shapes, rules = jax.eval_shape(lambda: init_state(method, batch=row, **here)), experiment.sharding
    places = state_shardings(shapes, rules, mesh)
    state = jax.tree.map(lambda x, at: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=at), shapes, places)
    function = make_train_step(method, experiment.tx, views=views, mesh=mesh, sharding=rules)
    return Step(experiment, function, state, batch)


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
    places = experiment.mesh, experiment.sharding
    jaxpr = costs.trace(lambda state, batch: gradients(method, None, state, batch, *places), step.state, batch)
    return costs.flops(jaxpr, platform)


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
