"""Examples as they are stored, before they are decoded to one size: the bytes of a file, its path, or an array."""

from typing import Any

import numpy as np
from jaxtyping import Integer

from ssl_jax.core import UserError
from ssl_jax.data.combine import Joined, Subset
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
    if isinstance(source, Subset):
        return originals(source.source, source.rows[rows])
    if isinstance(source, Joined):
        return _of_parts(source, rows)
    if isinstance(source, LazySource):
        images, labels = source.fetch(source.items[rows])
        if labels is None and source.labels is not None:
            labels = source.labels[rows].tolist()
        return list(images), None if labels is None else [int(label) for label in labels]
    examples = source[rows]
    return list(examples["image"]), examples["label"].tolist() if "label" in examples else None


def names(source: Source, rows: Integer[np.ndarray, " n"]) -> list[str]:
    """Return what to call some examples in messages: the names of their files, or their row numbers."""
    return [str(name) for name in (rows if source.files is None else source.files[rows])]


def _of_parts(source: Joined, rows: Integer[np.ndarray, " n"]) -> Stored:
    images: list[Any] = [None] * len(rows)
    labels = np.zeros(len(rows), np.int64)
    for part, own, places in source.places(rows):
        found, numbers = originals(part, own)
        for place, image in zip(places, found, strict=True):
            images[place] = image
        if source.classes is not None and numbers is not None:
            labels[places] = numbers
    return images, None if source.classes is None else labels.tolist()
