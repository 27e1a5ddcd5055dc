"""A directory of images as lists of names: which files, which splits, which classes. Opens no image."""

import hashlib
import os
from collections.abc import Iterable, Iterator
from typing import TypeVar

import numpy as np
from jaxtyping import Int32

from ssl_jax.core import UserError
from ssl_jax.data import files

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
HELD_OUT = ("test", "val", "validation")
Name = TypeVar("Name", bound=str)


def splits(root: str | os.PathLike[str]) -> dict[str, tuple[str, list[str]]]:
    """Return for each split the directory that its names are relative to, and the names.

    Sub-directories `train` and `test`, `val` or `validation` are the splits if there are such. Else the tenth of all
    files whose name has the smallest sha256 is `"test"` and the rest `"train"`, which holds for a file whatever other
    files come and go; only of very small sets at least one file goes to each. Names are in order of their hash too, so
    that every slice of a split is a random sample of it and not the first classes.

    Args:
      root: a directory, or the address of one in a bucket.

    Raises:
      UserError: if there is no such directory or it holds no image file.
    """
    root = os.fspath(root)
    if not files.is_directory(root):
        raise UserError(f"there is no directory {root}; give the path of a directory of images, as folder:PATH.")
    directories = [name for name in files.directories(root) if _visible(name)]
    held_out = [name for name in HELD_OUT if name in directories]
    if "train" in directories and held_out:
        found = {name: (f"{root}/{name}", in_hash_order(_scan(f"{root}/{name}"))) for name in ("train", *held_out)}
        for name in HELD_OUT:
            found.setdefault(name, found[held_out[0]])
    else:
        # A lone `train` is the data; beside other directories it is the class of railway trains.
        if directories == ["train"]:
            root = f"{root}/train"
        train, test = hold_out(in_hash_order(_scan(root)))
        found = {"train": (root, train), "test": (root, test)}
    if not any(names for _, names in found.values()):
        raise UserError(f"{root} holds no image file ({', '.join(SUFFIXES)}); give the path of a directory of images.")
    return found


def in_hash_order(names: Iterable[Name]) -> list[Name]:
    """Names in the order of their sha256, which is a random order, and the same everywhere."""
    return sorted(names, key=lambda name: (_hash(name), name))


def hold_out(names: list[Name]) -> tuple[list[Name], list[Name]]:
    """Part names in the order of their hashes into those for training and about a tenth for testing."""
    cut = sum(_hash(name) < 2**64 // 10 for name in names)
    cut = min(max(cut, 1), max(len(names) - 1, 0))
    return names[cut:], names[:cut]


def classes(found: dict[str, tuple[str, list[str]]], split: str) -> tuple[str, ...] | None:
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


def _scan(directory: str) -> Iterator[str]:
    """Yield the names of image files relative to a directory, following links but entering no directory twice."""
    if files.is_remote(directory):
        names = files.walk_remote(directory)
        yield from (name for name in names if name.lower().endswith(SUFFIXES) and all(map(_visible, name.split("/"))))
        return
    stack, seen = [(directory, "")], set()
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
                if files.is_folder(entry):
                    stack.append((entry.path, f"{prefix}{entry.name}/"))
                elif entry.name.lower().endswith(SUFFIXES):
                    yield prefix + entry.name


def _visible(name: str) -> bool:
    return not name.startswith(".") and name != "__MACOSX"


def _hash(name: str) -> int:
    return int.from_bytes(hashlib.sha256(os.fsencode(name)).digest()[:8], "big")
