"""NT-Xent's forms on one GPU over the number of rows: value and gradient, time and memory, tiles of several sizes."""

import dataclasses
import gc
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.gpu import local
from benchmarks.gpu.record import Record
from benchmarks.ntxent import DIM, TEMPERATURE
from ssl_jax import losses
from ssl_jax.losses.streaming import TILE

ROWS = (8_192, 32_768, 65_536, 131_072, 16_384, 262_144)  # both views of a batch; most telling first
TILES = (TILE, 1_024, 4_096, 16_384)
TINY_ROWS, TINY_TILES = (64, 96), (16, 64)
LEAST = 20.0


@dataclasses.dataclass(frozen=True)
class Form:
    """One way to compute the loss.

    Attributes:
      name: "dense" or "tiled", as the library does it, or "dense, tf32".
      tile: columns of a tile.
      dtype: of the embeddings that come in.
    """

    name: str
    tile: int | None = None
    dtype: str = "float32"


def tiled(embedding: jax.Array, tile: int) -> jax.Array:
    """`losses.ntxent` in tiles of any size."""
    z = losses.l2_normalize(losses.at_least_float32(embedding))
    positive = jnp.repeat(jnp.sum(z[:, 0] * z[:, 1], axis=-1), 2) / TEMPERATURE
    total, _ = losses.logsumexp_of_others(z.reshape(-1, DIM) / TEMPERATURE**0.5, tile=tile)
    return jnp.mean(total - positive)


def rounded(embedding: jax.Array) -> jax.Array:
    """The dense form with a matrix unit's rounding of float32: what full precision costs."""
    with jax.default_matmul_precision("tensorfloat32"):
        z = losses.l2_normalize(embedding)
        positive = jnp.repeat(jnp.sum(z[:, 0] * z[:, 1], axis=-1), 2) / TEMPERATURE
        z = z.reshape(-1, DIM)
        logits = jnp.where(jnp.eye(len(z), dtype=bool), -jnp.inf, z @ z.T / TEMPERATURE)
        return jnp.mean(jax.nn.logsumexp(logits, axis=1) - positive)


def function(form: Form) -> Callable:
    """The loss of embeddings `[b 2 d]`."""
    if form.name == "dense":
        return lambda z: losses.ntxent(z, temperature=TEMPERATURE, form="dense")
    return rounded if form.name == "dense, tf32" else lambda z: tiled(z, form.tile or TILE)


def embeddings(rows: int, dtype: str = "float32") -> jax.Array:
    """Random, both views of half as many images."""
    return jax.random.normal(jax.random.key(rows), (rows // 2, 2, DIM), jnp.dtype(dtype))


def forms(tiles: tuple[int, ...]) -> Iterator[Form]:
    """In the order in which they are measured."""
    yield Form("dense")
    yield from (Form("tiled", tile) for tile in tiles)
    yield Form("tiled", tiles[0], "bfloat16")
    yield Form("dense, tf32")


def measure(form: Form, rows: int) -> dict[str, Any]:
    """Time and memory of a form; or that it does not fit."""
    z = embeddings(rows, form.dtype)
    try:
        call, facts = local.compiled(jax.value_and_grad(function(form)), z)
        return {**facts, **local.seconds(call, z), "loss": float(call(z)[0])}
    except jax.errors.JaxRuntimeError as error:
        if not local.out_of_memory(error):
            raise
        return {"failed": "does not fit into memory"}
    finally:
        del z
        gc.collect()


def run(record: Record, *, tiny: bool) -> bool:
    """Every form at every size, the ratio to dense beside; whether there was time for all."""
    too_large: set[str] = set()
    for rows in TINY_ROWS if tiny else ROWS:
        dense = None
        for form in forms(TINY_TILES if tiny else TILES):
            if (form.tile or 0) > rows or (form.name in too_large and rows > 65_536):
                continue
            if record.clock.left() < LEAST:
                return False
            found = measure(form, rows)
            if "failed" in found:
                too_large.add(form.name)
            if form == Form("dense"):
                dense = found.get("s")
            if dense and "s" in found:
                found["over_dense"] = found["s"] / dense
            record.add(rows=rows, form=form.name, tile=form.tile, dtype=form.dtype, **found)
    return True
