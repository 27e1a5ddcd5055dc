"""Gaussian blur with a fixed kernel size and a random width, padded by reflection as torchvision does.

(TensorFlow codes pad with zeros, which darkens the border.) Images are float, one image each.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, PRNGKeyArray

from ssl_jax.augment import platform
from ssl_jax.augment.resize import add
from ssl_jax.core import UserError


def kernel_size(size: int) -> int:
    """Return SimCLR's kernel size, a tenth of the image and odd: 23 at 224 px, 3 at 32 px."""
    return 2 * (max(size // 10, 2) // 2) + 1


def gaussian_weights(sigma: Float[Array, ""], taps: int) -> Float[Array, " k"]:
    """Return the normalised weights of a sampled Gaussian; the width 0 gives the identity."""
    offset = jnp.arange(taps, dtype=sigma.dtype) - taps // 2
    safe = jnp.maximum(sigma, 1e-3)
    weights = jnp.exp(-0.5 * jnp.square(offset / safe))
    return weights / jnp.sum(weights)


def _reflected(n: int, taps: int) -> np.ndarray:
    """Return for every position the positions that it reads, mirrored at the border without repeating it."""
    index = np.abs(np.arange(n)[:, None] + np.arange(taps)[None] - taps // 2)
    return np.where(index >= n, 2 * (n - 1) - index, index)


def by_shifts(image: Float[Array, "c h w"], weights: Float[Array, " k"]) -> Float[Array, "c h w"]:
    """Blur as sums of shifted images: for CPUs, where small products lose to plain vector code."""
    height, width = image.shape[1:]
    taps = weights.shape[0]
    half = taps // 2
    x = jnp.pad(image, ((0, 0), (half, half), (0, 0)), mode="reflect")
    x = add(x[:, k : k + height] * weights[k] for k in range(taps))
    x = jnp.pad(x, ((0, 0), (0, 0), (half, half)), mode="reflect")
    return add(x[:, :, k : k + width] * weights[k] for k in range(taps))


def _toeplitz(weights: Float[Array, " k"], n: int) -> Float[Array, "n n"]:
    index = _reflected(n, weights.shape[0])
    hit = index[:, :, None] == np.arange(n)[None, None]
    return jnp.einsum("okn,k->on", jnp.asarray(hit, weights.dtype), weights)


def by_matmul(image: Float[Array, "c h w"], weights: Float[Array, " k"]) -> Float[Array, "c h w"]:
    """Blur as two matrix products: for machines with matrix units."""
    product: Any = functools.partial(jnp.einsum, precision=lax.Precision.HIGHEST)
    x = product("ph,chw->cpw", _toeplitz(weights, image.shape[1]), image)
    return product("qw,cpw->cpq", _toeplitz(weights, image.shape[2]), x)


def check_fit(taps: int, image_size: tuple[int, int]) -> None:
    """Raise UserError unless a kernel is odd and its half smaller than the image, as reflection needs."""
    if taps % 2 == 0 or taps // 2 >= min(image_size):
        raise UserError(f"a blur kernel of {taps} taps must be odd, and its half smaller than the image {image_size}")


def gaussian_blur(image: Float[Array, "h w c"], sigma: float | Float[Array, ""], *, taps: int) -> Float[Array, "h w c"]:
    """Blur with a Gaussian of `sigma` pixels, sampled at `taps` positions (odd); torchvision's `gaussian_blur`.

    Raises:
      UserError: the kernel is even or too large for reflection.
    """
    check_fit(taps, (image.shape[0], image.shape[1]))
    precise = image.dtype if image.dtype.itemsize > 4 else jnp.float32
    weights = gaussian_weights(jnp.asarray(sigma, precise), taps).astype(image.dtype)
    planes = platform.choose(cpu=by_shifts, default=by_matmul)(jnp.transpose(image, (2, 0, 1)), weights)
    return jnp.transpose(planes, (1, 2, 0))


def random_gaussian_blur(
    key: PRNGKeyArray, image: Float[Array, "h w c"], *, sigma: tuple[float, float] = (0.1, 2.0), taps: int
) -> Float[Array, "h w c"]:
    """Blur with a width drawn uniformly."""
    width = jax.random.uniform(key, (), jnp.float32, sigma[0], sigma[1])
    return gaussian_blur(image, width, taps=taps)
