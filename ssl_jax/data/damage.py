"""Why an image can't be read, in a few words."""

import errno
import os
import re

from PIL import Image, UnidentifiedImageError

# Pillow's own reader of each: all that folders of images hold, and none that starts another program.
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
SHORTAGES = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)  # of the machine, for which no image can be blamed
_SYSTEM = {
    errno.EACCES: "permission denied",
    errno.EPERM: "permission denied",
    errno.ENOENT: "no such file",
    errno.EISDIR: "a directory",
    errno.ELOOP: "a loop of symbolic links",
    errno.ENAMETOOLONG: "too long a name",
}


class TooLarge(ValueError):
    """An image with more pixels than are taken for safe."""


def check_size(width: int, height: int) -> None:
    """Raise `TooLarge` beyond Pillow's limit, `PIL.Image.MAX_IMAGE_PIXELS`, up to twice which Pillow only warns."""
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and width * height > limit:
        raise TooLarge(_too_large(width * height))


def reason(error: Exception, length: int | None) -> str:
    """Say why an image can't be read, on one line.

    Args:
      error: what reading it raised.
      length: of the file in bytes, or None if that is not known.

    Raises:
      OSError: the error itself, if the machine has run out of file handles or memory: to go on with another image would
        hide that, and make runs differ.
    """
    if isinstance(error, OSError) and error.errno in SHORTAGES:
        raise error
    if isinstance(error, TooLarge):
        return str(error)
    if isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):
        pixels = re.search(r"\d+", str(error))
        return _too_large(int(pixels[0]) if pixels else 0)
    if isinstance(error, MemoryError):
        return "larger than the memory"
    if isinstance(error, OSError) and error.errno is not None:
        return _SYSTEM.get(error.errno, os.strerror(error.errno).lower())
    if length == 0:
        return "empty file"
    if isinstance(error, UnidentifiedImageError):
        return "no image, or of a format that is not read"
    text = " ".join(str(error).split())
    if isinstance(error, EOFError) or "truncated" in text.lower():
        return "truncated"
    return f"damaged: {printable(text)[:80] or type(error).__name__}"


def printable(name: object) -> str:
    """A name as text that any stream takes, whatever bytes the name of a file holds."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(name))


def _too_large(pixels: int) -> str:
    return f"{pixels:,} pixels, more than the {Image.MAX_IMAGE_PIXELS:,} that are taken for safe"
