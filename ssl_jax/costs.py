"""What a traced program costs on any machine: operations of its products, bytes alive at once. Nothing is compiled.

Both are read off the jaxpr. Operations are exact for what they count, which is matrix products and convolutions; an
addition and a multiplication are two. Memory is an estimate, see `peak`.
"""

import collections
import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax.extend import core

RENAMED = ("reshape", "squeeze", "expand_dims", "copy", "optimization_barrier", "sharding_constraint", "stop_gradient")
FREE = ("broadcast_in_dim", "iota", "random_bits", "random_wrap", "random_unwrap", "random_fold_in", "platform_index")
WRITTEN = ("dot_general", "conv_general_dilated", "sort", "gather", "scatter-add", "select_and_scatter_add")


def trace(function: Callable, *args: Any) -> Any:
    """The jaxpr of a function of abstract arrays."""
    return jax.make_jaxpr(function)(*args).jaxpr


def nbytes(x: Any) -> int:
    """Bytes of an abstract array; of keys, those of their data."""
    if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
        x = jax.eval_shape(jax.random.key_data, x)
    return math.prod(x.shape) * x.dtype.itemsize


def live(jaxpr: Any) -> list[Any]:
    """The equations whose results are used, in order: gradients by `jax.vjp` leave forward passes that nobody reads."""
    used, kept = set(filter(_is_variable, jaxpr.outvars)), []
    for eqn in reversed(jaxpr.eqns):
        if eqn.effects or used.intersection(eqn.outvars):
            used.update(filter(_is_variable, eqn.invars))
            kept.append(eqn)
    return kept[::-1]


def inner(eqn: Any, platform: str) -> Iterator[tuple[Any, int]]:
    """The jaxprs inside of an equation that run on a platform, with how often they do, on all devices together."""
    name, params = eqn.primitive.name, eqn.params
    if name == "cond":
        branches, platforms = params["branches"], params.get("branches_platforms")
        if platforms is not None:  # the formulation for this platform, or the one for all others
            chosen = [b for b, names in zip(branches, platforms, strict=True) if names and platform in names]
            branches = chosen or branches[-1:]
        # Both sides of a true condition are much alike, or one is to keep what there is.
        yield max((b.jaxpr for b in branches), key=lambda b: flops(b, platform)), 1
        return
    times = params["length"] if name == "scan" else params["mesh"].size if name == "shard_map" else 1
    for value in params.values():
        for jaxpr in value if isinstance(value, tuple | list) else (value,):
            if isinstance(jaxpr, core.ClosedJaxpr):
                yield jaxpr.jaxpr, times
            elif isinstance(jaxpr, core.Jaxpr):
                yield jaxpr, times


def flops(jaxpr: Any, platform: str) -> float:
    """Operations of all matrix products and convolutions, on all devices together.

    Loops count as often as they go round; `while` loops whose length is data count once. Zeros that a strided
    convolution's gradient puts between numbers are not multiplied by; those of padding are.
    """
    total = 0.0
    for eqn in live(jaxpr):
        if eqn.primitive.name == "dot_general":
            (contracted, _), _ = eqn.params["dimension_numbers"]
            total += 2 * _size(eqn.outvars[0]) * math.prod(eqn.invars[0].aval.shape[i] for i in contracted)
        elif eqn.primitive.name == "conv_general_dilated":
            total += _of_convolution(eqn)
        else:
            total += sum(times * flops(sub, platform) for sub, times in inner(eqn, platform))
    return total


def traffic(jaxpr: Any, platform: str) -> float:
    """Bytes that products and reductions read and write, on all devices together, as if the rest were fused to them."""
    total = 0.0
    for eqn in live(jaxpr):
        subs = list(inner(eqn, platform))
        if subs:
            total += sum(times * traffic(sub, platform) for sub, times in subs)
        elif eqn.primitive.name in WRITTEN or eqn.primitive.name.startswith("reduce_"):
            total += sum(nbytes(x.aval) for x in (*eqn.invars, *eqn.outvars))
    return total


def _of_convolution(eqn: Any) -> float:
    kernel = eqn.invars[1].aval.shape
    spec = eqn.params["dimension_numbers"].rhs_spec  # (out, in, *window)
    window = math.prod(kernel[i] for i in spec[1:])
    return 2 * _size(eqn.outvars[0]) * window / math.prod(eqn.params["lhs_dilation"])


def _size(variable: Any) -> int:
    return math.prod(variable.aval.shape)


def peak(jaxpr: Any, platform: str) -> int:
    """Bytes that are alive at once beside the arguments, on all devices together, if every result is written to memory.

    Arrays live from the equation that makes them to the last that reads them, in the order of the program. A compiler
    fuses, which needs less, and pads and prefetches, which needs more: it is an estimate.
    """
    root: dict[Any, Any] = {}
    last: dict[Any, int] = {}
    eqns = live(jaxpr)
    for i, eqn in enumerate(eqns):
        if eqn.primitive.name in RENAMED:
            root |= {out: root.get(x, x) for out, x in zip(eqn.outvars, eqn.invars, strict=False) if _is_variable(x)}
        for x in filter(_is_variable, eqn.invars):
            last[root.get(x, x)] = i
    for x in filter(_is_variable, jaxpr.outvars):
        last[root.get(x, x)] = len(eqns)
    ends = collections.defaultdict(list)
    for x, i in last.items():
        ends[i].append(x)
    alive: dict[Any, int] = {}
    now = most = 0
    for i, eqn in enumerate(eqns):
        free = eqn.primitive.name in (*RENAMED, *FREE)
        made = {x: 0 if free else nbytes(x.aval) for x in eqn.outvars if x in last}
        within = max((peak(sub, platform) for sub, _ in inner(eqn, platform)), default=0)
        most = max(most, now + max(sum(made.values()), within))
        alive |= made
        now += sum(made.values())
        now -= sum(alive.pop(x, 0) for x in ends[i])
    return most


def _is_variable(x: Any) -> bool:
    return isinstance(x, core.Var)
