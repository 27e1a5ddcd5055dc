"""Rotations by quarter turns."""

import jax.numpy as jnp
from jaxtyping import Array, Shaped

from ssl_jax.core import UserError


def rotations(image: Shaped[Array, "b h w c"]) -> Shaped[Array, "b 4 h w c"]:
    """All four rotations of square images: entry k is turned by k * 90 degrees counterclockwise; exact, no resampling.

    Raises:
      UserError: the images are not square.
    """
    height, width = image.shape[1:3]
    if height != width:
        raise UserError(f"Rotations need square images, but these are {height} x {width}; crop them to a square.")
    return jnp.stack([jnp.rot90(image, k, axes=(1, 2)) for k in range(4)], axis=1)
