"""Data named by one string: `fashion_mnist`, `digits`, `photos`, `folder:PATH`, `tar:PATTERN`, `tfds:NAME`, ..."""

import difflib
import functools
import os
import pathlib

import numpy as np

from ssl_jax.core import UserError
from ssl_jax.data import (
    coco,
    collage,
    digits,
    fashion_mnist,
    files,
    folder,
    huggingface,
    imagenet,
    mixture,
    photos,
    splits,
    tar,
    tfds,
    tree,
    voc,
)
from ssl_jax.data.boxed import BoxedSource
from ssl_jax.data.combine import join
from ssl_jax.data.lazy import LazySource
from ssl_jax.data.listed import rows_listed
from ssl_jax.data.source import ArraySource, Source

NAMES = (
    "fashion_mnist",
    "digits",
    "photos",
    "folder:PATH",
    "tar:PATTERN",
    "tfds:NAME",
    "hf:PATH",
    "imagenet:PATH",
    "mixture:WEIGHT*DATA+...",
    "collage:stamps",
    "collage:fashion_mnist",
    "coco:PATH",
    "voc:PATH",
)


def load(
    name: str,
    split: str = "train",
    *,
    image_size: int | None = None,
    channels: int | None = None,
    data_dir: str | os.PathLike[str] | None = None,
    in_memory: bool = True,
) -> Source:
    """Load images by name.

    Everything up to a gigabyte of pixels is kept in memory; larger sets are decoded when they are read.

    Args:
      name: one of
        `fashion_mnist`, or `fashion_mnist:DIRECTORY` with its four IDX files: 28 x 28 grey, 60,000 train, 10,000 test;
        `digits`: 8 x 8 grey, 1,260 train, 537 test, part of scikit-learn;
        `photos`: 32 x 32 colour patches of scikit-learn's two photographs, 2,250 train, 750 test, or `photos:skimage`,
        8,875 train, 2,800 test, of these and scikit-image's, see `ssl_jax.data.photos`;
        `folder:PATH`: any directory of images, local or in a bucket, see `ssl_jax.data.folder` and `ssl_jax.data.tree`;
        `tar:PATTERN`: tar files as WebDataset writes them, local or in a bucket, see `ssl_jax.data.tar`;
        `tfds:NAME`: what tensorflow-datasets or `ssl-jax data prepare` wrote as array_record, see `ssl_jax.data.tfds`;
        `hf:PATH`: what Hugging Face's datasets saved, or parquet files, see `ssl_jax.data.huggingface`;
        `imagenet:PATH`: the directory of ImageNet's own archives, see `ssl_jax.data.imagenet`;
        `mixture:0.7*DATA+0.3*DATA`: some of these at once, with weights, see `ssl_jax.data.mixture`;
        `collage:stamps` or `collage:fashion_mnist`: objects on photographs with boxes and masks, 5,000 train, 1,000
        test, of 64 x 64 or any size, see `ssl_jax.data.collage`;
        `coco:PATH` or `voc:PATH`: images with boxes as COCO and VOC lay them out, see `ssl_jax.data.coco` and
        `ssl_jax.data.voc`.
      split: `train`, `test` or what else there is, with slices as in tensorflow-datasets: `train[:55000]`,
        `train[90%:]`, `train[-1000:]`, joined by `+`; `train[@FILE]` are those whose ids are listed in a file, one a
        line: file names, or row numbers for data without.
      image_size: height and width: the shorter side is resized and the centre cropped (images with boxes: the longer
        side is resized and the shorter filled up); None keeps the images' own size, which must be the same for all.
      channels: 1 or 3; None for 3 unless every image is grey.
      data_dir: for `fashion_mnist` and `collage` the directory of their files, for `tfds` where data sets were
        prepared, for `folder`, `tar`, `hf`, `imagenet`, `coco` and `voc` what their path is relative to.
      in_memory: False to decode files and records when they are read, however few there are.

    Raises:
      UserError: if the name or split does not exist, files are missing, or an argument makes no sense.
    """
    if channels not in (None, 1, 3):
        raise UserError(f"channels={channels} must be 1 or 3, or left out.")
    if image_size is not None and image_size < 1:
        raise UserError(f"image_size={image_size} must be a positive number of pixels, or left out.")
    if name.startswith("mixture:"):
        weighted = mixture.parse(name.removeprefix("mixture:"))
        of_part = functools.partial(load, image_size=image_size, channels=channels, data_dir=data_dir)
        sources = [of_part(part, split, in_memory=in_memory) for _, part in weighted]
        return mixture.Mixture(sources, [weight for weight, _ in weighted], f"{name} {split}")
    parts, whole = [], {}
    for part in splits.parse(split):
        if part.name not in whole:
            whole[part.name] = _read(name, part.name, image_size, channels, data_dir)
        parts.append(_take(whole[part.name], part, split, in_memory))
    return join(parts, f"{name} {split}")


