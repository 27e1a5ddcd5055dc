"""A directory of images as lists of names: which files, which splits, which classes. Opens no image."""

import hashlib
import os
import pathlib
from collections.abc import Iterator

import numpy as np
from jaxtyping import Int32

from ssl_jax.core import UserError

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
HELD_OUT = ("test", "val", "validation")


def splits(root: pathlib.Path) -> dict[str, tuple[pathlib.Path, list[str]]]:
    """Return for each split the directory that its names are relative to, and the names.

    Sub-directories `train` and `test`, `val` or `validation` are the splits if there are such. Else the tenth of all
    files whose name has the smallest sha256 is `"test"` and the rest `"train"`, which holds for a file whatever other
    files come and go; only of very small sets at least one file goes to each. Names are in order of their hash too, so
    that every slice of a split is a random sample of it and not the first classes.

    Raises:
      UserError: if there is no such directory or it holds no image file.
    """
    if not root.is_dir():
        raise UserError(f"there is no directory {root}; give the path of a directory of images, as folder:PATH.")
    held_out = [name for name in HELD_OUT if (root / name).is_dir()]
    if (root / "train").is_dir() and held_out:
        found = {name: (root / name, _shuffled(_scan(root / name))) for name in ("train", *held_out)}
        for name in HELD_OUT:
            found.setdefault(name, found[held_out[0]])
    else:
        # A lone `train` is the data; beside other directories it is the class of railway trains.
        if [path.name for path in root.iterdir() if path.is_dir() and _visible(path.name)] == ["train"]:
            root = root / "train"
        names = _shuffled(_scan(root))
        cut = sum(_hash(name) < 2**64 // 10 for name in names)
        cut = min(max(cut, 1), max(len(names) - 1, 0))
        found = {"train": (root, names[cut:]), "test": (root, names[:cut])}
    if not any(names for _, names in found.values()):
        raise UserError(f"{root} holds no image file ({', '.join(SUFFIXES)}); give the path of a directory of images.")
    return found


def classes(found: dict[str, tuple[pathlib.Path, list[str]]], split: str) -> tuple[str, ...] | None:
    """Return the sorted names of the classes, over all splits, or None if `split` has images outside of any class.

    A class is a sub-directory; images further down belong to the topmost one.
    """
    if not all("/" in name for name in found[split][1]):
        return None
    return tuple(sorted({name.split("/")[0] for _, names in found.values() for name in names if "/" in name}))


def labels(names: list[str], class_names: tuple[str, ...]) -> Int32[np.ndarray, " n"]:
    """Return the number of each name's class."""
    number = {name: i for i, name in enumerate(class_names)}
    return np.array([number[name.split("/")[0]] for name in names], np.int32)


def _scan(directory: pathlib.Path) -> Iterator[str]:
    """Yield the names of image files relative to a directory, following links but entering no directory twice."""
    stack, seen = [(str(directory), "")], set()
    while stack:
        path, prefix = stack.pop()
        status = os.stat(path)
        if (status.st_dev, status.st_ino) in seen:
            continue
        seen.add((status.st_dev, status.st_ino))
        with os.scandir(path) as entries:
            for entry in entries:
                if not _visible(entry.name):
                    continue
                if entry.is_dir():
                    stack.append((entry.path, f"{prefix}{entry.name}/"))
                elif entry.name.lower().endswith(SUFFIXES):
                    yield prefix + entry.name


def _visible(name: str) -> bool:
    return not name.startswith(".") and name != "__MACOSX"


def _hash(name: str) -> int:
    return int.from_bytes(hashlib.sha256(os.fsencode(name)).digest()[:8], "big")


def _shuffled(names: Iterator[str]) -> list[str]:
    return sorted(names, key=lambda name: (_hash(name), name))
