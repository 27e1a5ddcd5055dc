"""What there is to say about a source in figures, and which of its images are broken."""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from ssl_jax.data.decode import Encoded, decode, why_broken
from ssl_jax.data.lazy import LazySource, pool
from ssl_jax.data.originals import names, originals
from ssl_jax.data.source import Source

_CHUNK = 256
_MOST_LABELS = 200_000  # images beyond which labels that only stand in the records are not read

Progress = Callable[[int, int], None]


def describe(source: Source, *, images: int = 2000, progress: Progress = lambda done, total: None) -> dict[str, Any]:
    """Return figures of a source that are plain numbers, strings and lists.

    Args:
      source: best opened with `in_memory=False` and any `image_size`, so that images are measured as they are.
      images: how many are decoded, evenly spaced, for sizes, mean and deviation.
      progress: called with the number of images decoded and to decode.

    Returns:
      `images`; `classes`, their names, or None; `per_class`, images of each, or None where labels are not known
      without reading all of a large set; `channels`; `heights` and `widths`, `[least, median, most]`; `mean` and `std`
      per channel, of values in 0..1, every pixel counting alike; `sampled`, the number of images that these are of;
      `broken`, how many of them could not be decoded, besides `left_out` files that are no images; `fingerprint`.

    Raises:
      UserError: if examples have boxes.
    """
    rows = np.unique(np.linspace(0, len(source) - 1, min(images, len(source))).astype(int))
    channels = int((getattr(source, "shape", None) or source[np.arange(1)]["image"].shape[1:])[-1])
    sums = np.zeros((3, channels))
    sizes: list[tuple[int, int]] = []
    for first in range(0, len(rows), _CHUNK):
        stored, _ = originals(source, rows[first : first + _CHUNK])
        for measured in pool().map(functools.partial(_measure, channels=channels), stored):
            if measured is not None:
                sizes.append(measured[0])
                sums += measured[1]
        progress(min(first + _CHUNK, len(rows)), len(rows))
    mean = sums[1] / np.maximum(sums[0], 1)
    std = np.sqrt(np.maximum(sums[2] / np.maximum(sums[0], 1) - mean**2, 0))
    labels = _labels(source)
    return {
        "name": source.name,
        "images": len(source),
        "classes": None if source.classes is None else list(source.classes),
        "per_class": None if labels is None else np.bincount(labels, minlength=len(source.classes or ())).tolist(),
        "channels": channels,
        "heights": _range([height for height, _ in sizes]),
        "widths": _range([width for _, width in sizes]),
        "mean": [round(float(value), 4) for value in mean],
        "std": [round(float(value), 4) for value in std],
        "sampled": len(rows),
        "broken": len(rows) - len(sizes),
        "left_out": len(source.left_out),
        "fingerprint": source.fingerprint,
    }


def check(source: Source, *, progress: Progress = lambda done, total: None) -> list[tuple[str, str]]:
    """Open and decode every image; returns name and reason of those that are broken, files that are no images first.

    Args:
      source: best opened with `in_memory=False`, or its broken images are gone already.
      progress: called with the number of images done and of all.
    """
    found = list(source.left_out.items())
    for first in range(0, len(source), _CHUNK):
        rows = np.arange(first, min(first + _CHUNK, len(source)))
        if source.box_classes is not None:
            reasons = [_why_unread(source, row) for row in rows.tolist()]
        else:
            reasons = list(pool().map(why_broken, originals(source, rows)[0]))
        found += [
            (name, reason) for name, reason in zip(names(source, rows), reasons, strict=True) if reason is not None
        ]
        progress(int(rows[-1]) + 1, len(source))
    return found


def _measure(image: Encoded, channels: int) -> tuple[tuple[int, int], np.ndarray] | None:
    """Return height and width, and of each channel the number of pixels, their sum and that of their squares."""
    try:
        pixels = decode(image, None, channels)
    except Exception:  # as in `why_broken`
        return None
    values = pixels.reshape(-1, channels) / 255
    counts = np.full(channels, float(len(values)))
    return (pixels.shape[0], pixels.shape[1]), np.stack([counts, values.sum(axis=0), (values**2).sum(axis=0)])


def _labels(source: Source) -> np.ndarray | None:
    unread = isinstance(source, LazySource) and source._labels is None
    return None if unread and len(source) > _MOST_LABELS else source.labels


def _range(values: list[int]) -> list[int]:
    return [min(values), int(np.median(values)), max(values)] if values else []


def _why_unread(source: Source, row: int) -> str | None:
    try:
        source[np.array([row])]
    except Exception as error:  # as in `why_broken`
        return " ".join(str(error).split()) or type(error).__name__
    return None
