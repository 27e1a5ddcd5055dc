"""Cross-entropy of hidden patches on prototypes, a tile of scores at a time; and Sinkhorn-Knopp so.

64 images of 2 x 196 patches have 25,088 x 65,536 scores on DINOv2's prototypes: 6.6 GB, of which the student's, the
teacher's, softmax, targets and gradients are alive at once. Three things make that unnecessary:

- Only hidden patches enter the loss, 15 % of iBOT's. They are sorted to the front, in as many tiles as they fill; the
  tiles behind are passed over.
- A tile's rows are whole, so it gives its part of the loss and of the gradient at once, while its scores are there.
  Nothing is kept for the backward pass but the gradient itself, and nothing is computed twice.
- What Sinkhorn-Knopp does to the columns is subtracting a number from each, as centring does; what it does to the rows
  is a softmax. So its targets are those of a centre, which takes a pass over the tiles per iteration.

Every device sorts its own patches, and adds up its own gradient of the head: it says as much to the others as ever,
once, behind the loop. It finds out how many they are by JAX's ambient mesh, as `losses.ntxent` does.

That a gradient can be made in the forward pass is well known of fused cross-entropies (for example Hsu et al., 2024,
arXiv:2410.10989).
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from ssl_jax.core import PyTree
from ssl_jax.losses.forms import TILE_SCORES, ambient_mesh
from ssl_jax.losses.normalize import at_least_float32
from ssl_jax.losses.prototypes import soft_targets
from ssl_jax.losses.streaming import AXIS

Score = Callable[[PyTree, Array], Array]


@dataclasses.dataclass(frozen=True)
class Patches:
    """Patches with the scores that they would have.

    Attributes:
      score: `(params, rows [r d]) -> scores [r k]`, each row by itself.
      params: what the patches are scored with.
      rows: their tokens, or what else `score` starts from; the batch may be split over devices.
    """

    score: Score
    params: PyTree
    rows: Float[Array, "b v n d"]


class _Tiles(NamedTuple):
    """Patches by their places among a device's own, hidden ones first: of t tiles and g devices c rows each."""

    place: Int[Array, "t g c"]
    hidden: Bool[Array, "t g c"]  # what only fills up a tile is not
    any: Bool[Array, " t"]


class _Held(NamedTuple):
    """What the loss depends on and has no gradient by."""

    teacher: PyTree
    rows: Float[Array, "g r e"]
    center: Float[Array, " k"]
    tau: Float[Array, ""]
    tiles: _Tiles
    weight: Float[Array, "t g c"]


class _How(NamedTuple):
    teacher: Score
    student: Score
    temperature: float


