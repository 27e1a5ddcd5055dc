"""What a sample of the images says of all of them: grey or colour, and whether they have one size."""

import os
from collections.abc import Sequence

import numpy as np

from ssl_jax.core import UserError
from ssl_jax.data.decode import Encoded, header, try_decode
from ssl_jax.data.lazy import differ

SAMPLE = 100


def spread(items: np.ndarray) -> np.ndarray:
    """Up to a hundred of some items, evenly spaced."""
    return items[np.unique(np.linspace(0, len(items) - 1, min(len(items), SAMPLE)).astype(int))]


def shape_of(
    sample: Sequence[Encoded], image_size: int | None, channels: int | None, name: str
) -> tuple[int, int, int]:
    """Height, width and channels that images are to be decoded to.

    Args:
      sample: some of the images.
      image_size: shorter side to resize and crop to, or None if all images have the same size already.
      channels: 1 or 3, or None for 3 unless all of the sample are grey.
      name: for messages.

    Raises:
      UserError: if the sample differs in size and `image_size` is None, or none of it is readable.
    """
    headers = [sides for sides in map(_header, sample) if sides]
    if not headers:
        raise UserError(f"none of {len(sample)} images of {name}, looked at as a sample, is readable; check the data.")
    channels = channels or (1 if all(grey for _, _, grey in headers) else 3)
    if image_size is not None:
        return image_size, image_size, channels
    sizes = list(dict.fromkeys(sides[:2] for sides in headers))
    if len(sizes) > 1:
        raise differ(name, *sizes[:2])
    first = next((image for file in sample if (image := try_decode(file, None, channels)) is not None), None)
    if first is None:
        raise UserError(f"none of {len(sample)} images of {name}, looked at as a sample, can be decoded; check them.")
    return first.shape[0], first.shape[1], channels


def _header(image: Encoded) -> tuple[int, int, bool] | None:
    """Shorter side, longer side, and whether the image is grey, as `header` has it, also of pixels."""
    if isinstance(image, np.ndarray):
        return min(image.shape[:2]), max(image.shape[:2]), image.shape[-1] == 1
    return header(image if isinstance(image, bytes) else os.fspath(image))
