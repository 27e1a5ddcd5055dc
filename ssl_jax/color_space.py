"""sRGB and CIE Lab (illuminant D65, 2 degree observer), per pixel and differentiable: IEC 61966-2-1 and CIE 15.

In Lab, L is the lightness in 0..100, and a (green to red) and b (blue to yellow) are the colour, zero for greys. Within
sRGB a reaches from -86 to 98 and b from -108 to 94. The constants are the rounded ones of scikit-image and OpenCV.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ssl_jax.losses import at_least_float32

TO_XYZ = np.array([[0.412453, 0.357580, 0.180423], [0.212671, 0.715160, 0.072169], [0.019334, 0.119193, 0.950227]])
WHITE = np.array([0.95047, 1.0, 1.08883])
_TO_WHITE = TO_XYZ / WHITE[:, None]  # linear RGB to XYZ relative to white
_FROM_WHITE = np.linalg.inv(_TO_WHITE)


def _mix(matrix: np.ndarray, x: Float[Array, "... 3"]) -> Float[Array, "... 3"]:
    # Sums written out: no accelerator may round these as it rounds matrix products.
    rows = (sum(x[..., j] * float(matrix[i, j]) for j in range(3)) for i in range(3))
    return jnp.stack(tuple(rows), axis=-1)


def srgb_to_lab(image: Float[Array, "... 3"]) -> Float[Array, "... 3"]:
    """Lab of sRGB values in 0..1, in at least float32; L in 0..100. Values outside 0..1 are clipped."""
    x = jnp.clip(at_least_float32(image), 0.0, 1.0)
    # Each branch sees only values of its own, so that no gradient is infinite times zero.
    linear = jnp.where(x > 0.04045, ((jnp.maximum(x, 0.04045) + 0.055) / 1.055) ** 2.4, x / 12.92)
    t = _mix(_TO_WHITE, linear)
    f = jnp.where(t > 0.008856, jnp.cbrt(jnp.maximum(t, 0.008856)), 7.787 * t + 16 / 116)
    fx, fy, fz = f[..., 0], f[..., 1], f[..., 2]
    return jnp.stack((116.0 * fy - 16.0, 500.0 * (fx - fy), 200.0 * (fy - fz)), axis=-1)


def lab_to_srgb(lab: Float[Array, "... 3"]) -> Float[Array, "... 3"]:
    """Return sRGB in 0..1 of Lab, in at least float32; colours out of its gamut are clipped channel by channel."""
    lab = at_least_float32(lab)
    fy = (lab[..., 0] + 16.0) / 116.0
    f = jnp.stack((fy + lab[..., 1] / 500.0, fy, fy - lab[..., 2] / 200.0), axis=-1)
    t = jnp.where(f > 0.2068966, f**3, (f - 16 / 116) / 7.787)
    linear = jnp.clip(_mix(_FROM_WHITE, t), 0.0, 1.0)
    return jnp.where(linear > 0.0031308, 1.055 * jnp.maximum(linear, 0.0031308) ** (1 / 2.4) - 0.055, 12.92 * linear)


def lightness(image: Float[Array, "... 3"]) -> Float[Array, "... 1"]:
    """L of sRGB values in 0..1, moved and scaled from 0..100 to -1..1: a grey image as networks take it."""
    return (srgb_to_lab(image)[..., :1] - 50.0) / 50.0
