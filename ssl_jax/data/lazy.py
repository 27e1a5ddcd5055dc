"""Sources whose images are decoded when they are asked for, in a pool of threads."""

import copy
import functools
import logging
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Int32, Integer, Shaped, UInt8

from ssl_jax.core import UserError
from ssl_jax.data.damage import printable
from ssl_jax.data.decode import Encoded, decode_or_why
from ssl_jax.data.source import ArraySource, Examples, Source, digest

IN_MEMORY_BYTES = 1_000_000_000
TELL_EVERY = 5.0  # seconds
_CHUNK = 1024
ATTEMPTS = 100  # images after a damaged one that are tried in its place
_log = logging.getLogger(__name__)
_ALIKE = {"alike": True}  # marks what all processes of a run log, so that one may speak for all
T = TypeVar("T")


class LazySource(Source):
    """Images that are fetched, decoded and resized on every access.

    An image that turns out to be damaged is replaced by the next one of the source that is not, and so is its label,
    from then on also in `labels`: a run of days must not end because of one bad file. Which one that is depends on the
    row alone. The log names every damaged image once, with the reason, and `damaged` holds them all.

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
        self.damaged: dict[str, str] = {}
        self._replaced: dict[int, int] = {}  # rows of damaged images, and the labels of what stands in their place

    @property
    def labels(self) -> Int32[np.ndarray, " n"] | None:
        """Labels of all examples, as far as is known those of the images that are read; None if there are none.

        Reads all records if they are stored there.
        """
        if self._labels is None and self.classes is not None:
            chunks = (self.fetch(chunk)[1] for chunk in _chunks(self.items))
            self._labels = np.concatenate([np.asarray(chunk, np.int32) for chunk in chunks])
        replaced = list(self._replaced.items())  # at once, since other threads add to it
        if self._labels is None or not replaced:
            return self._labels
        labels = self._labels.copy()
        rows, values = np.asarray(replaced).T
        labels[rows] = values
        return labels

    @functools.cached_property
    def fingerprint(self) -> str:
        """Hash of what the images are read from, and of the size they are read at."""
        return digest(self._fingerprint().encode(), str((self.shape, self.image_size)).encode())

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: Any) -> Examples:
        images, labels = self.read(np.arange(len(self))[index], self._decode)
        return self.labelled({"image": np.stack(images)}, labels)

    def read(
        self, rows: Integer[np.ndarray, " n"], decode: Callable[[int, Encoded], T | str]
    ) -> tuple[list[T], Sequence[int]]:
        """Map a function over encoded images, in the pool of threads, with others in the place of damaged ones.

        Args:
          rows: of the source.
          decode: of the position in `rows` and the encoded image; returns why if the image is damaged.

        Returns:
          What the function made, and labels (0 if there are none), for each row.

        Raises:
          UserError: a hundred images in a row are damaged.
        """
        known = set(self.damaged)
        made, labels = self._try(rows, range(len(rows)), decode)
        damaged = [i for i, image in enumerate(made) if isinstance(image, str)]
        for attempt in range(1, ATTEMPTS + 1):
            if not damaged:
                break
            others, other_labels = self._try((rows[damaged] + attempt) % len(self), damaged, decode)
            for i, other, label in zip(damaged, others, other_labels, strict=True):
                made[i], labels[i] = other, label
                self._replaced[int(rows[i])] = int(label)
            damaged = [i for i in damaged if isinstance(made[i], str)]
        for name in [name for name in self.damaged if name not in known]:
            why = self.damaged[name]
            _log.warning("damaged image of %s, replaced by the next one: %s (%s)", self.name, printable(name), why)
        if damaged:
            raise UserError(f"a hundred images in a row of {self.name} are damaged; check the files.")
        return made, labels  # type: ignore[return-value]

    def _try(
        self, rows: Integer[np.ndarray, " n"], positions: Iterable[int], decode: Callable[[int, Encoded], T | str]
    ) -> tuple[list[T | str], list[int]]:
        encoded, labels = self.fetch(self.items[rows])
        if self._labels is not None:
            labels = self._labels[rows].tolist()
        made = list(pool().map(decode, positions, encoded))
        for item, why in zip(self.items[rows], made, strict=True):
            if isinstance(why, str):
                self.damaged[str(item) if self.files is not None else f"row {item}"] = why
        return made, [0] * len(rows) if labels is None else list(labels)

    def labelled(self, examples: Examples, labels: Sequence[int]) -> Examples:
        """Add labels to examples, if the source has any."""
        return examples if self.classes is None else {**examples, "label": np.asarray(labels, np.int32)}

    def select(self, rows: Integer[np.ndarray, " n"]) -> "LazySource":
        """Return the source of some rows only."""
        chosen = copy.copy(self)
        chosen.__dict__.pop("fingerprint", None)
        chosen.damaged, chosen._replaced = {}, {}
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

        def decode(row: int, encoded: Encoded) -> bool | str:
            image = self._decode(row, encoded)
            if isinstance(image, str):
                return image
            images[row], whole[row] = image, True
            return True

        for rows in told_chunks(len(self), self.name):
            _, labels[rows] = self._try(rows, rows.tolist(), decode)
        skipped = np.array([f"{name} ({why})" for name, why in self.damaged.items()], object)
        report_skipped(self.name, skipped, len(self))
        if not whole.all():
            images, labels = images[whole], labels[whole]
        kept = None if self.classes is None else labels
        files = None if self.files is None else self.files[whole]
        source = ArraySource(images, kept, self.classes, self.name, self.fingerprint, files)
        source.damaged, source.left_out = self.damaged, self.left_out
        return source

    def _decode(self, _: int, encoded: Encoded) -> UInt8[np.ndarray, "h w c"] | str:
        image = decode_or_why(encoded, self.image_size, self.shape[-1])
        if not isinstance(image, str) and image.shape != self.shape:
            raise differ(self.name, image.shape[:2], self.shape[:2])
        return image


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
        text = "skipped %d of %d files of %s, no readable images: %s"
        _log.warning(text, len(skipped), n, name, _few(skipped), extra=_ALIKE)


@functools.cache
def pool() -> ThreadPoolExecutor:
    """The threads that decode, one per core this process may use; Pillow releases the interpreter lock meanwhile."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return ThreadPoolExecutor(min(cores, 64), thread_name_prefix="ssl_jax.decode")


def _chunks(items: np.ndarray) -> Iterable[np.ndarray]:
    return (items[first : first + _CHUNK] for first in range(0, len(items), _CHUNK))


def told_chunks(n: int, name: str) -> Iterator[np.ndarray]:
    """Rows to be read into memory, in chunks; the log tells how far it is (INFO), first after some seconds."""
    began = told = time.monotonic()
    for rows in _chunks(np.arange(n)):
        yield rows
        done, now = int(rows[-1]) + 1, time.monotonic()
        if now - told >= TELL_EVERY and done < n:
            left = (now - began) / done * (n - done)
            text = "reading %s into memory: %d of %d images, some %d seconds to go"
            _log.info(text, name, done, n, left, extra=_ALIKE)
            told = now


def _few(items: np.ndarray) -> str:
    more = f" and {len(items) - 20} more" if len(items) > 20 else ""
    return ", ".join(map(printable, items[:20])) + more
