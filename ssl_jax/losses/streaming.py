"""Log-sum-exp over the rows of a matrix of inner products that nobody holds: in tiles, and round a ring of devices.

A contrastive loss over n embeddings looks at n^2 inner products, once to add up their exponentials and once for the
gradient. Here a tile of them exists at a time. The forward pass keeps a running maximum and sum for each row; the
backward pass computes each tile again, and needs no more than the rows' log-sum-exp for it. On a mesh every device
keeps its own rows, while blocks of embeddings travel from neighbour to neighbour: no device holds all of them, and the
only communication is `ppermute`. Value and gradient are those of the whole matrix, to rounding.

The online sum is that of Milakov & Gimelshein (2018, arXiv:1805.02867), tiles computed again as in FlashAttention (Dao
et al., 2022, arXiv:2205.14135), and the ring as in ring attention (Liu et al., 2023, arXiv:2310.01889).
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import AbstractMesh, Mesh
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Int

TILE = 256  # columns of a tile: large enough for matrix units, and 1/128 of the matrix at 32,768 rows
AXIS = "data"
NOBODY = -1  # the id of rows that fill a tile up

AnyMesh = Mesh | AbstractMesh


class _Rows(NamedTuple):
    """Embeddings with what travels along: ids, and in the backward pass log-sum-exp and cotangent if they are rows."""

    x: Float[Array, "*n d"]
    id: Int[Array, "*n"]
    lse: Float[Array, "*n"] | None = None
    cotangent: Float[Array, "*n"] | None = None


class _How(NamedTuple):
    """Columns of a tile; and the mesh round which blocks travel, or None."""

    tile: int
    mesh: AnyMesh | None


def logsumexp_of_others(
    x: Float[Array, "n d"], *, tile: int = TILE, mesh: AnyMesh | None = None
) -> tuple[Float[Array, " n"], Float[Array, " n"]]:
    """For every row the log-sum-exp of its inner products with all other rows, and the largest of them.

    Args:
      x: float32 or float64; scaled by one over the root of a temperature.
      tile: columns that are looked at together; memory is n * tile numbers. Any n will do.
      mesh: devices, whose axis `data` divides n; each then holds n / devices * tile numbers. None streams through the
        whole of `x`, however it lies.

    Returns:
      The log-sum-exp, -inf if there is no other row; and the largest inner product, which has no gradient.
    """
    lse, largest = _others(_How(tile, mesh), x)
    return lse, lax.stop_gradient(largest)


def logsumexp_over_keys(
    query: Float[Array, "m d"],
    key: Float[Array, "n d"],
    *,
    but_own: bool = False,
    tile: int = TILE,
    mesh: AnyMesh | None = None,
) -> tuple[Float[Array, " m"], Float[Array, " m"]]:
    """For every query the log-sum-exp of its inner products with all keys, and the largest of them.

    The gradients by queries and by keys are two passes of their own, so that one that nobody asks for costs nothing.

    Args:
      query: float32 or float64; divided by a temperature.
      key: of the same dtype.
      but_own: leave out the key with the query's own number.
      tile: as in `logsumexp_of_others`.
      mesh: as there; its axis divides m and n.

    Returns:
      As `logsumexp_of_others`.
    """
    lse, largest = _keys(_How(tile, mesh), but_own, query, key)
    return lse, lax.stop_gradient(largest)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _others(how: _How, x: Array) -> tuple[Array, Array]:
    return _others_forward(how, x)[0]


def _others_forward(how: _How, x: Array) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    rows = _Rows(x, _numbers(x))
    lse, largest = _spread(how, _summed, rows, rows)
    return (lse, largest), (x, _finite(lse))


def _others_backward(how: _How, residuals: tuple[Array, Array], cotangents: tuple[Array, Array]) -> tuple[Array]:
    """With p = exp(s - lse) and s symmetric, row i collects (p_ij g_i + p_ji g_j) x_j: one product for both sides."""
    x, lse = residuals
    rows = _Rows(x, _numbers(x), lse, cotangents[0])
    return (_spread(how, _pulled, rows, rows),)


_others.defvjp(_others_forward, _others_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _keys(how: _How, but_own: bool, query: Array, key: Array) -> tuple[Array, Array]:
    return _keys_forward(how, but_own, query, key)[0]


def _keys_forward(how: _How, but_own: bool, query: Array, key: Array) -> tuple[tuple[Array, Array], tuple]:
    lse, largest = _spread(how, _summed, _Rows(query, _own(query, but_own)), _Rows(key, _numbers(key)))
    return (lse, largest), (query, key, _finite(lse))


def _keys_backward(how: _How, but_own: bool, residuals: tuple, cotangents: tuple) -> tuple[Array, Array]:
    query, key, lse = residuals
    queries = _Rows(query, _own(query, but_own), lse, cotangents[0])
    by_query = _spread(how, _pulled, queries, _Rows(key, _numbers(key)))
    # The other way round it is the queries that visit, and are to be told from what fills their tiles up.
    queries = queries._replace(id=_numbers(query))
    by_key = _spread(how, _pulled, _Rows(key, _own(key, but_own)), queries)
    return by_query, by_key


_keys.defvjp(_keys_forward, _keys_backward)


def _numbers(x: Array) -> Array:
    return jnp.arange(len(x), dtype=jnp.int32)


def _own(x: Array, but_own: bool) -> Array:
    """The ids of those whom a row must not meet; nobody has the id that fills tiles up."""
    return _numbers(x) if but_own else jnp.full(len(x), NOBODY, jnp.int32)


def _finite(lse: Array) -> Array:
    """A row without others has no gradient, rather than that of -inf."""
    return jnp.where(lse == -jnp.inf, jnp.zeros_like(lse), lse)


def _spread(how: _How, work: Callable, rows: _Rows, visitors: _Rows) -> Any:
    """Call `work(rows, visitors, tile, axis)` on the whole, or on every device with its own part of both."""
    if how.mesh is None:
        return work(rows, visitors, tile=how.tile, axis=None)
    work = functools.partial(work, tile=how.tile, axis=AXIS)
    # Written gradients go through no collective, so nothing need be checked about who holds the same.
    return jax.shard_map(work, mesh=how.mesh, in_specs=P(AXIS), out_specs=P(AXIS), check_vma=False)(rows, visitors)


def _summed(rows: _Rows, visitors: _Rows, *, tile: int, axis: str | None) -> tuple[Array, Array]:
    """Log-sum-exp and largest of the rows' inner products with visitors."""

    def add(carry: tuple[Array, Array], seen: _Rows) -> tuple[Array, Array]:
        largest, total = carry
        scores = _scores(rows, seen)
        larger = jnp.maximum(largest, jnp.max(scores, axis=1))
        total = total * jnp.exp(largest - larger) + jnp.sum(jnp.exp(scores - larger[:, None]), axis=1)
        return larger, total

    zero = jnp.zeros(len(rows.x), rows.x.dtype)
    lowest = jnp.full_like(zero, jnp.finfo(zero.dtype).min)  # -inf would give inf - inf
    largest, total = _visit(add, (lowest, zero), visitors, tile, axis)
    return largest + jnp.log(total), largest


