"""The gradient of a convolution's kernel as matrix products, for CPUs.

XLA's CPU backend computes this gradient as one convolution with a window of the size of the image, and takes 2 to 7
times as long as for the forward pass. Matrix products are what it does best. So shifted copies of the input are laid
out as a matrix, a few images at a time so that they stay in the cache, and multiplied by the output's cotangent. With
stride 1 the k x k shifts are shared between the factors: the input is copied for the k column shifts and the cotangent
for the k row shifts, 2 k copies instead of k x k.
"""

import math

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from ssl_jax.nets.precision import at_least_float32

CHUNK_BYTES = 700_000  # of copies laid out at a time; 0.5 to 1 MB measured best where a core has 2 MB of cache
SUMS = 2  # but at least so many times the size of the sums, which every chunk reads and writes


def kernel_gradient(
    x: Float[Array, "b h w i"], g: Float[Array, "b p q o"], *, size: int, stride: int, padding: int
) -> Float[Array, "{size} {size} i o"]:
    """Gradient of a `size` x `size` kernel, for the input `x` and the cotangent `g` of the output.

    Sums in at least float32. A batch that is sharded over devices stays so: each device adds up its own images, and
    there is one reduction across devices at the end.
    """
    (b, h, _, i), (_, p, q, o) = x.shape, g.shape
    shared = stride == 1 and size > 1
    copied, summed = (h * q * size * (i + o), size * i * size * o) if shared else (p * q * size**2 * i, size**2 * i * o)
    budget = max(CHUNK_BYTES, SUMS * summed * x.dtype.itemsize)
    groups, chunks, images = _chunking(b, max(1, budget // (copied * x.dtype.itemsize)))
    x = x.reshape(groups, chunks, images, *x.shape[1:])
    g = g.reshape(groups, chunks, images, *g.shape[1:])

    def add(chunk: Array, state: tuple[Array, tuple[Array, ...]]) -> tuple[Array, tuple[Array, ...]]:
        total, buffers = state
        here = lax.dynamic_index_in_dim(x, chunk, axis=1, keepdims=False)
        left, right = here, lax.dynamic_index_in_dim(g, chunk, axis=1, keepdims=False)
        if shared:
            buffers = left, right = _shift_columns(buffers[0], left, padding), _shift_rows(buffers[1], right, padding)
        else:
            left = _patches(left, size, (p, q), stride, padding)
        # Without the barrier XLA computes the copies inside the product, element by element.
        left, right = lax.optimization_barrier((left, right))
        left, right = (factor.reshape(groups, -1, factor.shape[-1]) for factor in (left, right))
        return total + jnp.einsum("gna,gnb->gab", left, right, preferred_element_type=total.dtype), buffers

    # The buffers' zeros, which stand for the padding, are written once: every chunk fills the same places.
    buffers = (_zeros(x, images, h, q, size * i), _zeros(g, images, h, q, size * o)) if shared else ()
    total = _zeros(x, size * i, size * o) if shared else _zeros(x, size * size * i, o)
    total = total.astype(at_least_float32(x.dtype))
    total = lax.fori_loop(0, chunks, add, (total, buffers))[0].sum(0)
    if shared:
        total = total.reshape(size, i, size, o).transpose(2, 0, 1, 3)
    return total.reshape(size, size, i, o).astype(x.dtype)


def _chunking(batch: int, fit: int) -> tuple[int, int, int]:
    """Split a batch into (groups, chunks, at most `fit` images): a group per device, so that no chunk mixes devices."""
    groups = math.gcd(batch, jax.device_count())
    rest = batch // groups
    images = max(d for d in range(1, rest + 1) if rest % d == 0 and d <= fit)
    return groups, rest // images, images


def _zeros(like: Array, *shape: int) -> Array:
    return jnp.zeros_like(like, shape=(like.shape[0], *shape))


def _shift_columns(buffer: Array, x: Array, padding: int) -> Array:
    """Write `x` [... h w i] for every kernel column j: place q of `buffer` [... h q k*i] holds q + j - padding."""
    w, q, i = x.shape[-2], buffer.shape[-2], x.shape[-1]
    for j in range(buffer.shape[-1] // i):
        first, last = max(0, padding - j), min(q, w + padding - j)
        if first < last:
            piece = x[..., first + j - padding : last + j - padding, :]
            buffer = lax.dynamic_update_slice(buffer, piece, (0, 0, 0, first, j * i))
    return buffer


def _shift_rows(buffer: Array, g: Array, padding: int) -> Array:
    """Write `g` [... p q o] for every kernel row j: place r of `buffer` [... h q k*o] holds r - j + padding."""
    p, h, o = g.shape[-3], buffer.shape[-3], g.shape[-1]
    for j in range(buffer.shape[-1] // o):
        first, last = max(0, j - padding), min(h, p + j - padding)
        if first < last:
            piece = g[..., first - j + padding : last - j + padding, :, :]
            buffer = lax.dynamic_update_slice(buffer, piece, (0, 0, first, 0, j * o))
    return buffer


def _patches(x: Array, size: int, out: tuple[int, int], stride: int, padding: int) -> Array:
    """Lay out what lies under the kernel for every output position: `x` [... h w i] -> [... p q k*k*i]."""
    around = (padding, padding)
    padded = jnp.pad(x, ((0, 0), (0, 0), around, around, (0, 0))) if padding else x
    rows, columns = ((n - 1) * stride + 1 for n in out)
    shifts = [(r, c) for r in range(size) for c in range(size)]
    pieces = [padded[..., r : r + rows : stride, c : c + columns : stride, :] for r, c in shifts]
    return jnp.concatenate(pieces, axis=-1) if len(pieces) > 1 else pieces[0]
