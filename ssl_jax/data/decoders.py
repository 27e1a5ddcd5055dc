"""From an encoded image and boxes in it to views: decoded once, at reduced scale where all boxes allow it.

Two decoders do the same. `pillow` is always there; `fast` reads JPEGs with simplejpeg and resizes with OpenCV (`pip
install ssl_jax[fast]`). Both are libjpeg-turbo underneath, give the same pixels, and differ by at most one level of 255
in what they interpolate, which is why a run records which one it used.

A box is first halved, by exact means, as long as it stays at least as large as its view, and then interpolated
(bilinear, no further antialiasing). A cubic crop is halved as long as it stays twice as large, and then resized as
Pillow does (bicubic, antialiased). For JPEGs the halvings that all boxes have in common happen in the decoder.
"""

import dataclasses
import functools
import importlib.metadata
import os
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps

from ssl_jax.core import UserError
from ssl_jax.data import damage
from ssl_jax.data.crops import Box, Crop, halvings
from ssl_jax.data.decode import Encoded, length_of, open_image, plain

Pixels = UInt8[np.ndarray, "h w c"]
Square = UInt8[np.ndarray, "s s c"]
Draw = Callable[[tuple[int, int]], tuple[Box, ...]]
ORIENTATION = 0x0112  # EXIF's tag
MOST = 3  # halvings that JPEG decoders can do


@dataclasses.dataclass(frozen=True)
class Decoder:
    """How JPEGs are decoded and pixels resized.

    Attributes:
      name: `pillow` or `fast`.
      versions: of the packages behind it, for records.
      jpeg: from the bytes of a JPEG, its height and width at the wanted scale, and the channels (3, or 1 if it is grey)
        to pixels; None if Pillow does it.
      resize: from pixels, and how often to halve them, to a square of so many.
    """

    name: str
    versions: str
    jpeg: Callable[[bytes, int, int, int], Pixels] | None
    resize: Callable[[Pixels, int, int], Square]


@functools.cache
def decoder(name: str = "auto") -> Decoder:
    """The decoder of a name: `pillow`, `fast`, or `auto` for `fast` where its packages are installed.

    Raises:
      UserError: there is no such decoder, or `fast` is not installed.
    """
    if name not in ("auto", "pillow", "fast"):
        raise UserError(f"The decoder is auto, pillow or fast, not {name!r}.")
    if name != "pillow":
        try:
            import cv2
            import simplejpeg
        except ImportError as error:
            if name == "fast":
                raise UserError(
                    f"The decoder fast needs more packages ({error}): pip install ssl_jax[fast]."
                ) from error
        else:
            jpeg, resize = functools.partial(_simplejpeg, simplejpeg), functools.partial(_opencv, cv2)
            versions = f"simplejpeg {importlib.metadata.version('simplejpeg')}, opencv {cv2.__version__}"
            return Decoder("fast", versions, jpeg, resize)
    return Decoder("pillow", f"pillow {importlib.metadata.version('pillow')}", None, _pillow)


def views(
    encoded: Encoded, crops: tuple[Crop, ...], draw: Draw, channels: int, using: Decoder
) -> list[np.ndarray] | str:
    """Decode an image once and cut all its views, `uint8 [size size channels]`; or say why it can't be decoded.

    Args:
      encoded: see `decode`.
      crops: of the views.
      draw: from height and width of the upright image to a box for each crop.
      channels: 1 or 3.
      using: see `decoder`.
    """
    try:
        pixels, found = _pixels(encoded, crops, draw, channels, using)
    except Exception as error:  # as in `decode_or_why`
        return damage.reason(error, length_of(encoded))
    return [_view(pixels, box, crop, using) for box, crop in zip(found, crops, strict=True)]


