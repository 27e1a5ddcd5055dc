"""Functions mapped over images as they are stored, before they are decoded, of any source that is made of such."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Integer

from ssl_jax.data.combine import Joined, Subset, by_leaf
from ssl_jax.data.decode import Encoded
from ssl_jax.data.lazy import LazySource, pool
from ssl_jax.data.source import ArraySource, Source

T = TypeVar("T")


def leaves(source: Source) -> list[Source]:
    """The sources that a source is made of, itself if of none."""
    if isinstance(source, Subset):
        return leaves(source.source)
    if isinstance(source, Joined):
        return [leaf for part in source.sources for leaf in leaves(part)]
    return [source]


def is_stored(source: Source) -> bool:
    """Whether `map_stored` takes a source."""
    return all(isinstance(leaf, LazySource | ArraySource) and leaf.box_classes is None for leaf in leaves(source))


def channels_of(source: Source) -> set[int]:
    """Numbers of channels of the images of a source that `is_stored`: one, unless its parts differ."""
    return {leaf.shape[-1] for leaf in leaves(source) if isinstance(leaf, LazySource | ArraySource)}


def map_stored(
    source: Source, rows: Integer[np.ndarray, " n"], function: Callable[[int, Encoded], T | str]
) -> tuple[list[T], Sequence[int]]:
    """Map a function over encoded images, in the pool of threads; each source reads its own and replaces damaged ones.

    Args:
      source: one that `is_stored`.
      rows: of the source.
      function: of the position in `rows` and the encoded image; returns why if the image is damaged.

    Returns:
      What the function made, and labels (0 if there are none), for each row.

    Raises:
      UserError: a hundred images in a row are damaged.
    """
    made: list[Any] = [None] * len(rows)
    labels = [0] * len(rows)
    for leaf, own, where in by_leaf(source, rows):
        places = where.tolist()
        found, its_labels = _of_leaf(leaf, own, functools.partial(_elsewhere, function, places))
        for place, one, label in zip(places, found, its_labels, strict=True):
            made[place], labels[place] = one, label
    return made, labels


def _of_leaf(
    source: Source, rows: Integer[np.ndarray, " n"], function: Callable[[int, Encoded], T | str]
) -> tuple[list[Any], Sequence[int]]:
    if isinstance(source, LazySource):
        return source.read(rows, function)
    assert isinstance(source, ArraySource)
    made = list(pool().map(function, range(len(rows)), source.images[rows]))
    return made, [0] * len(rows) if source.labels is None else source.labels[rows].tolist()


def _elsewhere(function: Callable[[int, Encoded], T | str], places: list[int], i: int, encoded: Encoded) -> T | str:
    return function(places[i], encoded)
