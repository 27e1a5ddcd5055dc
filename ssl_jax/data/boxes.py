"""Image files with boxes, from users' annotations; `coco` and `voc` read these, here they are checked and put together.

For what examples hold see `ssl_jax.data.boxed`. Nothing in a data file is followed or expanded: a name that leads out
of the images' directory and an XML file with a document type, where entities are declared, are errors.
"""

import collections
import functools
import json
import logging
import os
import pathlib
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps

from ssl_jax.core import UserError
from ssl_jax.data.boxed import BoxedSource, pad_boxes
from ssl_jax.data.decode import open_image, plain
from ssl_jax.data.source import Examples, digest

Box = tuple[float, float, float, float]
MOST = 100  # objects of an image; of more, the largest are kept
SLACK = 2.0  # pixels that a box may reach beyond its image, where it is cut
BAD = 0.01  # share of bad boxes above which something must be wrong with the file
GREY = 128  # fills what an image leaves of the square
_log = logging.getLogger(__name__)


class Object(NamedTuple):
    """A box x0 y0 x1 y1 in the pixels of its file, its class, whether it is to be ignored, and its mask's area."""

    box: Box
    label: int
    ignore: bool
    area: float | None = None  # None where there is no mask

    def measured(self) -> float:
        """Its area in the pixels of its file."""
        x0, y0, x1, y1 = self.box
        return (x1 - x0) * (y1 - y0) if self.area is None else self.area


class Annotated(NamedTuple):
    """An image file, its width and height, and its objects."""

    file: str
    size: tuple[int, int]
    objects: list[Object]


def annotated_source(
    images: str | os.PathLike[str],
    rows: list[Annotated],
    classes: tuple[str, ...],
    size: int | None,
    channels: int,
    name: str,
) -> BoxedSource:
    """A source of annotated image files; for arguments and errors see `coco.read_coco`."""
    root = pathlib.Path(images).expanduser()
    if not rows:
        raise UserError(f"{name} names no image.")
    for row in rows:
        if leads_out(row.file):
            raise UserError(f"{name} names the file {row.file}, which is outside of the images' directory {root}.")
    sizes = collections.Counter(row.size for row in rows)
    if size is None and len(sizes) > 1:
        one, other = list(sizes)[:2]
        raise UserError(
            f"the images of {name} differ in size, for example {one[0]} x {one[1]} and {other[0]} x {other[1]}; "
            "give image_size, such as image_size=512, to resize them."
        )
    rows = _without_bad_boxes(rows, name)
    width, height = (size, size) if size is not None else rows[0].size
    content = json.dumps([rows, classes, MOST]).encode()
    return BoxedSource(
        functools.partial(_example, root, rows, size, channels),
        np.arange(len(rows)),
        box_classes=classes,
        shape=(height, width, channels),
        name=name,
        fingerprint=lambda: digest(content),
        files=np.array([row.file for row in rows], object),
    )


def leads_out(name: str) -> bool:
    """Whether the name of a file leads out of the directory that it is relative to."""
    inside = os.path.normpath(name)
    return os.path.isabs(inside) or inside.split(os.sep)[0] == os.pardir


def _without_bad_boxes(rows: list[Annotated], name: str) -> list[Annotated]:
    """Cut boxes at the edges of their images; leave out bad ones, or raise if these are many."""
    kept, bad = [], []
    for row in rows:
        width, height = row.size
        objects = []
        for found in row.objects:
            x0, y0, x1, y1 = found.box
            box = (max(x0, 0.0), max(y0, 0.0), min(x1, float(width)), min(y1, float(height)))
            near = min(x0, y0) >= -SLACK and x1 <= width + SLACK and y1 <= height + SLACK
            if near and x0 < x1 and y0 < y1 and box[0] < box[2] and box[1] < box[3]:
                objects.append(found._replace(box=box))
            else:
                bad.append(f"{row.file} ({width} x {height}), box x {x0:g} to {x1:g}, y {y0:g} to {y1:g}")
        objects.sort(key=lambda o: (o.box[0] - o.box[2]) * (o.box[3] - o.box[1]))
        kept.append(row._replace(objects=objects[:MOST]))
    total = sum(len(row.objects) for row in rows)
    if bad and len(bad) > BAD * total:
        raise UserError(
            f"{len(bad)} of the {total} boxes of {name} are empty, inverted or outside of their image, for example "
            f"{bad[0]}; mend the file, or check that it has the format it should (COCO: x y width height)."
        )
    if bad:
        _log.warning("left out %d of %d boxes of %s, empty or outside, such as %s", len(bad), total, name, bad[0])
    return kept


def _example(root: pathlib.Path, rows: list[Annotated], size: int | None, channels: int, row: int) -> Examples:
    found = rows[row]
    pixels, scale = _picture(root / found.file, found.size, size, channels)
    boxes = np.asarray([o.box for o in found.objects], np.float32).reshape(-1, 4) * np.float32(scale)
    boxes, labels = pad_boxes(boxes, np.asarray([o.label for o in found.objects], np.int32), MOST)
    ignore, area = (
        np.pad(np.asarray(values, dtype), (0, MOST - len(values)))
        for values, dtype in (
            ([o.ignore for o in found.objects], bool),
            ([o.measured() for o in found.objects], np.float32),
        )
    )
    return {
        "image": pixels,
        "boxes": boxes,
        "box_labels": labels,
        "box_ignore": ignore,
        "box_area": area,
        "scale": np.asarray(scale, np.float32),
    }


def _picture(
    path: pathlib.Path, annotated: tuple[int, int], size: int | None, channels: int
) -> tuple[UInt8[np.ndarray, "h w c"], float]:
    """An image in the upper left corner of a square, and its scale.

    Boxes refer to the pixels as they are stored or as EXIF turns them; the annotated size says which.
    """
    try:
        with open_image(path) as opened:
            upright = opened if opened.size == annotated else ImageOps.exif_transpose(opened)
            image = plain(upright, channels)
    except Exception as error:  # whatever a decoder raises on bytes that are not what it expects
        raise UserError(f"{path} can't be read as an image: {error}.") from error
    if image.size != annotated:
        shapes = " x ".join(map(str, image.size)), " x ".join(map(str, annotated))
        raise UserError(f"{path} is {shapes[0]} pixels, but its annotation says {shapes[1]}; boxes would not fit.")
    scale = 1.0
    if size is not None:
        scale = size / max(image.size)
        fitted = image.resize([max(1, round(side * scale)) for side in image.size], Image.Resampling.BICUBIC)
        image = Image.new(fitted.mode, (size, size), GREY if channels == 1 else (GREY,) * 3)
        image.paste(fitted, (0, 0))
    pixels = np.asarray(image)
    return pixels[..., None] if channels == 1 else pixels, scale
