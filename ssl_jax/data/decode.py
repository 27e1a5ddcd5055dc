"""From an image file to an uint8 array: every mode that Pillow reads becomes plain grey or RGB, upright and square."""

import io
import os
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps

from ssl_jax.data import damage

Encoded = str | os.PathLike[str] | bytes | np.ndarray


def decode(encoded: Encoded, size: int | None, channels: int) -> UInt8[np.ndarray, "h w c"]:
    """Decode one image.

    The EXIF orientation is applied, transparency is composited on white, 16-bit values are scaled to 8 bits, and of
    an animation the first frame is taken.

    Args:
      encoded: path of a file, the bytes of one, or a uint8 array `[h w c]`.
      size: the shorter side is resized to `size` pixels (bicubic, antialiased) and the centre cropped to a square;
        None keeps the image as it is.
      channels: 1 for grey (ITU-R 601 luma), 3 for RGB.

    Raises:
      Exception: Pillow's many types, if the image is damaged or is none.
    """
    with open_image(encoded) as opened:
        if size is not None:
            opened.draft(None, (3 * size, 3 * size))  # JPEG: leave out detail that the resize below removes anyway
        image = plain(ImageOps.exif_transpose(opened), channels)
    if size is not None:
        image = _square(image, size)
    pixels = np.asarray(image)
    return pixels[..., None] if channels == 1 else pixels


def header(encoded: str | bytes) -> tuple[int, int, bool] | None:
    """Return shorter side, longer side, and whether the image is grey; None if the file is not an image.

    Reads only the beginning of the file, so a truncated image still passes.
    """
    try:
        with _of_known_format(encoded) as image:
            grey = image.mode in ("1", "L", "LA", "La", "F") or image.mode.startswith("I")
            return min(image.size), max(image.size), grey
    except Exception:  # whatever a decoder raises on bytes that are not what it expects
        return None


def decode_or_why(encoded: Encoded, size: int | None, channels: int) -> UInt8[np.ndarray, "h w c"] | str:
    """`decode`, or why the image can't be decoded, in a few words."""
    try:
        return decode(encoded, size, channels)
    except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error and more
        return damage.reason(error, length_of(encoded))


def try_decode(encoded: Encoded, size: int | None, channels: int) -> UInt8[np.ndarray, "h w c"] | None:
    """`decode`, or None if the image is damaged."""
    image = decode_or_why(encoded, size, channels)
    return None if isinstance(image, str) else image


def why_broken(encoded: Encoded) -> str | None:
    """Decode an image whole and say why that fails, such as "truncated" or "permission denied"; None if it works."""
    image = decode_or_why(encoded, None, 3)
    return image if isinstance(image, str) else None


def length_of(encoded: Encoded) -> int | None:
    """Bytes of an image that was not readable, None if even that is not known."""
    if isinstance(encoded, bytes | np.ndarray):
        return len(encoded)
    try:
        return os.path.getsize(encoded)
    except (OSError, ValueError):
        return None


def open_image(encoded: Encoded) -> Image.Image:
    """Open an image of any of `damage.FORMATS` and of a safe size with Pillow, which decodes it later."""
    if isinstance(encoded, np.ndarray):
        return Image.fromarray(encoded[..., 0] if encoded.shape[-1] == 1 else encoded)
    opened = _of_known_format(encoded)
    try:
        damage.check_size(*opened.size)
    except damage.TooLarge:
        opened.close()
        raise
    return opened


def _of_known_format(encoded: str | os.PathLike[str] | bytes) -> Image.Image:
    return Image.open(io.BytesIO(encoded) if isinstance(encoded, bytes) else encoded, formats=damage.FORMATS)


def plain(image: Image.Image, channels: int) -> Image.Image:
    """Convert any of Pillow's modes to `"L"` or `"RGB"`, transparency composited on white."""
    if image.mode.startswith("I") or image.mode == "F":
        image = _eight_bits(image)
    if "transparency" in image.info or image.mode in ("RGBA", "LA", "PA", "La", "RGBa"):
        colour = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), colour)
    return image.convert("L" if channels == 1 else "RGB")


def _eight_bits(image: Image.Image) -> Image.Image:
    """Scale 16-bit integers by 1/257, so that 65535 becomes 255; floats are taken to lie in [0, 1]."""
    pixels: Any = np.asarray(image)
    if image.mode == "F":
        return Image.fromarray(np.round(np.clip(np.nan_to_num(pixels), 0, 1) * 255).astype(np.uint8))
    wide = np.clip(pixels.astype(np.int64), 0, 65535)
    return Image.fromarray(((wide + 128) // 257).astype(np.uint8))


def _square(image: Image.Image, size: int) -> Image.Image:
    width, height = image.size
    edge = min(width, height)
    left, top = (width - edge) // 2, (height - edge) // 2
    return image.resize((size, size), Image.Resampling.BICUBIC, box=(left, top, left + edge, top + edge))
