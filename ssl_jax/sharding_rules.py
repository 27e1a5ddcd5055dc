"""Where a state lives on the mesh: rules by the paths of its arrays, and how split arrays are computed with.

sharding = (("queue$", ("data",)), *FSDP)  # the queue by rows; of all else the longest axis, where it is worth it
state = init_state(method, tx, batch, sharding=sharding)
step = make_train_step(method, tx, sharding=sharding)
"""

import functools
import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from ssl_jax.core import PyTree, UserError
from ssl_jax.sharding import DATA, MODEL

Spec = tuple[str | tuple[str, ...] | None, ...]  # for every axis of an array the axes of the mesh that split it
Rule = tuple[str, Spec | Callable[[tuple[int, ...], Mesh], Spec]]
Rules = Sequence[Rule]

SMALL = 2**14  # numbers in an array below which splitting it saves less memory than its messages cost time
REPLICATED: Rules = ()


def largest(shape: tuple[int, ...], mesh: Mesh, *, small: int = 0) -> Spec:
    """Split the longest axis that `data` divides; none of an array with fewer than `small` numbers."""
    fits = [i for i, size in enumerate(shape) if size and size % mesh.shape[DATA] == 0]
    if not fits or math.prod(shape) < small:
        return ()
    longest = max(fits, key=lambda i: shape[i])
    return (*[None] * longest, DATA)


def fitting(*spec: str | None) -> Callable[[tuple[int, ...], Mesh], Spec]:
    """A spec of which an array takes what divides its axes; other ranks stay whole."""

    def fit(shape: tuple[int, ...], mesh: Mesh) -> Spec:
        if len(shape) != len(spec):
            return ()
        return tuple(
            name if name and size % mesh.shape.get(name, size + 1) == 0 else None
            for name, size in zip(spec, shape, strict=True)
        )

    return fit


FSDP: Rules = ((".", functools.partial(largest, small=SMALL)),)


def wide(rest: str | None) -> Rules:
    """Rules that split what is wide over the axis `model`: blocks of a ViT and heads, by column and then by row.

    `rest` is the axis of the mesh that splits the other axis of a kernel, if any.
    """
    columns, rows = fitting(rest, MODEL), fitting(MODEL, rest)
    return (
        (r"(mlp_in|qkv|last|dense[02])/kernel$", columns),
        (r"(mlp_out|attention/out|dense1)/kernel$", rows),
        (r"mlp_in/bias$", fitting(MODEL)),
    )


def rules_of(name: str, *, own: Sequence[Any] = (), model: int = 1) -> Rules:
    """The rules of a name, `replicated` or `fsdp`, after one's own, on a mesh whose axis `model` is so long.

    Raises:
      UserError: there is no such name, or a rule is none.
    """
    if name not in ("replicated", "fsdp"):
        raise UserError(f"config.sharding is replicated or fsdp, not {name!r}.")
    split = name == "fsdp"
    return (*map(_read, own), *(wide(DATA if split else None) if model > 1 else ()), *(FSDP if split else REPLICATED))


def _read(rule: Any) -> Rule:
    """A rule as the command line gives it."""
    if isinstance(rule, tuple) and len(rule) == 2:
        pattern, spec = rule
        names = [n for entry in (spec if isinstance(spec, tuple) else [0]) for n in np.atleast_1d(entry).tolist()]
        if isinstance(pattern, str) and (spec == "largest" or set(names) <= {DATA, MODEL, None}):
            return pattern, largest if spec == "largest" else spec
    raise UserError(
        f"A sharding rule is (pattern, spec), as ('queue$', ('data',)) or ('kernel$', 'largest'), and not {rule!r}."
    )


def state_shardings(state: PyTree, rules: Rules, mesh: Mesh) -> PyTree:
    """Where every array of a state lives: a tree of shardings, from a tree of arrays or of their shapes.

    Args:
      state: any tree; usually a `TrainState`.
      rules: pairs of a regular expression and a spec. The first whose expression is found in an array's path, such as
        "params/encoder/stem_conv/kernel", "carry/memory/queue" or "opt_state/0/trace/encoder/stem_conv/kernel", says
        how it is split; an array without a rule is on every device. Without "params/" a rule is for the parameter,
        its moments in the optimizer and its teacher alike.
      mesh: devices.

    Raises:
      UserError: an expression is none or is found nowhere, or a spec does not fit an array.
    """
    leaves, tree = jax.tree.flatten_with_path(state)
    paths = [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in leaves]
    for pattern, spec in rules:
        if not callable(spec) and not any(_found(pattern, path) for path in paths):
            raise UserError(
                f"The sharding rule {pattern!r} is for no array; there are for example {', '.join(paths[2:40:7])}."
            )
    specs = [_spec(path, x.shape, rules, mesh) for path, (_, x) in zip(paths, leaves, strict=True)]
    return jax.tree.unflatten(tree, [NamedSharding(mesh, P(*spec)) for spec in specs])


def _found(pattern: str, path: str) -> bool:
    try:
        return re.search(pattern, path) is not None
    except re.error as error:
        raise UserError(f"The sharding rule {pattern!r} is no regular expression: {error}.") from error


def _spec(path: str, shape: tuple[int, ...], rules: Rules, mesh: Mesh) -> Spec:
    spec = next((spec for pattern, spec in rules if _found(pattern, path)), ())
    if callable(spec):
        return spec(shape, mesh)
    for size, entry in zip((*shape, *[1] * len(spec)), spec, strict=False):
        names = (entry,) if isinstance(entry, str) else entry or ()
        missing = [name for name in names if name not in mesh.shape]
        parts = math.prod(mesh.shape.get(name, 1) for name in names)
        if missing or size % parts or len(spec) > len(shape):
            raise UserError(
                f"The sharding rule {spec} does not fit {path}, which has the shape {shape}, on the mesh "
                f"{dict(mesh.shape)}: every axis that is split must be there and a multiple of the devices."
            )
    return spec


def gathered(tree: PyTree, shardings: PyTree) -> PyTree:
    """The same arrays whole along `data`, to compute with; what flows back into them is split again.

    Said outright, since XLA, given a batch and a kernel that are both split over `data`, may as well move the batch.
    """
    return jax.tree.map(_gather, shardings, tree)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _gather(sharding: NamedSharding, x: jax.Array) -> jax.Array:
    spec = P(*(MODEL if MODEL in np.atleast_1d(entry) else None for entry in sharding.spec))
    return jax.lax.with_sharding_constraint(x, NamedSharding(sharding.mesh, spec))


def _gather_backward(sharding: NamedSharding, _: None, gradient: jax.Array) -> tuple[jax.Array]:
    return (jax.lax.with_sharding_constraint(gradient, sharding),)


_gather.defvjp(lambda sharding, x: (_gather(sharding, x), None), _gather_backward)
