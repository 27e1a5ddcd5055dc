"""A compiled training step in a file: written by `ssl-jax plan --save=FILE` anywhere, run on the machine it is for.

    step = precompiled.load("step.bin", plan_step.step_for(config, jax.devices()))
    for state, metrics, batch in train(method, source, step=step, ...):

The file holds the executable as XLA writes it, and FILE.json what it is for. An executable is a program: load those
only that you have made.
"""

import hashlib
import json
import os
import pathlib
from collections.abc import Callable
from typing import Any

import jax

from ssl_jax import atomic, target
from ssl_jax.core import PyTree, UserError
from ssl_jax.hardware import Topology
from ssl_jax.plan_step import Step
from ssl_jax.sharding import by_example, replicated

FORMAT = 1


def sidecar(path: str | os.PathLike[str]) -> pathlib.Path:
    """The file that says what an executable is for."""
    return pathlib.Path(f"{path}.json")


def check_place(path: str | os.PathLike[str]) -> None:
    """Raise a `UserError` if a file can't be put there, before minutes go into what it is to hold."""
    file = pathlib.Path(path)
    if file.is_dir() or not file.parent.is_dir() or not os.access(file.parent, os.W_OK):
        why = "that is a directory" if file.is_dir() else f"there is no directory {file.parent} that can be written"
        raise UserError(f"The step can't be saved to {file}: {why}; give --save another file.")


def save(compiled: Any, path: str | os.PathLike[str], record: dict[str, Any]) -> None:
    """Write a compiled step and what it is for, which is `plan.plan`'s record.

    Raises:
      UserError: it can't be written.
    """
    executable = compiled.runtime_executable()
    payload = executable.serialize()
    arguments = [_described(x) for x in jax.tree.leaves(compiled.args_info)]
    note = {"format": FORMAT, "sha256": hashlib.sha256(payload).hexdigest(), "arguments": arguments, "plan": record}
    try:
        with atomic.replacing(pathlib.Path(path)) as file:
            file.write(payload)
        atomic.write_text(sidecar(path), json.dumps(note, indent=1) + "\n")
    except OSError as error:
        raise UserError(f"The step can't be saved to {path}: {error.strerror or error}.") from error


def load(path: str | os.PathLike[str], step: Step) -> Callable[[PyTree, PyTree], tuple[PyTree, PyTree]]:
    """The function `(state, batch) -> (state, metrics)` of a saved step, for the devices of `step`, which must be here.

    Raises:
      UserError: the file or its description is missing or damaged, or it was made by other versions, for other devices
        or for another state.
    """
    try:
        note = json.loads(sidecar(path).read_text(encoding="utf-8"))
        payload = pathlib.Path(path).read_bytes()
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise UserError(
            f"{path} and {sidecar(path)} are no saved step ({why}); make both by `ssl-jax plan --save`."
        ) from error
    if note["format"] != FORMAT or hashlib.sha256(payload).hexdigest() != note["sha256"]:
        raise UserError(f"{path} is not what {sidecar(path)} describes; save it again.")
    mesh = step.experiment.mesh
    made, here = note["plan"]["topology"], list(mesh.devices.flat)
    versions = target.versions(Topology(made["name"].partition(":")[0], (made["chips"],)))
    if versions != note["plan"]["versions"]:
        raise UserError(f"{path} was compiled by {note['plan']['versions']}, and here is {versions}; save it again.")
    leaves = jax.tree.leaves((step.state, step.batch))
    if made["devices"] != len(here) or note["arguments"] != [_described(x) for x in leaves]:
        raise UserError(f"{path} is a step of {note['plan']['config']} on {made['name']}, not of this config and mesh.")
    executable = here[0].client.deserialize_executable(payload, executable_devices=tuple(here))
    outputs, tree = jax.tree.flatten(jax.eval_shape(step.function, step.state, step.batch))
    states = jax.tree.leaves(step.state)

    def run(state: PyTree, batch: PyTree) -> tuple[PyTree, PyTree]:
        given = jax.tree.leaves((state, batch))
        result = executable.execute_sharded([jax.random.key_data(x) if _is_key(x) else x for x in given])
        shards = result.disassemble_into_single_device_arrays()
        after = [_joined(x, parts, x.sharding, like) for x, parts, like in zip(states, shards, given, strict=False)]
        rest = zip(outputs[len(states) :], shards[len(states) :], strict=True)
        return jax.tree.unflatten(tree, [*after, *(_joined(x, parts, _place(x, parts, mesh)) for x, parts in rest)])

    return run


def _described(x: Any) -> list[Any]:
    """Dtype and shape, as JSON keeps them."""
    return [str(x.dtype), list(x.shape)]


def _is_key(x: Any) -> bool:
    return jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key)


def _place(x: Any, parts: list[jax.Array], mesh: Any) -> Any:
    """Metrics are whole on every device, or split by example."""
    return replicated(mesh) if parts[0].shape == x.shape else by_example(mesh)


def _joined(x: Any, parts: list[jax.Array], place: Any, like: Any = None) -> jax.Array:
    """One array of the devices' parts; a key of the kind of `like` where `x` is one."""
    shape = jax.eval_shape(jax.random.key_data, x).shape if _is_key(x) else x.shape
    array = jax.make_array_from_single_device_arrays(shape, place, parts)
    return jax.random.wrap_key_data(array, impl=jax.random.key_impl(like)) if _is_key(x) else array
