"""Frozen features of a whole data set."""

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from ssl_jax import data
from ssl_jax.core import Carry, Method, PyTree, TrainState, UserError
from ssl_jax.sharding import by_example, data_mesh, put


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
    def pooled_map(maps: dict[str, jax.Array], layer: str) -> jax.Array:
        if layer not in maps:
            raise UserError(f"The encoder has no layer {layer!r}; it has {', '.join(maps) or 'none with a name'}.")
        features = maps[layer].astype(jnp.float32)
        return jnp.mean(features, axis=tuple(range(1, features.ndim - 1))) if features.ndim > 2 else features

    def run(params: PyTree, carry: Carry, image: jax.Array) -> list[jax.Array]:
        pooled, maps = method.encode(params, carry, prepare(image))
        return [pooled.astype(jnp.float32) if layer is None else pooled_map(maps, layer) for layer in layers]

    return jax.jit(run, out_shardings=by_example(mesh))


def _embed(method, state, source, *, prepare, encoder, layers, batch_size, mesh) -> list[np.ndarray]:
    if encoder not in ("student", "teacher"):
        raise UserError(f"The encoder to use is 'student' or 'teacher', not {encoder!r}.")
    mesh = mesh or data_mesh()
    batch_size = -(-batch_size // mesh.size) * mesh.size
    params, carry = state.params, state.carry
    if encoder == "teacher":
        params, carry = teacher_of(params, carry)
    run = _encoder(method, prepare, layers, mesh)
    rows = []
    for batch in data.epoch(source, batch_size=batch_size):
        features = run(params, carry, put(batch["image"], mesh))
        rows.append([np.asarray(x)[batch["valid"]] for x in features])
    return [np.concatenate(column) for column in zip(*rows, strict=True)]


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
      layer: None for the pooled features, or the name of a map, which is then averaged over its positions.
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
    """Features of several layers from one pass over a source, `{layer: [n d]}`; "pooled" stands for the pooled ones.

    Arguments as for `embed`. All layers are held at once, `n` times the sum of their dimensions in float32.
    """
    names = tuple(None if layer == "pooled" else layer for layer in layers)
    kwargs = {"prepare": prepare, "encoder": encoder, "batch_size": batch_size, "mesh": mesh}
    return dict(zip(layers, _embed(method, state, source, layers=names, **kwargs), strict=True))
