"""Objects pasted on photographs: real pixels, with boxes and masks that are known exactly. For detectors.

`collage:stamps` takes transparent pictures of Debian's package tuxpaint-stamps-default, `collage:fashion_mnist` items
of clothing in random tints. They are placed at random positions, sizes and flips on crops of scikit-learn's two
photographs. No object and no pixel of a background is in both splits. Nothing is stored: an image is a pure function of
its split and number.
"""

import functools
import os
import pathlib
from collections.abc import Callable

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from ssl_jax.core import UserError
from ssl_jax.data import fashion_mnist, photos
from ssl_jax.data.boxed import BoxedSource, pad_boxes
from ssl_jax.data.decode import open_image
from ssl_jax.data.source import Examples, digest

STAMPS = pathlib.Path("/usr/share/tuxpaint/stamps")  # where the package tuxpaint-stamps-default puts them
LENGTH = {"train": 5000, "test": 1000}
MOST = 4  # objects of an image
SIDES = (0.2, 0.6)  # longer side of an object, of the image's
OVERLAP = 0.25  # of the smaller of two boxes
VISIBLE = 9  # pixels that an object must show
PER_CLASS = 30  # stamps that a folder needs to be a class
LARGEST = 160  # side that stamps are kept at
TEST_EVERY = 4  # stamps of a class, in the order of their names, of which one is for testing
TRAIN_SHARE = 0.75  # of the photographs' width, from the left
VERSION = b"1"  # part of the fingerprint; to be raised when other images come out

Objects = list[Callable[[np.random.Generator], UInt8[np.ndarray, "h w 4"]]]  # of each class, one drawn at random


def read(
    kind: str,
    split: str,
    size: int | None = None,
    channels: int | None = None,
    directory: str | os.PathLike[str] | None = None,
) -> BoxedSource:
    """Return `"train"` (5,000 images) or `"test"` (1,000) of a kind; see `ssl_jax.data.boxed` for what examples hold.

    Args:
      kind: `"stamps"`: a class per folder with at least 30 PNG files; or `"fashion_mnist"`: its ten classes.
      split: of the objects: three of four stamps for training, Fashion-MNIST's own splits; and of the backgrounds: the
        photographs' left three quarters for training.
      size: height and width, 64 by default; images are put together at this size.
      channels: 3 by default, or 1 for grey.
      directory: of the stamps or of Fashion-MNIST's files; where Debian's packages put them by default.

    Raises:
      UserError: the objects are not there, or `size` is too small to show them.
    """
    size, channels = size or 64, channels or 3
    if size < 32:
        raise UserError(f"image_size={size} is too small for a collage; use 32 or more.")
    objects, classes, content = (_stamps if kind == "stamps" else _fashion)(split, directory)
    make = functools.partial(compose, objects, _backgrounds(split), split=split, size=size, channels=channels)
    return BoxedSource(
        make,
        np.arange(LENGTH[split]),
        box_classes=classes,
        shape=(size, size, channels),
        name=f"collage:{kind} {split}",
        fingerprint=lambda: digest(VERSION, kind.encode(), split.encode(), content.encode()),
    )


def compose(
    objects: Objects, backgrounds: list[Image.Image], row: int, *, split: str, size: int, channels: int
) -> Examples:
    """Put one image together: one to four objects, of classes drawn evenly; later ones may hide a part of earlier ones.

    Boxes hold exactly the pixels that an object shows (alpha of at least one half), with their right and lower edges.
    """
    rng = np.random.default_rng((list(LENGTH).index(split), row))
    image = _background(rng, backgrounds, size)
    owner, labels = np.zeros((size, size), np.uint8), []
    placed: list[tuple[int, int, int, int]] = []
    for _ in range(rng.integers(1, MOST, endpoint=True)):
        label = int(rng.integers(len(objects)))
        item = _resized(rng, objects[label](rng), size)
        corner = _place(rng, item.shape[:2], placed, size)
        if corner is None:
            continue
        (y, x), (h, w) = corner, item.shape[:2]
        placed.append((x, y, x + w, y + h))
        labels.append(label)
        alpha, part = item[..., 3:] / np.float32(255), np.s_[y : y + h, x : x + w]
        image[part] += (alpha * (item[..., :3] - image[part])).astype(np.float32)
        owner[part][item[..., 3] >= 128] = len(labels)
    boxes, kept, mask = _visible(owner, labels)
    boxes, box_labels = pad_boxes(boxes, kept, MOST)
    pixels = np.round(image).astype(np.uint8)
    if channels == 1:
        pixels = np.asarray(Image.fromarray(pixels).convert("L"))[..., None]
    return {"image": pixels, "boxes": boxes, "box_labels": box_labels, "mask": mask}


def _background(rng: np.random.Generator, backgrounds: list[Image.Image], size: int) -> np.ndarray:
    photo = backgrounds[rng.integers(len(backgrounds))]
    edge = int(rng.integers(64, min(photo.size), endpoint=True))
    left, top = (int(rng.integers(0, side - edge, endpoint=True)) for side in photo.size)
    cut = photo.resize((size, size), Image.Resampling.BICUBIC, box=(left, top, left + edge, top + edge))
    pixels = np.asarray(cut, np.float32)
    return pixels[:, ::-1].copy() if rng.random() < 0.5 else pixels.copy()


