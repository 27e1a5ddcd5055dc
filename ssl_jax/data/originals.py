"""Examples as they are stored, before they are decoded to one size: the bytes of a file, its path, or an array."""

from typing import Any

import numpy as np
from jaxtyping import Integer

from ssl_jax.core import UserError
from ssl_jax.data.combine import by_leaf
from ssl_jax.data.decode import Encoded
from ssl_jax.data.lazy import LazySource
from ssl_jax.data.source import Source

Stored = tuple[list[Encoded], list[int] | None]


def originals(source: Any, rows: Integer[np.ndarray, " n"]) -> Stored:
    """Return some images as a source stores them, and their labels, or None if it has none.

    Raises:
      UserError: if examples have boxes, which a list of images would lose.
    """
    if getattr(source, "box_classes", None) is not None:
        raise UserError(f"{source.name} has boxes; this works on images with a label or none, such as folder:PATH.")
    images: list[Any] = [None] * len(rows)
    labels: list[int | None] = [None] * len(rows)
    for leaf, own, places in by_leaf(source, rows):
        for place, image, label in zip(places, *_of_leaf(leaf, own), strict=True):
            images[place], labels[place] = image, label
    if getattr(source, "classes", ()) is None:  # so it is of parts whose classes differ
        return images, None
    known = [label for label in labels if label is not None]
    return images, known if len(known) == len(rows) else None


def names(source: Source, rows: Integer[np.ndarray, " n"]) -> list[str]:
    """Return what to call some examples in messages: the names of their files, or their row numbers."""
    return [str(name) for name in (rows if source.files is None else source.files[rows])]


def _of_leaf(source: Any, rows: Integer[np.ndarray, " n"]) -> tuple[list[Encoded], list[int | None]]:
    if isinstance(source, LazySource):
        images, labels = source.fetch(source.items[rows])
        if labels is None and source.labels is not None:
            labels = source.labels[rows]
    else:
        examples = source[rows]
        images, labels = examples["image"], examples.get("label")
    return list(images), [None] * len(rows) if labels is None else [int(label) for label in labels]
