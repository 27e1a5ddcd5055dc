"""What a data source is, and the ones made of arrays.

A source is random access to examples: a length, and `source[index]` with an integer array of rows, that answers a dict
of stacked arrays. It holds no iterator and no randomness; the order of examples is `ssl_jax.data.indices`.
"""

import abc
import functools
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int32, UInt8

from ssl_jax.core import UserError

Examples = dict[str, Any]  # arrays, all of one length; crops of several sizes are a tuple of them


@runtime_checkable
class Indexable(Protocol):
    """The least that `batches` and `epoch` ask of a source of one's own.

    `len(source)` is the number of examples. `source[index]`, with `index` an int array `[n]` of rows in `[0, len)`,
    returns `{"image": uint8 [n h w c]}` and, if there are labels, `"label": int32 [n]`; other keys pass through. It is
    called from one background thread at a time and must be a pure function of `index`, or runs cannot be resumed.
    """

    def __len__(self) -> int: ...

    def __getitem__(self, index: Any) -> Examples: ...


class Named(str):
    """The name of an example that also says where its content is, in `where`."""

    __slots__ = ("where",)
    where: Any

    def __new__(cls, name: str, where: Any) -> "Named":
        """Join a name and a place."""
        named = super().__new__(cls, name)
        named.where = where
        return named


class Source(abc.ABC):
    """An `Indexable` that also knows its name, its labels and a fingerprint of its content; what `load` returns.

    Attributes:
      name: what it was loaded as, for messages and records, for example `"fashion_mnist train[:55000]"`.
      classes: names of the classes, where `classes[label]` belongs to `label`, or None.
      in_memory: whether indexing is a plain copy, too cheap to be worth a thread.
      files: name of each example's file, relative to its folder, or None if examples are not files.
      damaged: names of the images found to be damaged so far, and why each is; they were replaced or left out.
      left_out: files that are no images, as far as was seen when they were listed, and why each is none.
      box_classes: names of the classes of objects where examples hold boxes (see `ssl_jax.data.boxed`), or None.
    """

    name: str
    classes: tuple[str, ...] | None
    box_classes: tuple[str, ...] | None = None
    in_memory: bool = False
    files: np.ndarray | None = None
    damaged: Mapping[str, str] = {}
    left_out: Mapping[str, str] = {}

    @property
    @abc.abstractmethod
    def labels(self) -> Int32[np.ndarray, " n"] | None:
        """Labels of all examples, or None if there are none."""

    @property
    @abc.abstractmethod
    def fingerprint(self) -> str:
        """Short hexadecimal hash of the content, equal in every run that sees the same data."""

    @abc.abstractmethod
    def __len__(self) -> int: ...

    @abc.abstractmethod
    def __getitem__(self, index: Any) -> Examples: ...

    def __repr__(self) -> str:
        classes = "no labels" if self.classes is None else f"{len(self.classes)} classes"
        return f"<{self.name}: {len(self)} images, {classes}>"


class ArraySource(Source):
    """Images, labels and whatever else there is of each example, held in memory; build it with `from_arrays`."""

    in_memory = True

    def __init__(
        self,
        images: UInt8[np.ndarray, "n h w c"],
        labels: Int32[np.ndarray, " n"] | None,
        classes: tuple[str, ...] | None,
        name: str,
        fingerprint: str | None = None,
        files: np.ndarray | None = None,
        extras: Examples | None = None,
        box_classes: tuple[str, ...] | None = None,
    ):
        self.images, self._labels, self.classes, self.name = images, labels, classes, name
        self.shape = images.shape[1:]
        self._given_fingerprint, self.files = fingerprint, files
        self.extras, self.box_classes = extras or {}, box_classes

    @property
    def labels(self) -> Int32[np.ndarray, " n"] | None:
        """Labels of all examples, or None."""
        return self._labels

    @functools.cached_property
    def fingerprint(self) -> str:
        """Hash of shape, pixels and labels, or of the files that they were read from."""
        if self._given_fingerprint is not None:
            return self._given_fingerprint
        labels = b"" if self._labels is None else self._labels.tobytes()
        return digest(str(self.images.shape).encode(), np.ascontiguousarray(self.images).data, labels)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: Any) -> Examples:
        examples = {"image": self.images[index]}
        if self._labels is not None:
            examples["label"] = self._labels[index]
        return {**examples, **{key: values[index] for key, values in self.extras.items()}}


def digest(*parts: Any) -> str:
    """First 16 hexadecimal digits of the sha256 of some buffers."""
    state = hashlib.sha256()
    for part in parts:
        state.update(part)
    return state.hexdigest()[:16]


def from_arrays(
    images: Any, labels: Any = None, classes: Sequence[str] | None = None, *, name: str = "arrays"
) -> ArraySource:
    """Make a source of arrays in memory.

    Args:
      images: uint8 array `[n h w c]`, or `[n h w]` for grey images; not copied.
      labels: integers in `[0, number of classes)`, `[n]`, or None.
      classes: names of the classes, or None, which names them by their number.
      name: for messages and records.

    Raises:
      UserError: if dtype or shapes are not as above, or the arrays do not fit each other.
    """
    images = np.asarray(images)
    if images.ndim == 3:
        images = images[..., None]
    if images.dtype != np.uint8 or images.ndim != 4:
        raise UserError(
            f"images must be uint8 [n h w c] or [n h w] with values 0 to 255, but are {images.dtype} "
            f"{list(images.shape)}; scale floats by 255, round them, and use .astype('uint8')."
        )
    if 0 in images.shape:
        raise UserError(f"images of shape {list(images.shape)} hold no pixel; give at least one image.")
    if labels is not None:
        labels = _check_labels(np.asarray(labels), len(images), classes)
        classes = tuple(classes) if classes is not None else tuple(str(i) for i in range(int(labels.max()) + 1))
    return ArraySource(images, labels, None if classes is None else tuple(classes), name)


def _check_labels(labels: np.ndarray, n: int, classes: Sequence[str] | None) -> np.ndarray:
    """Return labels as int32, or say what is wrong with them."""
    if labels.shape != (n,) or labels.dtype.kind not in "iu":
        raise UserError(f"labels must be {n} integers, one per image, but are {labels.dtype} {list(labels.shape)}.")
    top = int(labels.max())
    if labels.min() < 0 or (classes is not None and top >= len(classes)):
        limit = "" if classes is None else f" to {len(classes) - 1}, one per name in classes"
        raise UserError(f"labels must count from 0{limit}, but range from {labels.min()} to {top}.")
    return labels.astype(np.int32)
