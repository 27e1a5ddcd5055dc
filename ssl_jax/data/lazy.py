"""Sources whose images are decoded when they are asked for, in a pool of threads."""

import copy
import functools
import logging
import math
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from jaxtyping import Int32, Integer, Shaped, UInt8

from ssl_jax.core import UserError
from ssl_jax.data.decode import Encoded, try_decode
from ssl_jax.data.source import ArraySource, Examples, Source, digest

IN_MEMORY_BYTES = 1_000_000_000
_CHUNK = 1024
_log = logging.getLogger(__name__)


class LazySource(Source):
    """Images that are fetched, decoded and resized on every access.

    An image that turns out to be damaged is replaced, with a warning in the log, by the next one of the source that is
    not, together with its label: a run of days must not end because of one bad file.

    Args:
      items: what `fetch` takes, one per example: for example paths. A numpy array, so that rows can be chosen.
      fetch: returns the encoded images of some items, and their labels if `labels` is None and there are any.
      labels: labels of all items, or None.
      classes: names of the classes, or None.
      shape: height, width and channels of the decoded images.
      image_size: shorter side to resize and crop to, or None to keep images as they are.
      name: for messages and records.
      fingerprint: computes the hash of the content.
    """

    def __init__(
        self,
        items: Shaped[np.ndarray, " n"],
        fetch: Callable[[np.ndarray], tuple[Sequence[Encoded], Sequence[int] | None]],
        *,
        labels: Int32[np.ndarray, " n"] | None = None,
        classes: tuple[str, ...] | None,
        shape: tuple[int, int, int],
        image_size: int | None,
        name: str,
        fingerprint: Callable[[], str],
    ):
        self.items, self.fetch, self._labels, self.classes = items, fetch, labels, classes
        self.shape, self.image_size, self.name, self._fingerprint = shape, image_size, name, fingerprint
        self.files = items if items.dtype == object else None

    @property
    def labels(self) -> Int32[np.ndarray, " n"] | None:
        """Labels of all examples, or None; reads all records if they are stored there."""
        if self._labels is None and self.classes is not None:
            chunks = (self.fetch(chunk)[1] for chunk in _chunks(self.items))
            self._labels = np.concatenate([np.asarray(chunk, np.int32) for chunk in chunks])
        return self._labels

    @functools.cached_property
    def fingerprint(self) -> str:
        """Hash of what the images are read from, and of the size they are read at."""
        return digest(self._fingerprint().encode(), str((self.shape, self.image_size)).encode())

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: Any) -> Examples:
        rows = np.arange(len(self))[index]
        images, labels = self._decode(rows)
        damaged = [i for i, image in enumerate(images) if image is None]
        for attempt in range(1, 101):
            if not damaged:
                break
            _log.warning("damaged images, replaced by the next ones: %s", _few(self.items[rows[damaged]]))
            next_images, next_labels = self._decode((rows[damaged] + attempt) % len(self))
            for i, image, label in zip(damaged, next_images, next_labels, strict=True):
                images[i], labels[i] = image, label
            damaged = [i for i in damaged if images[i] is None]
        if damaged:
            raise UserError(f"a hundred images in a row of {self.name} are damaged; check the files.")
        examples = {"image": np.stack([image for image in images if image is not None])}
        if self.classes is not None:
            examples["label"] = np.asarray(labels, np.int32)
        return examples

    def select(self, rows: Integer[np.ndarray, " n"]) -> "LazySource":
        """Return the source of some rows only."""
        chosen = copy.copy(self)
        chosen.__dict__.pop("fingerprint", None)
        chosen.items = self.items[rows]
        chosen.files = None if self.files is None else chosen.items
        chosen._labels = None if self._labels is None else self._labels[rows]
        chosen._fingerprint = lambda: digest(self._fingerprint().encode(), rows.astype("<i8").tobytes())
        return chosen

    def settle(self) -> Source:
        """Read everything into memory if that takes at most a gigabyte, leaving damaged images out; else return self.

        Raises:
          UserError: if no image is left.
        """
        if len(self) * math.prod(self.shape) > IN_MEMORY_BYTES:
            return self
        images = np.empty((len(self), *self.shape), np.uint8)
        labels = np.zeros(len(self), np.int32)
        whole = np.zeros(len(self), bool)
        for rows in _chunks(np.arange(len(self))):
            for row, image, label in zip(rows, *self._decode(rows), strict=True):
                if image is not None:
                    images[row], labels[row], whole[row] = image, label, True
        report_skipped(self.name, self.items[~whole], len(self))
        if not whole.all():
            images, labels = images[whole], labels[whole]
        kept = None if self.classes is None else labels
        files = None if self.files is None else self.files[whole]
        return ArraySource(images, kept, self.classes, self.name, self.fingerprint, files)

    def _decode(self, rows: Integer[np.ndarray, " n"]) -> tuple[list[UInt8[np.ndarray, "h w c"] | None], list[int]]:
        encoded, labels = self.fetch(self.items[rows])
        if self._labels is not None:
            labels = self._labels[rows].tolist()
        images = list(pool().map(lambda file: try_decode(file, self.image_size, self.shape[-1]), encoded))
        odd = next((image.shape for image in images if image is not None and image.shape != self.shape), None)
        if odd is not None:
            raise differ(self.name, odd[:2], self.shape[:2])
        return images, [0] * len(rows) if labels is None else list(labels)


def differ(name: str, one: tuple[int, ...], other: tuple[int, ...]) -> UserError:
    """The error for images of several sizes that nobody said how to make equal."""
    return UserError(
        f"the images of {name} differ in size, for example {one[0]} x {one[1]} and {other[0]} x {other[1]}; "
        "give image_size, such as image_size=224, to resize and crop them."
    )


def report_skipped(name: str, skipped: np.ndarray, n: int) -> None:
    """Log how many of `n` files were skipped, and their names.

    Raises:
      UserError: if none is left.
    """
    if len(skipped) == n:
        raise UserError(f"none of the {n} files of {name} is a readable image, such as {_few(skipped)}; check them.")
    if len(skipped):
        _log.warning("skipped %d of %d files of %s, no readable images: %s", len(skipped), n, name, _few(skipped))


@functools.cache
def pool() -> ThreadPoolExecutor:
    """The threads that decode, one per core this process may use; Pillow releases the interpreter lock meanwhile."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return ThreadPoolExecutor(min(cores, 64), thread_name_prefix="ssl_jax.decode")


def _chunks(items: np.ndarray) -> Iterable[np.ndarray]:
    return (items[first : first + _CHUNK] for first in range(0, len(items), _CHUNK))


def _few(items: np.ndarray) -> str:
    more = f" and {len(items) - 20} more" if len(items) > 20 else ""
    return ", ".join(map(str, items[:20])) + more
