"""A source of one's own: any object with a length that gives one example for one number."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from ssl_jax.core import UserError
from ssl_jax.data.decode import Encoded, plain
from ssl_jax.data.lazy import LazySource
from ssl_jax.data.sample import shape_of, spread
from ssl_jax.data.source import digest


def from_indexable(
    examples: Any,
    *,
    labels: Any = None,
    classes: Sequence[str] | None = None,
    image_size: int | None = None,
    channels: int | None = None,
    name: str = "examples",
    fingerprint: str | None = None,
) -> LazySource:
    """Make a source of an object that gives one example at a time: a class of one's own, torchvision's, `datasets`'.

    `examples[i]`, for `i` from 0 to `len(examples) - 1`, is an image, a pair `(image, label)`, or a dict with `"image"`
    and perhaps `"label"`. An image is a uint8 array `[h w c]` or `[h w]`, a Pillow image, the bytes of a file, or a
    path. It is asked for again at every access, from one background thread at a time, and must be the same each time:
    random changes belong to the augmentation. Decoding and resizing run in several threads. What raises there stops
    the run; a path or bytes that are no image are replaced, as for folders.

    Whatever answers an array of rows with arrays needs none of this: it is an `Indexable` already.

    Args:
      examples: the object.
      labels: integers in `[0, number of classes)`, one per example, which need not be read from the examples then.
      classes: names of the classes; with `labels` None they say that examples have labels, which are otherwise looked
        for in all examples once.
      image_size: shorter side to resize and crop to, or None if all images have the same size already.
      channels: 1 or 3, or None for 3 unless a sample of the images is grey.
      name: for messages and records.
      fingerprint: changes with the content, so that a run is not continued on other data; by default a hash of the
        length, the labels and a sample of the images.

    Raises:
      UserError: if the object has no length or no image, labels are no such integers, or images differ in size and
        `image_size` is None.
    """
    try:
        first, count = examples[0], len(examples)
    except (TypeError, KeyError, IndexError) as error:
        raise UserError(
            f"{name} must have a length and give an example for each number from 0, but examples[0] or its length "
            f"fails: {error!r}."
        ) from error
    labelled = _parts(first, name)[1] is not None
    if labels is None and classes is None and labelled:
        labels = [_parts(examples[i], name)[1] for i in range(count)]
    if labels is None and classes is not None and not labelled:
        raise UserError(f"{name} has names of classes but its examples no labels; give labels=, or leave classes out.")
    if labels is not None:
        labels = _check(labels, count, name)
        classes = classes or [str(i) for i in range(int(labels.max()) + 1)]
        if int(labels.max()) >= len(classes):
            raise UserError(f"{name} has {len(classes)} names in classes, but a label {int(labels.max())}.")

    def fetch(rows: np.ndarray) -> tuple[list[Encoded], list[int] | None]:
        found = [_parts(examples[row], name) for row in rows.tolist()]
        images = [_encoded(image, name) for image, _ in found]
        return images, None if labels is not None or classes is None else [int(label) for _, label in found]

    rows = np.arange(count)
    sample = fetch(spread(rows))[0]
    return LazySource(
        rows,
        fetch,
        labels=labels,
        classes=None if classes is None else tuple(classes),
        shape=shape_of(sample, image_size, channels, name),
        image_size=image_size,
        name=name,
        fingerprint=lambda: fingerprint or _fingerprint(sample, count, labels),
    )


def _parts(example: Any, name: str) -> tuple[Any, Any]:
    """Take an example apart into image and label, or None."""
    if isinstance(example, dict):
        if "image" not in example:
            raise UserError(f"the examples of {name} have {', '.join(map(str, example))}, but no 'image'.")
        return example["image"], example.get("label")
    if isinstance(example, tuple | list):
        return (example[0], example[1]) if len(example) > 1 else (example[0], None)
    return example, None


def _encoded(image: Any, name: str) -> Encoded:
    if isinstance(image, Image.Image):
        image = np.asarray(image if image.mode in ("L", "RGB") else plain(image, 3))
    if isinstance(image, np.ndarray) or hasattr(image, "__array__"):
        image = np.asarray(image)
        image = image[..., None] if image.ndim == 2 else image
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[-1] not in (1, 3):
            raise UserError(
                f"the images of {name} must be uint8 [h w 1 or 3] or [h w], Pillow images, bytes or paths, but one is "
                f"{image.dtype} {list(image.shape)}."
            )
    return image


def _check(labels: Any, count: int, name: str) -> np.ndarray:
    labels = np.asarray(labels)
    if labels.shape != (count,) or labels.dtype.kind not in "iu" or labels.min() < 0:
        raise UserError(
            f"the labels of {name} must be {count} integers from 0, but are {labels.dtype} {list(labels.shape)}."
        )
    return labels.astype(np.int32)


def _fingerprint(sample: Sequence[Encoded], count: int, labels: np.ndarray | None) -> str:
    parts = [image.tobytes() if isinstance(image, np.ndarray) else image for image in sample]
    parts = [part if isinstance(part, bytes) else str(part).encode() for part in parts]
    return digest(str(count).encode(), b"" if labels is None else labels.tobytes(), *parts)
