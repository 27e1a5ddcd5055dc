"""Cut a box out of an image and resize it: bilinear or bicubic, with or without antialiasing, as torchvision does.

The crop happens before the resize, so pixels outside the box never contribute. Each output row (and column) reads a
few input rows: `taps` says which, and with which weights. The same taps are applied in two ways, as gathers or as two
small matrix products; which is faster depends on the machine.
"""

import functools
import math
import operator
from collections.abc import Callable, Iterable
from typing import Any

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int, Shaped

from ssl_jax.augment import platform
from ssl_jax.core import UserError

Box = Float[Array, "4"] | Int[Array, "4"]
Taps = tuple[Int[Array, "_ _"], Float[Array, "_ _"]]  # [output positions, taps]
METHODS = ("linear", "cubic")


def _linear(x: Float[Array, "*s"]) -> Float[Array, "*s"]:
    return jnp.maximum(1 - jnp.abs(x), 0)


def _cubic(a: float) -> Callable[[Float[Array, "*s"]], Float[Array, "*s"]]:
    """Keys' cubic; torch takes a = -0.75 without antialiasing and PIL's -0.5 with it."""

    def kernel(x: Float[Array, "*s"]) -> Float[Array, "*s"]:
        x = jnp.abs(x)
        inner = ((a + 2) * x - (a + 3)) * x * x + 1
        outer = a * (((x - 5) * x + 8) * x - 4)
        return jnp.where(x < 1, inner, jnp.where(x < 2, outer, jnp.zeros_like(x)))

    return kernel


def taps(
    start: Shaped[Array, ""], length: Shaped[Array, ""], n_in: int, n_out: int, *, method: str, antialias: bool
) -> Taps:
    """Return, for every output position, the input positions that it reads and their weights.

    Positions run over the whole image, but never leave `[start, start + length)`.

    Raises:
      UserError: unknown method.
    """
    if method not in METHODS:
        raise UserError(f"unknown interpolation {method!r}: use one of {', '.join(METHODS)}")
    radius, kernel = (1, _linear) if method == "linear" else (2, _cubic(-0.5 if antialias else -0.75))
    start, length = start.astype(jnp.float32), length.astype(jnp.float32)
    step = length / n_out
    centre = (jnp.arange(n_out, dtype=jnp.float32) + 0.5) * step - 0.5
    # Antialiasing widens the kernel when it shrinks the crop; a crop is at most the image, which bounds the taps.
    stretch = jnp.maximum(step, 1) if antialias else jnp.ones_like(step)
    n_taps = math.ceil(2 * radius * (max(n_in / n_out, 1) if antialias else 1))
    lowest = jnp.floor(centre - radius * stretch) + 1
    index = lowest[:, None] + jnp.arange(n_taps, dtype=jnp.float32)[None]
    weight = kernel((index - centre[:, None]) / stretch)
    if antialias:  # PIL drops what lies outside; without antialiasing torch repeats the edge
        weight = jnp.where((index >= 0) & (index < length), weight, 0)
        weight = weight / jnp.sum(weight, axis=1, keepdims=True)
    return (start + jnp.clip(index, 0, length - 1)).astype(jnp.int32), weight


def box_taps(
    box: Box, image_size: tuple[int, int], size: tuple[int, int], *, method: str, antialias: bool
) -> tuple[Taps, Taps]:
    """Return the taps of the rows and of the columns of a box `(top, left, height, width)`."""
    rows = taps(box[0], box[2], image_size[0], size[0], method=method, antialias=antialias)
    columns = taps(box[1], box[3], image_size[1], size[1], method=method, antialias=antialias)
    return rows, columns


def mirrored(line: Taps) -> Taps:
    """Return the taps of the flipped output."""
    return line[0][::-1], line[1][::-1]


def add(terms: Iterable[Array]) -> Array:
    """Sum without a starting zero."""
    return functools.reduce(operator.add, terms)


def _take(image: Array, index: Int[Array, " o"], axis: int) -> Array:
    return image.at[(slice(None),) * axis + (index,)].get(mode="promise_in_bounds")


def gather_rows(image: Shaped[Array, "h w c"], rows: Taps) -> Float[Array, "p w c"]:
    """Resize along the height with gathers."""
    index, weight = rows
    n = index.shape[1]
    return add(_take(image, index[:, k], 0).astype(jnp.float32) * weight[:, k, None, None] for k in range(n))


def gather_columns(image: Float[Array, "p w c"], columns: Taps) -> Float[Array, "c p q"]:
    """Resize along the width with gathers, and put the channels first."""
    index, weight = columns
    x = add(_take(image, index[:, k], 1) * weight[None, :, k, None] for k in range(index.shape[1]))
    return jnp.transpose(x, (2, 0, 1))


def by_gather(image: Shaped[Array, "h w c"], rows: Taps, columns: Taps) -> Float[Array, "c p q"]:
    """Apply the taps with gathers: little arithmetic, for CPUs."""
    return gather_columns(gather_rows(image, rows), columns)


def _dense(line: Taps, n_in: int) -> Float[Array, "o i"]:
    """Write the taps into a matrix."""
    index, weight = line
    hit = index[:, :, None] == jnp.arange(n_in, dtype=jnp.int32)[None, None]
    return jnp.sum(jnp.where(hit, weight[:, :, None], 0), axis=1)


def by_matmul(image: Shaped[Array, "h w c"], rows: Taps, columns: Taps) -> Float[Array, "c p q"]:
    """Apply the taps as two matrix products: for machines with matrix units.

    In full float32 precision: a matrix unit's bfloat16 passes would round every pixel to eight bits and a half.
    """
    height, width = image.shape[:2]
    product: Any = functools.partial(jnp.einsum, precision=lax.Precision.HIGHEST)
    x = product("ph,hwc->cpw", _dense(rows, height), image.astype(jnp.float32))
    return product("qw,cpw->cpq", _dense(columns, width), x)


def by_branch(
    image: Shaped[Array, "h w c"], rows: Taps, columns: Taps, flip: Bool[Array, ""] | None
) -> Float[Array, "c p q"]:
    """Apply the taps with gathers, the mirror as a real branch: for a loop over images on a CPU.

    The branch also keeps the compiler from fusing the two directions, which would compute every row twice.
    """
    x = gather_rows(image, rows)
    if flip is None:
        return gather_columns(x, columns)
    return lax.cond(flip, lambda x: gather_columns(x, mirrored(columns)), lambda x: gather_columns(x, columns), x)


def crop_and_resize(
    image: Shaped[Array, "h w c"],
    box: Box,
    size: tuple[int, int],
    *,
    method: str = "linear",
    antialias: bool = True,
) -> Float[Array, "p q c"]:
    """Cut `box` out of the image and resize it to `size`, in the image's own value range.

    Args:
      image: any dtype.
      box: `(top, left, height, width)`, inside the image.
      size: output height and width.
      method: `linear`, or `cubic`, which overshoots and is not clipped here.
      antialias: widen the kernel when the crop shrinks, as PIL does and torchvision by default.

    Raises:
      UserError: unknown method.
    """
    rows, columns = box_taps(box, (image.shape[0], image.shape[1]), size, method=method, antialias=antialias)
    planes = platform.choose(cpu=by_gather, default=by_matmul)(image, rows, columns)
    return jnp.transpose(planes, (1, 2, 0))
