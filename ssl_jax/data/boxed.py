"""Images with objects whose boxes are known: one example at a time, made or read when it is asked for.

Besides the image, an example holds
  `boxes` float32 `[m 4]`: x0 y0 x1 y1 in pixels, from the image's upper left corner; zeros where there is no object;
  `box_labels` int32 `[m]`: class of each, -1 where there is no object, which is after all objects;
and it may hold
  `box_ignore` bool `[m]`: crowds and difficult objects, neither to be learned nor to be counted;
  `box_area` float32 `[m]`: of each object in its file's pixels, where COCO's sizes are told by: its mask's, or else its
    box's;
  `mask` uint8 `[h w]`: 0 for the background, 1 + class for objects;
  `scale` float32: how much the image was enlarged when it was read; boxes / scale are in the file's pixels.
"""

import copy
import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Float32, Int32, Integer

from ssl_jax.data.lazy import IN_MEMORY_BYTES, pool, told_chunks
from ssl_jax.data.source import ArraySource, Examples, Source, digest


class BoxedSource(Source):
    """Examples with boxes that a function of the row makes or reads, in a pool of threads.

    Args:
      make: `row -> example`, a dict as this module describes; a pure function, since it is called at every access.
      rows: numbers that `make` is given.
      box_classes: names of the classes of objects.
      shape: height, width and channels of all images.
      name: for messages and records.
      fingerprint: computes the hash of the content.
      files: name of each example's file, or None.
    """

    classes = None

    def __init__(
        self,
        make: Callable[[int], Examples],
        rows: Integer[np.ndarray, " n"],
        *,
        box_classes: tuple[str, ...],
        shape: tuple[int, int, int],
        name: str,
        fingerprint: Callable[[], str],
        files: np.ndarray | None = None,
    ):
        self.make, self.rows, self.box_classes, self.shape, self.name = make, rows, box_classes, shape, name
        self._fingerprint, self.files = fingerprint, files

    @property
    def labels(self) -> None:
        """None: classes belong to objects here, and not to images."""
        return None

    @functools.cached_property
    def fingerprint(self) -> str:
        """Hash of what the examples are made of, and of the rows."""
        return digest(self._fingerprint().encode(), str(self.shape).encode(), self.rows.astype("<i8").tobytes())

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Any) -> Examples:
        rows = self.rows[index]
        if rows.ndim == 0:
            return self.make(int(rows))
        examples = list(pool().map(self.make, rows.tolist()))
        return {key: np.stack([example[key] for example in examples]) for key in examples[0]}

    def select(self, rows: Integer[np.ndarray, " n"]) -> "BoxedSource":
        """Return the source of some rows only."""
        chosen = copy.copy(self)
        chosen.__dict__.pop("fingerprint", None)
        chosen.rows = self.rows[rows]
        chosen.files = None if self.files is None else self.files[rows]
        return chosen

    def settle(self) -> Source:
        """Read everything into memory if the images take at most a gigabyte; else return self."""
        if len(self) * math.prod(self.shape) > IN_MEMORY_BYTES:
            return self
        chunks = [self[rows] for rows in told_chunks(len(self), self.name)]
        extras = {key: np.concatenate([chunk.pop(key) for chunk in chunks]) for key in list(chunks[0])}
        images = extras.pop("image")
        return ArraySource(images, None, None, self.name, self.fingerprint, self.files, extras, self.box_classes)


def pad_boxes(
    boxes: Float32[np.ndarray, "k 4"], labels: Int32[np.ndarray, " k"], most: int
) -> tuple[Float32[np.ndarray, "m 4"], Int32[np.ndarray, " m"]]:
    """Fill up with empty boxes of label -1 to `most` of them, so that all examples have one shape."""
    missing = most - len(labels)
    return np.pad(boxes, ((0, missing), (0, 0))), np.pad(labels, (0, missing), constant_values=-1)