def _pixels(
    encoded: Encoded, crops: tuple[Crop, ...], draw: Draw, channels: int, using: Decoder
) -> tuple[Pixels, list[Box]]:
    """Pixels of the upright image, at reduced scale if that is enough, and the boxes in them."""
    if using.jpeg is not None and isinstance(encoded, str | os.PathLike):
        with open(encoded, "rb") as file:
            encoded = file.read()
    with open_image(encoded) as image:
        turned = "exif" in image.info and image.getexif().get(ORIENTATION, 1) in (5, 6, 7, 8)
        width, height = image.size[::-1] if turned else image.size
        found = draw((height, width))
        if image.format in ("JPEG", "MPO"):
            halve = min(MOST, *(halvings(box, crop) for box, crop in zip(found, crops, strict=True)))
            pixels = _jpeg(image, encoded, 2**halve, channels, using)
        else:
            pixels = _asarray(plain(ImageOps.exif_transpose(image), channels))
    return pixels, [_scaled(box, (height, width), pixels.shape[:2]) for box in found]


def _jpeg(image: Image.Image, encoded: Any, divisor: int, channels: int, using: Decoder) -> Pixels:
    width, height = image.size
    simple = "exif" not in image.info or image.getexif().get(ORIENTATION, 1) == 1
    if using.jpeg is not None and simple and (image.mode == "L" or (image.mode, channels) == ("RGB", 3)):
        try:
            return using.jpeg(encoded, -(-height // divisor), -(-width // divisor), channels)
        except ValueError:
            pass  # Pillow decides whether it is damaged
    if divisor > 1:
        image.draft(None, (width // divisor, height // divisor))
    return _asarray(plain(ImageOps.exif_transpose(image), channels))


def _asarray(image: Image.Image) -> Pixels:
    pixels = np.asarray(image)
    return pixels[..., None] if pixels.ndim == 2 else pixels


def _scaled(box: Box, full: tuple[int, int], reduced: tuple[int, ...]) -> Box:
    """A box in the pixels of a reduced image, to the nearest whole ones."""
    if full == tuple(reduced):
        return box
    spans = []
    for start, length, before, after in zip(box[:2], box[2:], full, reduced, strict=True):
        first = min(round(start * after / before), after - 1)
        spans.append((first, min(max(round(length * after / before), 1), after - first)))
    return spans[0][0], spans[1][0], spans[0][1], spans[1][1]


def _view(pixels: Pixels, box: Box, crop: Crop, using: Decoder) -> Square:
    top, left, height, width = box
    resize = using.resize if crop.method == "linear" else _bicubic
    return resize(pixels[top : top + height, left : left + width], crop.size, 2 ** halvings(box, crop))


def _simplejpeg(simplejpeg: Any, encoded: bytes, height: int, width: int, channels: int) -> Pixels:
    pixels = simplejpeg.decode_jpeg(
        encoded, colorspace="GRAY" if channels == 1 else "RGB", min_height=height, min_width=width
    )
    if pixels.shape != (height, width, channels):
        raise ValueError("another size than the image's header gives")
    return pixels


def _opencv(cv2: Any, pixels: Pixels, size: int, divisor: int) -> Square:
    if divisor > 1:
        height, width = pixels.shape[0] // divisor, pixels.shape[1] // divisor
        whole = pixels[: height * divisor, : width * divisor]
        pixels = cv2.resize(whole, (width, height), interpolation=cv2.INTER_AREA)
    made = cv2.resize(pixels, (size, size), interpolation=cv2.INTER_LINEAR)
    return made.reshape(size, size, -1)


def _pillow(pixels: Pixels, size: int, divisor: int) -> Square:
    image = _reduced(pixels, divisor)
    # `transform`, since `resize` would widen its kernel, which OpenCV does not.
    extent = (0, 0, image.width, image.height)
    return _asarray(image.transform((size, size), Image.Transform.EXTENT, extent, Image.Resampling.BILINEAR))


def _bicubic(pixels: Pixels, size: int, divisor: int) -> Square:
    """Pillow's, antialiased, with either decoder: its kernel is that of the papers, and OpenCV's is another."""
    return _asarray(_reduced(pixels, divisor).resize((size, size), Image.Resampling.BICUBIC))


def _reduced(pixels: Pixels, divisor: int) -> Image.Image:
    """As an image, averaged over squares of `divisor` pixels."""
    image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    if divisor == 1:
        return image
    width, height = image.width // divisor, image.height // divisor
    return image.reduce(divisor, box=(0, 0, width * divisor, height * divisor))
