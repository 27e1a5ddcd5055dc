"""Tar files of images as a source, `tar:PATTERN`: WebDataset's shards, read by random access where they are.

Patterns have numbers and words in braces (`shards-{000..009}.tar`) and stars; `{split}` in one stands for `train`,
`test`, `val` and `validation`, whichever there are. Without it a tenth of the images is held out by the hash of their
names, as for folders, those of one example together. Files in buckets are read through fsspec, an image at a time.
"""

import re
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int32

from ssl_jax.core import UserError
from ssl_jax.data import files, shards
from ssl_jax.data.lazy import LazySource
from ssl_jax.data.sample import shape_of, spread
from ssl_jax.data.source import Named, digest
from ssl_jax.data.tree import HELD_OUT, hold_out, in_hash_order

_WHOLE_NUMBER = re.compile(r"\d{1,6}")  # longer ones are words: nobody has millions of classes


def read(pattern: str, split: str, image_size: int | None, channels: int | None) -> LazySource:
    """Open one split of the images in tar files.

    Labels are kept if every image of every split has one. Whole numbers count classes, which are named by them; words
    are the names of the classes, in sorted order.

    Args:
      pattern: local paths or addresses, see above.
      split: without a slice.
      image_size: shorter side to resize and crop to, or None if all images have the same size already.
      channels: 1 or 3, or None for 3 unless a sample of the images is grey.

    Raises:
      UserError: if a file is missing, compressed or damaged, there is no such split or no image, or images differ in
        size and `image_size` is None.
    """
    found = splits(pattern)
    if split not in found:
        raise UserError(f"tar:{pattern} has no split {split!r}; it has {', '.join(found)}.")
    if not found[split]:
        raise UserError(f"the split {split!r} of tar:{pattern} holds no image; use another split.")
    classes = class_names([label for images in found.values() for _, label in images])
    number = {label: i for i, label in enumerate(classes or ())}
    labels = None if classes is None else np.array([number[_plain(label)] for _, label in found[split]], np.int32)
    images = [image for image, _ in found[split]]
    return source(images, labels, classes, image_size, channels, f"tar:{pattern} {split}")


def splits(pattern: str) -> dict[str, list[tuple[Named, str | None]]]:
    """Return the images of each split, each with its label as text, in the order of their names' hashes.

    Raises:
      UserError: if there are none, or a tar file can't be read.
    """
    found = {}
    for split in ("train", *HELD_OUT) if "{split}" in pattern else ("",):
        images = _images(shards.expand(pattern.replace("{split}", split)))
        if images:
            found[split] = [(name, images[name]) for name in in_hash_order(images)]
    if not found:
        raise UserError(
            f"no tar file with an image fits tar:{pattern}; write for example 'tar:shards-{{000..009}}.tar', with "
            "the quotes, since a shell expands braces."
        )
    if "" in found:
        labels = dict(found.pop(""))
        of = {name: shards.example(name) for name in sorted(labels)}
        first = {example: name for name, example in reversed(of.items())}  # image of each, whose hash is that of all
        held = set(hold_out(in_hash_order(first.values()))[1])
        for split in ("train", "test"):
            mine = (name for name in labels if (first[of[name]] in held) == (split == "test"))
            found[split] = [(name, labels[name]) for name in mine]
    held_out = next((found[split] for split in HELD_OUT if split in found), [])
    for split in HELD_OUT if held_out else ():
        found.setdefault(split, held_out)
    return found


def class_names(texts: Sequence[str | None]) -> tuple[str, ...] | None:
    """Return the names of the classes that labels as text speak of, or None if an image has no label."""
    if not texts or any(text is None for text in texts):
        return None
    words = {_plain(text) for text in texts}
    if all(_WHOLE_NUMBER.fullmatch(word) for word in words):
        return tuple(str(i) for i in range(max(map(int, words)) + 1))
    return tuple(sorted(words))


def source(
    images: Sequence[Named],
    labels: Int32[np.ndarray, " n"] | None,
    classes: tuple[str, ...] | None,
    image_size: int | None,
    channels: int | None,
    name: str,
) -> LazySource:
    """Make a source of images that are parts of files.

    Args:
      images: names, whose `where` is `(path, first byte, number of bytes, state of the file)`.
      labels: one per image, or None.
      classes: names of the classes, or None.
      image_size: as for `read`.
      channels: as for `read`.
      name: for messages and records.
    """
    items = np.empty(len(images), object)
    items[:] = images
    shape = shape_of(_fetch(spread(items)), image_size, channels, name)

    def fingerprint() -> str:
        lines = (f"{image} {image.where[2]} {image.where[3]}\n" for image in images)
        return digest(*(line.encode("utf-8", "surrogateescape") for line in lines))

    return LazySource(
        items,
        lambda chosen: (_fetch(chosen), None),
        labels=labels,
        classes=classes,
        shape=shape,
        image_size=image_size,
        name=name,
        fingerprint=fingerprint,
    )


def _images(paths: Sequence[str]) -> dict[Named, str | None]:
    """Return all images of some tar files, named `SHARD.tar/MEMBER`, and their labels as text."""
    found = {}
    unique = len({files.last(path) for path in paths}) == len(paths)
    for shard in map(shards.read, paths):
        base = files.last(shard.path) if unique else shard.path
        for name, offset, size, label in zip(shard.names, shard.offsets, shard.sizes, shard.labels, strict=True):
            found[Named(f"{base}/{name}", (shard.path, offset, size, shard.state))] = label
    return found


def _fetch(images: np.ndarray) -> list[bytes]:
    return files.read_ranges([image.where[:3] for image in images])


def _plain(text: str | None) -> str:
    """A label as the name of a class: whole numbers without leading zeros."""
    assert text is not None
    return str(int(text)) if _WHOLE_NUMBER.fullmatch(text) else text
