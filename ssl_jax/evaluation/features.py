"""Frozen features of a whole data set."""

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jaxtyping import Array, Float

from ssl_jax import data
from ssl_jax.core import Carry, Method, PyTree, TrainState, UserError
from ssl_jax.nets.pooling import grid_average
from ssl_jax.sharding import by_example, data_mesh, put, replicated

POOLED = "pooled"  # name of the features that an encoder returns beside its maps


def to_float(image: jax.Array) -> jax.Array:
    """Uint8 images to float32 in 0..1."""
    return image.astype(jnp.float32) / 255.0


def teacher_of(params: PyTree, carry: Carry) -> tuple[PyTree, Carry]:
    """The teacher in the student's place, for `Method.encode`."""
    teacher = carry.teacher
    if not isinstance(teacher, dict) or "encoder" not in teacher.get("params", {}):
        raise UserError("This method keeps no teacher; evaluate the student (--encoder=student).")
    return teacher["params"], carry.replace(model_state=teacher["model_state"])


@functools.lru_cache(maxsize=8)
def _encoder(method: Method, prepare: Callable, layers: tuple[str | None, ...], mesh: Mesh) -> Callable:
    def run(params: PyTree, carry: Carry, image: jax.Array) -> list[jax.Array]:
        # A state that is split comes together here; what is not used of it stays where it is.
        params, carry = jax.lax.with_sharding_constraint((params, carry), replicated(mesh))
        pooled, maps = method.encode(params, carry, prepare(image))
        return [select(pooled, maps, layer) for layer in layers]

    return jax.jit(run, out_shardings=readable(mesh))


def readable(mesh: Mesh) -> NamedSharding:
    """Where results for each example go: a process can read its own devices' rows only, unless each device has all."""
    return replicated(mesh) if jax.process_count() > 1 else by_example(mesh)


def select(pooled: jax.Array, maps: dict[str, jax.Array], layer: str | None) -> Float[Array, "b d"]:
    """Features of the layer that a text names, float32; None is "pooled".

    `stage2` is a map averaged over its positions, `stage2@3` over each cell of a 3 x 3 grid (fewer on a smaller map),
    `stage3+pooled` several of these side by side.

    Raises:
      UserError: there is no such layer, or the grid is no positive number.
    """
    parts = []
    for part in (layer or POOLED).split("+"):
        name, at, cells = part.partition("@")
        if name not in maps and name != POOLED:
            raise UserError(
                f"The encoder has no layer {name!r}; it has pooled, {', '.join(maps) or 'and none with a name'}."
            )
        if at and (not cells.isdigit() or int(cells) < 1):
            raise UserError(f"A layer with a grid is written as stage2@3, not {part!r}.")
        x = pooled if name == POOLED else maps[name]
        if x.ndim == 4:
            x = grid_average(x, (min(int(cells or 1), *x.shape[1:3]),))
        elif x.ndim > 2:
            x = jnp.mean(x.astype(jnp.float32), axis=tuple(range(1, x.ndim - 1)))
        parts.append(x.astype(jnp.float32))
    return jnp.concatenate(parts, axis=-1)


def layer_names(method: Method, state: TrainState, source: data.Source, *, prepare: Callable = to_float) -> list[str]:
    """Names of an encoder's maps, from its first to its last, and then "pooled"."""
    image = jnp.asarray(next(data.epoch(source, batch_size=1))["image"])
    names: list[str] = []

    def trace(params: PyTree, carry: Carry, x: jax.Array) -> None:
        names.extend(method.encode(params, carry, prepare(x))[1])  # here, since dicts come out sorted

    jax.eval_shape(trace, state.params, state.carry, image)
    return [*names, POOLED]


def _embed(method, state, source, *, prepare, encoder, layers, batch_size, mesh) -> list[np.ndarray]:
    if encoder not in ("student", "teacher"):
        raise UserError(f"The encoder to use is 'student' or 'teacher', not {encoder!r}.")
    mesh = mesh or data_mesh()
    params, carry = state.params, state.carry
    if encoder == "teacher":
        params, carry = teacher_of(params, carry)
    run = _encoder(method, prepare, layers, mesh)
    return each_image(lambda image: run(params, carry, image), source, batch_size=batch_size, mesh=mesh)


def each_image(
    run: Callable[[jax.Array], Sequence[jax.Array]], source: data.Source, *, batch_size: int, mesh: Mesh
) -> list[np.ndarray]:
    """What a compiled function gives for all images of a source, `uint8 [b h w c] -> arrays [b ...]`, in its order.

    Its results are placed as `readable` says; `batch_size` is rounded up to a multiple of the devices, and halved as
    often as the accelerator's memory is too small for it.
    """
    batch_size = -(-batch_size // mesh.size) * mesh.size
    rows, share = [], {"process_index": jax.process_index(), "process_count": jax.process_count()}
    try:
        for batch in data.epoch(source, batch_size=batch_size, **share):
            rows.append([np.asarray(x) for x in run(put(batch["image"], mesh))])
    except jax.errors.JaxRuntimeError as error:
        alone = jax.process_count() == 1  # other processes would go on with the larger batch
        if "RESOURCE_EXHAUSTED" not in str(error) or batch_size <= mesh.size or not alone:
            raise
    else:
        return [np.concatenate(column)[: len(source)] for column in zip(*rows, strict=True)]  # the last is filled up
    return each_image(run, source, batch_size=batch_size // 2, mesh=mesh)


def embed(
    method: Method,
    state: TrainState,
    source: data.Source,
    *,
    prepare: Callable[[jax.Array], jax.Array] = to_float,
    encoder: str = "student",
    layer: str | None = None,
    batch_size: int = 512,
    mesh: Mesh | None = None,
) -> np.ndarray:
    """Features `[n d]` (float32) of every image of a source, in its order.

    Args:
      method: whose `encode` is used.
      state: trained (or initial) state.
      source: images, see `ssl_jax.data`.
      prepare: `uint8 [b h w c] -> float [b h w c]`, the same normalisation as in training (`augment.prepare`).
      encoder: "student", or "teacher" where the method keeps one.
      layer: None for the pooled features, or a layer's name, see `select`.
      batch_size: images at a time, rounded up to a multiple of the devices.
      mesh: devices.
    """
    kwargs = {"prepare": prepare, "encoder": encoder, "batch_size": batch_size, "mesh": mesh}
    return _embed(method, state, source, layers=(layer,), **kwargs)[0]


def embed_layers(
    method: Method,
    state: TrainState,
    source: data.Source,
    *,
    layers: Sequence[str],
    prepare: Callable[[jax.Array], jax.Array] = to_float,
    encoder: str = "student",
    batch_size: int = 512,
    mesh: Mesh | None = None,
) -> dict[str, np.ndarray]:
    """Features of several layers from one pass over a source, `{layer: [n d]}`; layers are named as in `select`.

    Arguments as for `embed`. All layers are held at once, `n` times the sum of their dimensions in float32.
    """
    kwargs = {"prepare": prepare, "encoder": encoder, "batch_size": batch_size, "mesh": mesh}
    return dict(zip(layers, _embed(method, state, source, layers=tuple(layers), **kwargs), strict=True))
