"""Pictures as PNG data URIs within a budget of bytes."""

import base64
import io

import numpy as np
from jaxtyping import UInt8
from PIL import Image


def png(image: UInt8[np.ndarray, "h w c"]) -> bytes:
    """PNG file of one picture: grey for one or two channels, else the first three as RGB."""
    pixels = image[..., 0] if image.shape[-1] < 3 else image[..., :3]
    out = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(out, "PNG", optimize=True)
    return out.getvalue()


def uri(data: bytes) -> str:
    """`data:` address of a PNG file."""
    return "data:image/png;base64," + base64.b64encode(data).decode("ascii")


def shrink(images: UInt8[np.ndarray, "n h w c"], side: int) -> UInt8[np.ndarray, "n h2 w2 c"]:
    """The pictures with the longer side at most `side` pixels; never enlarged."""
    _, height, width, channels = images.shape
    scale = side / max(height, width)
    if scale >= 1:
        return images
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    out = np.empty((len(images), size[1], size[0], channels), np.uint8)
    for i, image in enumerate(images):
        for channel in range(channels):  # one at a time: any number of channels
            out[i, :, :, channel] = Image.fromarray(image[:, :, channel]).resize(size, Image.Resampling.BOX)
    return out


def gallery(images: UInt8[np.ndarray, "n h w c"], budget: int = 500_000) -> list[str]:
    """One data URI per picture, made smaller until all of them together fit in `budget` bytes.

    Even the smallest form (16 pixels) is used when it does not fit: a page that is a little too large is better than
    one without its pictures.
    """
    files: list[bytes] = []
    for side in (128, 96, 64, 48, 32, 16):
        files = [png(image) for image in shrink(images, side)]
        if sum(map(len, files)) <= budget:
            break
    return [uri(file) for file in files]


def sheet(images: UInt8[np.ndarray, "n h w c"], budget: int = 900_000) -> tuple[str, int, int]:
    """All pictures on one sheet, row by row: `(data URI, columns, rows)`. Far smaller than a file for each."""
    columns = int(np.ceil(np.sqrt(len(images))))
    rows = -(-len(images) // columns)
    file = b""
    for side in (32, 24, 16, 12, 8):
        small = shrink(images, side)
        _, height, width, channels = small.shape
        cells = np.zeros((rows * columns, height, width, channels), np.uint8)
        cells[: len(small)] = small
        cells = cells.reshape(rows, columns, height, width, channels).transpose(0, 2, 1, 3, 4)
        file = png(cells.reshape(rows * height, columns * width, channels))
        if len(file) <= budget:
            break
    return uri(file), columns, rows
