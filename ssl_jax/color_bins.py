"""Colours as classes: the ab plane of Lab in bins, as Zhang et al. (2016, section 2) cut it up.

A colour is encoded as a distribution over bins and decoded from one; rare bins are given more weight. Colours `ab` and
bins are in the units of Lab, see `ssl_jax.color_space`.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int

from ssl_jax.color_space import TO_XYZ, WHITE
from ssl_jax.losses import at_least_float32


@functools.cache
def bins(grid: int = 10) -> Float[np.ndarray, "q 2"]:
    """Colours `(a, b)` on a grid, float32, sorted: the corners of all squares of the grid that hold a colour of sRGB.

    With a grid of 10 there are 309. The authors' file holds 313, begins with the same points, and says nothing of how
    it was made; bins at the rim hold no colours of real images, so the difference carries no weight.

    The shadow of a solid in a plane is that of its surface, so the six faces of the cube of 8-bit colours are all that
    has to be looked at.
    """
    step = np.linspace(0.0, 1.0, 256)
    u, v = (x.ravel() for x in np.meshgrid(step, step))
    faces = [np.insert(np.stack((u, v), 1), axis, end, axis=1) for axis in range(3) for end in (0.0, 1.0)]
    rgb = np.concatenate(faces)
    linear = np.where(rgb > 0.04045, ((rgb + 0.055) / 1.055) ** 2.4, rgb / 12.92)
    t = linear @ (TO_XYZ / WHITE[:, None]).T
    f = np.where(t > 0.008856, np.cbrt(t), 7.787 * t + 16 / 116)
    ab = np.stack((500.0 * (f[:, 0] - f[:, 1]), 200.0 * (f[:, 1] - f[:, 2])), axis=1)
    squares = np.unique(np.floor(ab / grid).astype(int), axis=0)
    corners = np.concatenate([squares + corner for corner in ((0, 0), (0, 1), (1, 0), (1, 1))])
    return (np.unique(corners, axis=0) * grid).astype(np.float32)


def _distances(ab: Float[Array, "... 2"], centres: np.ndarray) -> tuple[Float[Array, "... q"], Float[Array, "... q"]]:
    """Squared distances to all bins, and the same with every tie broken in favour of the earlier bin.

    Grey pixels lie as far from one bin as from others; without the small push, rounding would choose between these.
    """
    a, b = (
        ab[..., i, None] - jnp.asarray(centres[:, i], ab.dtype).reshape((1,) * (ab.ndim - 1) + (-1,)) for i in (0, 1)
    )
    distance = a * a + b * b
    push = jnp.arange(len(centres), dtype=ab.dtype) * 1e-4
    return distance, distance + push.reshape((1,) * (ab.ndim - 1) + (-1,))


def soft_encode(
    ab: Float[Array, "... 2"], centres: Float[np.ndarray, "q 2"], *, neighbors: int = 10, sigma: float = 5.0
) -> Float[Array, "... q"]:
    """Distribution over bins: Gaussian weights of the nearest ones, normalised. Carries no gradient.

    Args:
      ab: colours.
      centres: of the bins, see `bins`.
      neighbors: how many bins take part: 10 as in the authors' code; the paper's text says 5.
      sigma: width of the Gaussian, in units of ab.
    """
    distance, ordered = _distances(lax.stop_gradient(at_least_float32(ab)), centres)
    # One minimum after the other: on CPUs five times as fast as `lax.top_k`.
    left = ordered
    for _ in range(neighbors - 1):
        left = jnp.where(left <= jnp.min(left, axis=-1, keepdims=True), jnp.inf, left)
    farthest = jnp.min(left, axis=-1, keepdims=True)
    near = jnp.where(ordered <= farthest, distance, jnp.inf)
    return jax.nn.softmax(-near / (2 * sigma**2), axis=-1)


def nearest(ab: Float[Array, "... 2"], centres: Float[np.ndarray, "q 2"]) -> Int[Array, "..."]:
    """Number of the bin nearest to a colour, int32: where `soft_encode` is largest."""
    return jnp.argmin(_distances(at_least_float32(ab), centres)[1], axis=-1).astype(jnp.int32)


def class_weights(prior: Float[Array, " q"], *, mix: float = 0.5) -> Float[Array, " q"]:
    """Weights of bins, inverse to how common they are, of mean 1 over the prior (equation 4).

    Args:
      prior: share of each bin among the pixels, sums to 1.
      mix: share of the uniform distribution that is mixed in: 0.5 is the paper's lambda, 1 turns weighting off.
    """
    weights = 1.0 / ((1.0 - mix) * prior + mix / len(prior))
    return weights / jnp.sum(prior * weights)


def annealed_mean(
    logits: Float[Array, "... q"], centres: Float[np.ndarray, "q 2"], *, temperature: float = 0.38
) -> Float[Array, "... 2"]:
    """Colour of a predicted distribution (equation 5): its mean after sharpening.

    Args:
      logits: of the bins.
      centres: of the bins.
      temperature: 1 is the plain mean, pale but steady; towards 0 the most likely bin, vivid but patchy.
    """
    probabilities = jax.nn.softmax(at_least_float32(logits) / temperature, axis=-1)
    return jnp.matmul(probabilities, jnp.asarray(centres, probabilities.dtype), precision="highest")
