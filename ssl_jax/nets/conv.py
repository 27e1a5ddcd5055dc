"""Two-dimensional convolution with a fast weight gradient on CPUs.

XLA's CPU backend runs the weight gradient of a convolution several times slower than its forward pass. Here, on CPUs
only, that gradient is a matrix product: patches are laid out from shifted slices of the input, a few images at a time
so that they stay in the cache, and multiplied by the output's cotangent. GPUs and TPUs keep XLA's own rule; the choice
falls when the program is lowered, so compiling for a TPU on a CPU host also gets the right one.
"""

import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Float

CHUNK_BYTES = 3_000_000  # patches laid out at once; measured best between 1 and 6 MB
he_normal = nn.initializers.variance_scaling(2.0, "fan_out", "normal")  # torchvision's ResNet


def _plain(x: Array, kernel: Array, stride: int, padding: int) -> Array:
    pads = ((padding, padding), (padding, padding))
    return lax.conv_general_dilated(x, kernel, (stride, stride), pads, dimension_numbers=("NHWC", "HWIO", "NHWC"))


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def conv(
    x: Float[Array, "b h w i"], kernel: Float[Array, "k m i o"], stride: int, padding: int
) -> Float[Array, "b p q o"]:
    """Convolve images with a kernel, `padding` zeros on every side: torch's `conv2d`, channels last.

    Differentiable once, in reverse mode. Batch sharding is kept: the weight gradient sums within each device's images
    first, and reduces across devices once.
    """
    return _plain(x, kernel, stride, padding)


def _forward(x: Array, kernel: Array, stride: int, padding: int) -> tuple[Array, tuple[Array, Array]]:
    return _plain(x, kernel, stride, padding), (x, kernel)


def _backward(stride: int, padding: int, residuals: tuple[Array, Array], g: Array) -> tuple[Array, Array]:
    x, kernel = residuals
    dx = jax.vjp(lambda x: _plain(x, kernel, stride, padding), x)[1](g)[0]
    dkernel = lax.platform_dependent(
        x,
        g,
        cpu=functools.partial(_kernel_gradient, shape=kernel.shape, stride=stride, padding=padding),
        default=lambda x, g: jax.vjp(lambda kernel: _plain(x, kernel, stride, padding), kernel)[1](g)[0],
    )
    return dx, dkernel


conv.defvjp(_forward, _backward)


def _patches(x: Array, size: tuple[int, int], out: tuple[int, int], stride: int, padding: int) -> Array:
    """Lay out, for every output position, the inputs under the kernel: `[b h w i]` -> `[b p q k*m*i]`."""
    padded = jnp.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    (k, m), (p, q) = size, out
    rows, columns = (p - 1) * stride + 1, (q - 1) * stride + 1
    slices = [padded[:, i : i + rows : stride, j : j + columns : stride] for i in range(k) for j in range(m)]
    return jnp.concatenate(slices, axis=-1) if len(slices) > 1 else slices[0]


def _chunking(batch: int, bytes_per_image: int) -> tuple[int, int, int]:
    """Split a batch into (groups, chunks, images): one group per device, so that chunks never mix devices."""
    groups = math.gcd(batch, jax.device_count())
    rest = batch // groups
    fit = max(1, CHUNK_BYTES // bytes_per_image)
    images = max(d for d in range(1, rest + 1) if rest % d == 0 and d <= fit)
    return groups, rest // images, images


def _kernel_gradient(x: Array, g: Array, *, shape: tuple[int, ...], stride: int, padding: int) -> Array:
    (k, m, i, o), (b, p, q, _) = shape, g.shape
    groups, chunks, images = _chunking(b, p * q * k * m * i * x.dtype.itemsize)
    x = x.reshape(groups, chunks, images, *x.shape[1:])
    g = g.reshape(groups, chunks, images, p, q, o)

    def product(chunk: Array) -> Array:
        here = lax.dynamic_index_in_dim(x, chunk, axis=1, keepdims=False)
        patches = _patches(here.reshape(-1, *here.shape[2:]), (k, m), (p, q), stride, padding)
        patches = lax.optimization_barrier(patches.reshape(groups, images * p * q, k * m * i))
        there = lax.dynamic_index_in_dim(g, chunk, axis=1, keepdims=False).reshape(groups, images * p * q, o)
        return jnp.einsum("gnk,gno->gko", patches, there, preferred_element_type=accumulator)

    accumulator = jnp.promote_types(x.dtype, jnp.float32)
    zero = jnp.zeros((groups, k * m * i, o), accumulator)
    total = lax.fori_loop(0, chunks, lambda chunk, total: total + product(chunk), zero)
    return total.sum(0).reshape(shape).astype(x.dtype)


class Conv(nn.Module):
    """Convolution layer without bias, torch-like: `size` x `size` kernel, explicit padding (default `size // 2`).

    Parameters are float32 (`kernel` [size size in out], He-normal over fan-out as in torchvision); the arithmetic runs
    in `dtype`.
    """

    features: int
    size: int = 3
    stride: int = 1
    padding: int | None = None
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w i"]) -> Float[Array, "b p q o"]:
        """Apply the layer."""
        kernel = self.param("kernel", he_normal, (self.size, self.size, x.shape[-1], self.features), jnp.float32)
        padding = self.size // 2 if self.padding is None else self.padding
        return conv(x.astype(self.dtype), kernel.astype(self.dtype), self.stride, padding)
