"""What evaluation feeds to the encoder: resize, centre crop, normalise; nothing random."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, DTypeLike, Float

from ssl_jax.augment import color, platform, resize
from ssl_jax.augment.recipe import Images, Stats, check_images


def _line(n: int, shorter: int, size: int) -> resize.Taps:
    """Return the taps of the central `size` positions after resizing `n` as `shorter` is resized to `size`."""
    whole = size * n // shorter
    offset = round((whole - size) / 2)
    start, length = jnp.zeros((), jnp.float32), jnp.full((), n, jnp.float32)
    index, weight = resize.taps(start, length, n, whole, method="linear", antialias=True)
    return index[offset : offset + size], weight[offset : offset + size]


def prepare(
    image: Images,
    *,
    size: int,
    mean: Stats = None,
    std: Stats = None,
    dtype: DTypeLike = jnp.float32,
) -> Float[Array, "b s s c"]:
    """Resize the shorter side to `size` (bilinear, antialiased), crop the centre square and normalise.

    Torchvision's `Resize(size)` and `CenterCrop(size)`.

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
    image = jnp.asarray(image)
    height, width = image.shape[1:3]
    if min(height, width) == size:
        top, left = round((height - size) / 2), round((width - size) / 2)
        x = image[:, top : top + size, left : left + size].astype(jnp.float32)
    else:
        rows, columns = (_line(n, min(height, width), size) for n in (height, width))
        resample = platform.choose(cpu=resize.by_gather, default=resize.by_matmul)
        x = jnp.transpose(jax.vmap(lambda image: resample(image, rows, columns))(image), (0, 2, 3, 1))
    x = x * np.float32(1 / 255)
    if mean is not None and std is not None:
        x = color.normalize(x, mean, std)
    return x.astype(dtype)