def _resized(rng: np.random.Generator, item: UInt8[np.ndarray, "h w 4"], size: int) -> UInt8[np.ndarray, "p q 4"]:
    """Scale to a size that is uniform on a logarithmic scale, and flip half of the time."""
    longer = size * SIDES[0] * (SIDES[1] / SIDES[0]) ** rng.random()
    height, width = (max(1, round(side * longer / max(item.shape[:2]))) for side in item.shape[:2])
    pixels = np.asarray(Image.fromarray(item).resize((width, height), Image.Resampling.BILINEAR))
    return pixels[:, ::-1] if rng.random() < 0.5 else pixels


def _place(
    rng: np.random.Generator, shape: tuple[int, ...], placed: list[tuple[int, int, int, int]], size: int
) -> tuple[int, int] | None:
    """A corner (y, x) at which little enough of the objects there would be covered, or None after twenty attempts."""
    h, w = shape
    for _ in range(20):
        y, x = int(rng.integers(0, size - h, endpoint=True)), int(rng.integers(0, size - w, endpoint=True))
        if all(_share(a, (x, y, x + w, y + h)) <= OVERLAP for a in placed):
            return y, x
    return None


def _share(a: tuple[int, int, int, int], b: tuple[int, int, int, int]) -> float:
    """Common area of two boxes, of the smaller one's."""
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    smaller = min((a[2] - a[0]) * (a[3] - a[1]), (b[2] - b[0]) * (b[3] - b[1]))
    return max(width, 0) * max(height, 0) / smaller


def _visible(owner: np.ndarray, labels: list[int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Boxes, labels and the mask of objects from the number of the object that each pixel shows."""
    boxes, kept, mask = [], [], np.zeros(owner.shape, np.uint8)
    for number, label in enumerate(labels, start=1):
        y, x = np.nonzero(owner == number)
        if len(y) >= VISIBLE:
            boxes.append((x.min(), y.min(), x.max() + 1, y.max() + 1))
            kept.append(label)
            mask[y, x] = 1 + label
    return np.asarray(boxes, np.float32).reshape(-1, 4), np.asarray(kept, np.int32), mask


@functools.cache
def _backgrounds(split: str) -> list[Image.Image]:
    parts = []
    for file in photos.SKLEARN:
        photo = photos.photograph(file)
        cut = int(photo.shape[1] * TRAIN_SHARE)
        parts.append(Image.fromarray(photo[:, :cut] if split == "train" else photo[:, cut:]))
    return parts


def _fashion(split: str, directory: str | os.PathLike[str] | None) -> tuple[Objects, tuple[str, ...], str]:
    """Items in a random tint; where there is cloth, they are opaque."""
    found = fashion_mnist.find(directory)
    if found is None:
        raise fashion_mnist.missing(directory)
    source = fashion_mnist.read(found, split)

    def draw(rows: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        grey = source.images[rows[rng.integers(len(rows))]]
        tint = rng.uniform(0.4, 1.0, 3).astype(np.float32)
        alpha = np.minimum(grey.astype(np.int32) * 4, 255).astype(np.uint8)
        return np.concatenate([np.round(grey * tint).astype(np.uint8), alpha], axis=-1)

    assert source.labels is not None
    rows = [np.flatnonzero(source.labels == label) for label in range(len(fashion_mnist.CLASSES))]
    return [functools.partial(draw, r) for r in rows], fashion_mnist.CLASSES, source.fingerprint


def _stamps(split: str, directory: str | os.PathLike[str] | None) -> tuple[Objects, tuple[str, ...], str]:
    """Stamps by folder; a file belongs to a split by its place among the sorted names of its class."""
    root = pathlib.Path(directory or STAMPS).expanduser()
    folders = sorted(path for path in root.iterdir() if path.is_dir()) if root.is_dir() else []
    files = {folder.name: sorted(folder.rglob("*.png")) for folder in folders}
    files = {name: paths for name, paths in files.items() if len(paths) >= PER_CLASS}
    if not files:
        raise UserError(
            f"There are no stamps in {root}; run `apt-get install tuxpaint-stamps-default` on Debian or Ubuntu, or use "
            "collage:fashion_mnist."
        )
    objects: Objects = []
    names = []
    for paths in files.values():
        chosen = [p for i, p in enumerate(paths) if (i % TEST_EVERY == TEST_EVERY - 1) == (split == "test")]
        objects.append(functools.partial(_draw_stamp, chosen))
        names += [f"{os.path.relpath(path, root)} {path.stat().st_size}" for path in chosen]
    return objects, tuple(files), digest("\n".join(names).encode())


def _draw_stamp(paths: list[pathlib.Path], rng: np.random.Generator) -> np.ndarray:
    return _stamp(paths[rng.integers(len(paths))])


@functools.lru_cache(maxsize=4096)
def _stamp(path: pathlib.Path) -> UInt8[np.ndarray, "h w 4"]:
    """A stamp without its transparent margin, shrunk if it is large."""
    with open_image(path) as image:
        colour = image.convert("RGBA")
    inside = colour.getchannel("A").point([0] * 128 + [255] * 128).getbbox()
    colour = colour.crop(inside or (0, 0, *colour.size))
    colour.thumbnail((LARGEST, LARGEST), Image.Resampling.BICUBIC)
    return np.asarray(colour)
