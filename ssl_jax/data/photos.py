"""Patches of photographs, 32 x 32 in colour: real images that packages bring along, so that nothing is downloaded.

A class is a photograph: two that come inside scikit-learn, or eight with those inside scikit-image. Squares of 64
pixels are for training or for testing as a whole, so that no pixel is seen in both; patches overlap within a square.
"""

import functools
import importlib.util
import pathlib

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from ssl_jax.core import UserError
from ssl_jax.data.source import ArraySource, from_arrays

SKLEARN = ("china.jpg", "flower.jpg")
SKIMAGE = ("astronaut.png", "chelsea.png", "coffee.png", "ihc.png", "motorcycle_left.png", "rocket.jpg")
EVERY = 4  # squares, of which one is for testing
SQUARE, PATCH, STRIDE = 64, 32, 8


def read(split: str, more: bool = False) -> ArraySource:
    """Return `"train"` or `"test"`, photograph by photograph: 2,250 and 750 patches, or 8,875 and 2,800 with `more`.

    Args:
      split: `"train"` (three squares of four) or `"test"` (every fourth square along rows, moved by two in each row).
      more: with the six photographs of scikit-image.

    Raises:
      UserError: `more`, and scikit-image is not installed or came without its photographs.
    """
    files = (*SKLEARN, *SKIMAGE) if more else SKLEARN
    parts = [patches(photograph(file), split) for file in files]
    labels = np.repeat(np.arange(len(files), dtype=np.int32), [len(part) for part in parts])
    classes = [pathlib.Path(file).stem for file in files]
    return from_arrays(np.concatenate(parts), labels, classes, name=f"photos{':skimage' if more else ''} {split}")


def patches(photo: UInt8[np.ndarray, "h w 3"], split: str) -> UInt8[np.ndarray, "n 32 32 3"]:
    """Cut the squares of one split into patches, 25 from each; what is left at the photograph's end is not used."""
    rows, columns = photo.shape[0] // SQUARE, photo.shape[1] // SQUARE
    offsets = range(0, SQUARE - PATCH + 1, STRIDE)
    corners = [
        (SQUARE * row + y, SQUARE * column + x)
        for row in range(rows)
        for column in range(columns)
        if ((column + 2 * row) % EVERY == EVERY - 1) == (split == "test")
        for y in offsets
        for x in offsets
    ]
    return np.stack([photo[y : y + PATCH, x : x + PATCH] for y, x in corners])


@functools.cache
def photograph(file: str) -> UInt8[np.ndarray, "h w 3"]:
    """Return a whole photograph, one of `SKLEARN` or `SKIMAGE`; not to be written to.

    Raises:
      UserError: its package is not installed, or came without it.
    """
    package, folder = ("sklearn", "datasets/images") if file in SKLEARN else ("skimage", "data")
    found = importlib.util.find_spec(package)  # reading the file needs none of the package's code
    path = pathlib.Path(found.origin).parent / folder / file if found and found.origin else None
    if path is None or not path.is_file():
        raise UserError(
            f"photos:skimage takes {file} from scikit-image, which is not installed; run `pip install scikit-image`, "
            "or use the two photographs of `photos`."
        )
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))
