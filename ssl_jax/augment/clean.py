"""What evaluation feeds to the encoder: resize, centre crop, normalise; nothing random."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, DTypeLike, Float, Shaped

from ssl_jax.augment import color, resize
from ssl_jax.augment.recipe import Stats, check_images


def prepare(
    image: Shaped[Array, "b h w c"],
    *,
    size: int,
    mean: Stats = None,
    std: Stats = None,
    dtype: DTypeLike = jnp.float32,
) -> Float[Array, "b s s c"]:
    """Resize the shorter side to `size`, crop the centre square and normalise.

    Args:
      image: uint8.
      size: height and width of the result in pixels.
      mean: per channel, for values in [0, 1]; None: no normalisation.
      std: likewise.
      dtype: of the result.

    Raises:
      UserError: images that are not uint8 `[b h w c]`, or statistics of another number of channels.
    """
    check_images(image, mean, std)
    height, width = image.shape[1:3]
    side = min(height, width)
    if side == size:
        top, left = round((height - side) / 2), round((width - side) / 2)
        x = image[:, top : top + side, left : left + side].astype(jnp.float32)
    else:  # the centre square of the resized image is the resized centre square, up to a fraction of a pixel
        box = jnp.array([(height - side) / 2, (width - side) / 2, side, side], jnp.float32)
        box = jnp.floor(box).astype(jnp.int32)
        x = jax.vmap(lambda im: resize.crop_and_resize(im, box, (size, size)))(image)
    x = x * np.float32(1 / 255)
    if mean is not None and std is not None:
        x = color.normalize(x, mean, std)
    return x.astype(dtype)
