"""Data named by one string: `fashion_mnist`, `digits`, `folder:PATH`, `tfds:NAME`."""

import difflib
import os
import pathlib
from collections.abc import Callable

import numpy as np

from ssl_jax.core import UserError
from ssl_jax.data import digits, fashion_mnist, splits
from ssl_jax.data.source import ArraySource, Source, Subset

NAMES = ("fashion_mnist", "digits", "folder:PATH", "tfds:NAME")


def load(
    name: str,
    split: str = "train",
    *,
    image_size: int | None = None,
    channels: int | None = None,
    data_dir: str | os.PathLike[str] | None = None,
) -> Source:
    """Load a data set."""
    kind, _, argument = name.partition(":")
    read = {"fashion_mnist": _fashion_mnist, "digits": _digits}.get(kind)
    if read is None:
        raise UserError(f"there is no data {name!r}; there is {', '.join(NAMES)}.")
    parts = splits.parse(split)
    ((base, start, stop),) = parts
    whole = read(base, argument or data_dir)
    first, last = splits.span(len(whole), start, stop, split)
    labels = whole.labels
    return ArraySource(
        whole.images[first:last], None if labels is None else labels[first:last], whole.classes, f"{name} {split}"
    )


def _fashion_mnist(split: str, directory: str | os.PathLike[str] | None) -> ArraySource:
    found = fashion_mnist.find(directory)
    if found is None:
        raise UserError("apt-get install dataset-fashion-mnist")
    return fashion_mnist.read(found, split)


def _digits(split: str, directory: str | os.PathLike[str] | None) -> ArraySource:
    return digits.read(split)
