"""A memory that is split over devices and stays there: a batch of queries travels, and no entry of it does.

Every device compares all queries with its own part of the memory, and a few numbers per query are put together. That
is what distributed retrieval does; a ring (`streaming`) would move the memory, which is the larger by far.
"""

import contextlib
import contextvars
from collections.abc import Iterator

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Int

from ssl_jax.losses.forms import columns_of_a_tile, is_tiled
from ssl_jax.losses.streaming import AXIS, TILE, AnyMesh, logsumexp_over_keys

_split: contextvars.ContextVar[AnyMesh | None] = contextvars.ContextVar("split", default=None)


@contextlib.contextmanager
def memory_split_over(mesh: AnyMesh | None) -> Iterator[None]:
    """Within, losses take memories as split by row over the axis `data` of a mesh; of None, as on every device."""
    token = _split.set(mesh)
    try:
        yield
    finally:
        _split.reset(token)


def memory_mesh(rows: int) -> AnyMesh | None:
    """The mesh that a memory of so many rows is split over; None if it is not, or not evenly."""
    mesh = _split.get()
    return mesh if mesh is not None and rows % mesh.shape[AXIS] == 0 else None


def logsumexp_over_resident(
    query: Float[Array, "m d"], key: Float[Array, "n d"], *, mesh: AnyMesh, tile: int = TILE
) -> tuple[Float[Array, " m"], Float[Array, " m"]]:
    """As `logsumexp_over_keys`, with keys split over the axis `data` of the mesh, which divides their number.

    Every device holds all queries and m * tile inner products. What travels: the queries, two numbers for each, and
    the gradient by the queries.
    """

    def here(query: Array, key: Array) -> tuple[Array, Array]:
        lse, largest = logsumexp_over_keys(query, key, tile=tile)
        top = lax.pmax(lax.stop_gradient(lse), AXIS)
        return top + jnp.log(lax.psum(jnp.exp(lse - top), AXIS)), lax.pmax(lax.stop_gradient(largest), AXIS)

    # The written gradients of `streaming` know nothing of who holds the same, so JAX can't check it.
    return jax.shard_map(here, mesh=mesh, in_specs=(P(), P(AXIS)), out_specs=P(), check_vma=False)(query, key)


def nearest(query: Float[Array, "b d"], memory: Float[Array, "k d"], *, form: str = "auto") -> Float[Array, "b d"]:
    """The entry of a memory with the largest inner product with each query, the first of several; without a gradient.

    Args:
      query: of the whole batch.
      memory: may be split, see `memory_split_over`.
      form: "dense" holds the similarity of every query with every entry of a device; "tiled" some 2^24 of them at a
        time, and finds the same; "auto" does so beyond 2^26.

    Raises:
      UserError: the form is none of these.
    """
    query, memory = lax.stop_gradient((query, memory))
    mesh = memory_mesh(len(memory))
    part = len(memory) // (1 if mesh is None else mesh.shape[AXIS])
    search = _search_in_tiles if is_tiled(form, rows=len(query), columns=part) else _search

    def here(query: Array, memory: Array) -> Array:
        best, index = search(query, memory)
        found = memory[index].astype(query.dtype)
        if mesh is None:
            return found
        device = lax.axis_index(AXIS)
        winner = lax.pmin(jnp.where(best == lax.pmax(best, AXIS), device, mesh.shape[AXIS]), AXIS)
        return lax.psum(jnp.where((winner == device)[:, None], found, jnp.zeros_like(found)), AXIS)

    if mesh is None:
        return here(query, memory)
    return jax.shard_map(here, mesh=mesh, in_specs=(P(), P(AXIS)), out_specs=P(), check_vma=False)(query, memory)


def _search(query: Float[Array, "b d"], memory: Float[Array, "k d"]) -> tuple[Float[Array, " b"], Int[Array, " b"]]:
    """For every query the largest inner product, and the number of the first entry that has it."""
    similarity = jnp.matmul(query, memory.T.astype(query.dtype), precision="highest")
    return jnp.max(similarity, axis=1), lax.argmax(similarity, 1, jnp.int32)


def _search_in_tiles(
    query: Float[Array, "b d"], memory: Float[Array, "k d"]
) -> tuple[Float[Array, " b"], Int[Array, " b"]]:
    """As `_search`. The last tile begins early enough to be whole: what it sees again is never larger."""
    tile = columns_of_a_tile(len(query), len(memory))

    def look(seen: tuple[Array, Array], start: Array) -> tuple[tuple[Array, Array], None]:
        best, index = _search(query, lax.dynamic_slice_in_dim(memory, start, tile))
        larger = best > seen[0]
        return (jnp.where(larger, best, seen[0]), jnp.where(larger, start + index, seen[1])), None

    nobody = jnp.full(len(query), -jnp.inf, query.dtype), jnp.zeros(len(query), jnp.int32)
    starts = jnp.minimum(jnp.arange(0, len(memory), tile, jnp.int32), len(memory) - tile)
    return lax.scan(look, nobody, starts)[0]