def _pulled(rows: _Rows, visitors: _Rows, *, tile: int, axis: str | None) -> Array:
    """The gradient by the rows: what visitors pull, by the softmax of whichever side has a log-sum-exp."""

    def add(pull: Array, seen: _Rows) -> Array:
        scores = _scores(rows, seen)
        weight = jnp.zeros_like(scores)
        if rows.lse is not None and rows.cotangent is not None:
            weight += jnp.exp(scores - rows.lse[:, None]) * rows.cotangent[:, None]
        if seen.lse is not None and seen.cotangent is not None:
            weight += jnp.exp(scores - seen.lse[None]) * seen.cotangent[None]
        return pull + jnp.matmul(weight, seen.x, precision="highest")

    return _visit(add, jnp.zeros_like(rows.x), visitors, tile, axis)


def _scores(rows: _Rows, seen: _Rows) -> Array:
    """A tile of inner products, -inf where both are the same or a column only fills up."""
    scores = jnp.matmul(rows.x, seen.x.T, precision="highest")
    hidden = (rows.id[:, None] == seen.id[None]) | (seen.id == NOBODY)[None]
    return jnp.where(hidden, -jnp.inf, scores)


def _visit(add: Callable, carry: Any, visitors: _Rows, tile: int, axis: str | None) -> Any:
    """Fold `add(carry, tile of visitors)` over all visitors: one's own, then those that come round the ring."""

    def over_tiles(carry: Any, tiles: _Rows) -> Any:
        return lax.scan(lambda carry, seen: (add(carry, seen), None), carry, tiles)[0]

    tiles = _in_tiles(visitors, tile)
    if axis is None:
        return over_tiles(carry, tiles)
    devices = lax.axis_size(axis)
    onwards = [(i, (i + 1) % devices) for i in range(devices)]

    def hop(_: Array, state: tuple[Any, _Rows]) -> tuple[Any, _Rows]:
        carry, here = state
        coming = lax.ppermute(here, axis, onwards)  # on its way while these are worked on
        return over_tiles(carry, here), coming

    return lax.fori_loop(0, devices, hop, (carry, tiles))[0]


def _in_tiles(visitors: _Rows, tile: int) -> _Rows:
    """`[n ...]` to `[tiles tile ...]`, filled up with nobody."""
    n = len(visitors.x)
    tile = min(tile, n)
    missing = -n % tile

    def cut(x: Array, filling: int = 0) -> Array:
        padded = jnp.pad(x, [(0, missing)] + [(0, 0)] * (x.ndim - 1), constant_values=filling) if missing else x
        return padded.reshape(-1, tile, *x.shape[1:])

    return jax.tree.map(cut, visitors)._replace(id=cut(visitors.id, NOBODY))