def split_names(name: str, data_dir: str | os.PathLike[str] | None = None) -> tuple[str, ...]:
    """Return the splits that data has, each once: of `test`, `val` and `validation` the one that is there.

    Args:
      name: as for `load`.
      data_dir: as for `load`.

    Raises:
      UserError: as `load` does.
    """
    kind, _, argument = name.partition(":")
    place = files.locate(argument, data_dir)
    if kind == "mixture":
        parts = [split_names(part, data_dir) for _, part in mixture.parse(argument)]
        return tuple(split for split in parts[0] if all(split in part for part in parts))
    if kind == "tfds" and argument:
        return tuple(tfds.split_names(argument, data_dir))
    if kind == "imagenet" and (argument or data_dir):
        return imagenet.split_names(place)
    if kind == "hf" and (argument or data_dir):
        return tuple(huggingface.splits(files.local(place, "what Hugging Face's datasets saved")))
    if kind == "folder" and (argument or data_dir):
        return _distinct({split: names for split, (_, names) in tree.splits(place).items()})
    if kind == "tar" and (argument or data_dir):
        return _distinct(tar.splits(place))
    return ("train", "test")


def _distinct(found: dict[str, list]) -> tuple[str, ...]:
    """Splits that hold images, without those that are another one's list again."""
    return tuple({id(images): split for split, images in reversed(found.items()) if images}.values())[::-1]


def _read(
    name: str, split: str, size: int | None, channels: int | None, data_dir: str | os.PathLike[str] | None
) -> Source:
    """Read one whole split."""
    kind, _, argument = name.partition(":")
    if kind in ("folder", "tar", "hf", "imagenet") and (argument or data_dir):
        readers = {"folder": folder.read, "tar": tar.read, "hf": huggingface.read, "imagenet": imagenet.read}
        return readers[kind](files.locate(argument, data_dir), split, size, channels)
    if kind == "tfds" and argument:
        return tfds.read(argument, data_dir, split, size, channels)
    if kind in ("coco", "voc") and argument:
        read = coco.coco_split if kind == "coco" else voc.voc_split
        place = files.local(files.locate(argument, data_dir), "images with boxes")
        return read(place, split, size, channels or 3)
    known = kind == "fashion_mnist" or name in NAMES or name == "photos:skimage"
    if not known:
        raise _unknown(name)
    if split not in ("train", "test"):
        raise UserError(f"{name} has no split {split!r}; it has train, test.")
    if kind == "collage":
        return collage.read(argument, split, size, channels, data_dir)
    if kind == "digits":
        return _fit(digits.read(split), size, channels)
    if kind == "photos":
        return _fit(photos.read(split, more=bool(argument)), size, channels)
    return _fashion_mnist(split, argument or data_dir, size, channels)


def _fashion_mnist(
    split: str, directory: str | os.PathLike[str] | None, size: int | None, channels: int | None
) -> Source:
    found = fashion_mnist.find(directory)
    if found is not None:
        return _fit(fashion_mnist.read(found, split), size, channels)
    if tfds.find("fashion_mnist", directory):
        return tfds.read("fashion_mnist", directory, split, size, channels)
    raise fashion_mnist.missing(directory)


def _fit(source: ArraySource, size: int | None, channels: int | None) -> Source:
    """Resize the images of a source in memory, and make grey of colour or colour of grey."""
    shape = (size or source.images.shape[1], size or source.images.shape[2], channels or source.images.shape[3])
    if shape == source.images.shape[1:]:
        return source
    if size is None and shape[2] == 3:
        return ArraySource(source.images.repeat(shape[2], axis=3), source.labels, source.classes, source.name)
    return LazySource(
        np.arange(len(source)),
        lambda rows: (list(source.images[rows]), None),
        labels=source.labels,
        classes=source.classes,
        shape=shape,
        image_size=size,
        name=source.name,
        fingerprint=lambda: source.fingerprint,
    )


def _take(source: Source, part: splits.Part, split: str, in_memory: bool) -> Source:
    """Return a part of a split, in memory if it fits and may be."""
    if part.ids is None:
        first, last = splits.span(len(source), part.start, part.stop, split, of=source.name)
        rows: slice | np.ndarray = slice(first, last)
    else:
        rows = rows_listed(source, part.ids)
    if isinstance(source, LazySource | BoxedSource):
        whole = isinstance(rows, slice) and (first, last) == (0, len(source))
        chosen = source if whole else source.select(np.arange(len(source))[rows])
        return chosen.settle() if in_memory else chosen
    assert isinstance(source, ArraySource)
    labels = None if source.labels is None else source.labels[rows]
    names = None if source.files is None else source.files[rows]
    return ArraySource(source.images[rows], labels, source.classes, source.name, files=names)


def _unknown(name: str) -> UserError:
    kind = name.partition(":")[0]
    by_kind = {known.partition(":")[0]: known for known in reversed(NAMES)}
    near = difflib.get_close_matches(kind.lower(), by_kind, n=1, cutoff=0.5)
    hint = f" Did you mean {by_kind[near[0]]}?" if near else ""
    if pathlib.Path(name).expanduser().is_dir():
        hint = f" Did you mean folder:{name}?"
    elif "+" in name and ":" not in name:
        hint = " Several at once are a mixture, in which each has a weight, such as mixture:0.7*digits+0.3*photos."
    return UserError(f"there is no data {name!r}; there is {', '.join(NAMES)}.{hint}")