def tiled_masked_cross_entropy(
    teacher: Patches,
    student: Patches,
    mask: Bool[Array, "b v n"],
    center: Float[Array, " k"],
    *,
    teacher_temperature: float | Float[Array, ""],
    temperature: float,
    tile: int | None = None,
) -> Float[Array, ""]:
    """`masked_cross_entropy` with the teacher's `soft_targets`, from scores that are there a tile at a time.

    Value and gradient (by the student's params and rows alone) are the same, to rounding. The gradient is made with
    the value, also where nobody asks for it.

    Args:
      teacher: makes the targets, which are constants.
      student: makes the predictions.
      mask: patches that count.
      center: of the teacher's scores; `tiled_sinkhorn_center` for targets by Sinkhorn-Knopp.
      teacher_temperature: of the targets.
      temperature: of the predictions, > 0.
      tile: patches of a device that are scored together; by default as many as have 2^24 scores.
    """
    prototypes, dtype = _scored(student)
    tiles = _tiles(mask, tile or max(TILE_SCORES // prototypes, 1))
    weight = mask.astype(dtype)
    weight = weight / jnp.maximum(jnp.sum(weight, axis=-1, keepdims=True), 1.0) / (mask.shape[0] * mask.shape[1])
    weight = jax.vmap(_take, (None, 0))(_by_device(weight), tiles.place) * tiles.hidden.astype(dtype)
    tau = jnp.asarray(teacher_temperature, dtype)
    held = _Held(teacher.params, _by_device(teacher.rows), center, tau, tiles, weight)
    how = _How(teacher.score, student.score, temperature)
    return _loss(how, student.params, _by_device(student.rows), lax.stop_gradient(held))


def tiled_sinkhorn_center(
    teacher: Patches,
    mask: Bool[Array, "b v n"],
    *,
    epsilon: float | Float[Array, ""],
    iterations: int = 3,
    tile: int | None = None,
) -> Float[Array, " k"]:
    """The centre with which `soft_targets` at temperature `epsilon` are `sinkhorn`'s assignments of the masked patches.

    Args:
      teacher: scores to be assigned; they are made once for each iteration.
      mask: patches that count for the columns.
      epsilon: smoothness; > 0.
      iterations: as in `sinkhorn`.
      tile: as in `tiled_masked_cross_entropy`.
    """
    params, rows = lax.stop_gradient((teacher.params, _by_device(teacher.rows)))
    prototypes, dtype = _scored(teacher)
    tiles = _tiles(mask, tile or max(TILE_SCORES // prototypes, 1))
    shift, epsilon = jnp.zeros(prototypes, dtype), jnp.asarray(epsilon, dtype)

    def columns(shift: Array, first: bool) -> Array:
        """Log-sum-exp of each column."""

        def of_tile(rows: Array, hidden: Array) -> Array:
            logits = at_least_float32(teacher.score(params, rows)) / epsilon - shift[None]
            logits = logits if first else jax.nn.log_softmax(logits)
            return jax.nn.logsumexp(logits, axis=0, where=hidden[:, None])

        def add(total: Array, tile: _Tiles) -> tuple[Array, None]:
            def work() -> Array:
                return jnp.logaddexp(total, jax.vmap(of_tile)(_take(rows, tile.place), tile.hidden))

            return lax.cond(tile.any, work, lambda: total), None

        start = jnp.full((len(rows), prototypes), -jnp.inf, dtype)
        return jax.nn.logsumexp(lax.scan(add, start, tiles)[0], axis=0)

    for i in range(iterations):
        weight = columns(shift, i == 0)
        shift = shift + jnp.where(jnp.isfinite(weight), weight, 0)  # infinite where no patch counts
    return shift * epsilon


def _scored(patches: Patches) -> tuple[int, Any]:
    """Number of prototypes, and the dtype of what is computed from scores."""
    one = jax.eval_shape(lambda: at_least_float32(patches.score(patches.params, patches.rows[0, 0])))
    return one.shape[-1], one.dtype


def _by_device(x: Array) -> Array:
    """`[b v n ...]` as `[g r ...]`, every device's own patches together."""
    mesh = ambient_mesh()
    devices = 1 if mesh is None else mesh.shape[AXIS]
    return x.reshape(devices if len(x) % devices == 0 else 1, -1, *x.shape[3:])


def _tiles(mask: Array, size: int) -> _Tiles:
    """Hidden patches first, in tiles of so many at most."""
    mask = _by_device(mask)
    devices, patches = mask.shape
    size = min(size, patches)
    missing = -patches % size
    order = jnp.argsort(~mask, axis=1, stable=True)
    hidden = jnp.take_along_axis(mask, order, axis=1)
    place, hidden = (
        jnp.moveaxis(jnp.pad(x, ((0, 0), (0, missing))).reshape(devices, -1, size), 1, 0) for x in (order, hidden)
    )
    return _Tiles(place, hidden, jnp.any(hidden, axis=(1, 2)))


def _take(rows: Array, place: Array) -> Array:
    """Of each device's rows `[g r ...]` those at its places `[g c]`."""
    return jax.vmap(lambda rows, place: rows[place])(rows, place)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _loss(how: _How, params: PyTree, rows: Array, held: _Held) -> Array:
    return _forward(how, params, rows, held)[0]


def _forward(how: _How, params: PyTree, rows: Array, held: _Held) -> tuple[Array, tuple[PyTree, Array]]:
    """The loss, and its gradient by the student's params and rows."""

    def of_tile(params: PyTree, rows: Array, seen: Array, weight: Array) -> Array:
        targets = soft_targets(how.teacher(held.teacher, seen), held.center, held.tau)
        log_probabilities = jax.nn.log_softmax(at_least_float32(how.student(params, rows)) / how.temperature)
        return -jnp.sum(weight * jnp.sum(targets * log_probabilities, axis=-1))

    each_device = jax.vmap(jax.value_and_grad(of_tile, argnums=(0, 1)), (None, 0, 0, 0))

    def add(total: PyTree, tile: tuple[_Tiles, Array]) -> tuple[PyTree, Array]:
        places, weight = tile
        mine = _take(rows, places.place)

        def work() -> tuple[PyTree, Array]:
            value, (by_params, by_rows) = each_device(params, mine, _take(held.rows, places.place), weight)
            return jax.tree.map(lambda a, b: a + b.astype(a.dtype), total, (value, by_params)), by_rows

        return lax.cond(places.any, work, lambda: (total, jnp.zeros_like(mine)))

    devices, patches = rows.shape[:2]
    start = jax.tree.map(
        lambda p: at_least_float32(jnp.zeros((devices, *p.shape), p.dtype)), (held.weight[0, 0, 0], params)
    )
    total, by_rows = lax.scan(add, start, (held.tiles, held.weight))
    value, by_params = jax.tree.map(lambda x: jnp.sum(x, axis=0), total)
    by_params = jax.tree.map(lambda g, p: g.astype(p.dtype), by_params, params)
    by_rows, place = (jnp.moveaxis(x, 0, 1).reshape(devices, -1, *x.shape[3:]) for x in (by_rows, held.tiles.place))
    by_rows = _take(by_rows, jnp.argsort(place[:, :patches], axis=1))
    return value, (by_params, by_rows)


def _backward(how: _How, gradients: tuple[PyTree, Array], cotangent: Array) -> tuple[Any, ...]:
    return *jax.tree.map(lambda g: (g.astype(cotangent.dtype) * cotangent).astype(g.dtype), gradients), None


_loss.defvjp(_forward, _backward)
