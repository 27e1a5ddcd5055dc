"""Positions of patches: fixed sine-cosine ones, and learned ones resized to another grid."""

import math

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ssl_jax.core import UserError


def sincos(height: int, width: int, dim: int) -> Float[np.ndarray, "h w d"]:
    """Sine and cosine of each patch's column and row: (sin x, cos x, sin y, cos y), a quarter of `dim` each.

    Wavelengths go geometrically from 2 pi to 10000 x 2 pi patches, as in MoCo v3 (arXiv:2104.02057) and MAE. The order
    is that of MAE's code; MoCo v3's has rows first, another order of the same channels.
    Coordinates count patches, so that a larger image extends the grid.

    Raises:
      UserError: `dim` is not a multiple of 4.
    """
    if dim % 4:
        raise UserError(f'pos="sincos" needs a width that is a multiple of 4, not dim={dim}')
    frequencies = 10_000.0 ** (-np.arange(dim // 4) / (dim // 4))
    x = np.broadcast_to((np.arange(width)[:, None] * frequencies)[None], (height, width, dim // 4))
    y = np.broadcast_to((np.arange(height)[:, None] * frequencies)[:, None], (height, width, dim // 4))
    return np.concatenate([np.sin(x), np.cos(x), np.sin(y), np.cos(y)], axis=-1).astype(np.float32)


def resize(grid: Float[Array, "h w d"], height: int, width: int) -> Float[Array, "p q d"]:
    """Interpolate learned positions to a `height` x `width` grid; unchanged when they already have that size.

    DINO's rule (facebookresearch/dino, `interpolate_pos_encoding`), also DINOv2's: bicubic with a = -0.75, no
    antialiasing, and a scale factor of (new + 0.1) / old in both directions. timm resizes with antialiasing instead:
    up to 0.12 apart when a 4 x 4 grid grows to 6 x 6.
    """
    if grid.shape[:2] == (height, width):
        return grid
    rows = jnp.asarray(_bicubic(grid.shape[0], height), grid.dtype)
    columns = jnp.asarray(_bicubic(grid.shape[1], width), grid.dtype)
    return jnp.einsum("ph,qw,hwd->pqd", rows, columns, grid)


def _bicubic(old: int, new: int) -> np.ndarray:
    """Weights `[new, old]` of cubic convolution; taps beyond the border repeat the border."""
    weights = np.zeros((new, old))
    for target in range(new):
        source = (target + 0.5) * old / (new + 0.1) - 0.5
        first = math.floor(source) - 1
        for tap in range(first, first + 4):
            weights[target, min(max(tap, 0), old - 1)] += _cubic(abs(source - tap))
    return weights


def _cubic(distance: float, a: float = -0.75) -> float:
    """Keys' cubic convolution kernel (1981), with torch's a."""
    if distance <= 1:
        return ((a + 2) * distance - (a + 3)) * distance**2 + 1
    return a * (((distance - 5) * distance + 8) * distance - 4) if distance < 2 else 0.0
