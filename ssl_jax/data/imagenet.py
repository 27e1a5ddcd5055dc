"""ImageNet's own archives, `imagenet:PATH`: ILSVRC 2012 (Russakovsky et al., 2015, arXiv:1409.0575) as it is published.

The directory holds `ILSVRC2012_img_train.tar`, a tar file of one tar file per class, and `ILSVRC2012_img_val.tar` with
`ILSVRC2012_devkit_t12.tar.gz` or without it, `tensorflow_datasets` having the same labels. Tar files are not
compressed, so an image in a tar file in a tar file is a span of bytes: nothing is unpacked. Reading all headers takes
a minute the first time. Splits are `train` (1,281,167 images of the whole) and `test` (the 50,000 for validation); of
each class a few, as the field's 1 % and 10 %, are `train[@1percent.txt]`.
"""

import gzip
import importlib.util
import io
import pathlib
import zlib
from typing import Any

import numpy as np

from ssl_jax.core import UserError
from ssl_jax.data import archive, files, shards, tar
from ssl_jax.data.lazy import LazySource
from ssl_jax.data.source import Named
from ssl_jax.data.tree import HELD_OUT, in_hash_order

TRAIN, VAL = "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar"
DEVKIT = "ILSVRC2012_devkit_t12.tar.gz"
TRUTH, META = "ILSVRC2012_validation_ground_truth.txt", "meta.mat"
_MOST = 1 << 28  # bytes of the unpacked devkit that are believed


def read(directory: str, split: str, image_size: int | None, channels: int | None) -> LazySource:
    """Open one split of ImageNet's archives; classes are WordNet numbers (`n01440764`) in sorted order.

    Args:
      directory: where the archives are, local or in a bucket.
      split: `"train"`, or `"test"`, `"val"` or `"validation"`, which are the same.
      image_size: shorter side to resize and crop to.
      channels: 1 or 3, or None for 3.

    Raises:
      UserError: if the split's archive is missing or damaged, or labels don't fit its images.
    """
    there = {name: path for name in (TRAIN, VAL) for path in files.glob(f"{directory}/{name}")}
    if split not in ("train", *HELD_OUT):
        raise UserError(f"imagenet:{directory} has no split {split!r}; it has train, test.")
    if (TRAIN if split == "train" else VAL) not in there:
        raise UserError(
            f"{directory} lacks {TRAIN if split == 'train' else VAL}; get it from https://image-net.org/download-images."
        )
    found = {name: _train(path) if name == TRAIN else _val(path, directory) for name, path in there.items()}
    classes = tuple(sorted({wnid for images in found.values() for wnid in images.values()}))
    images = found[TRAIN if split == "train" else VAL]
    names, number = in_hash_order(images), {wnid: i for i, wnid in enumerate(classes)}
    labels = np.array([number[images[name]] for name in names], np.int32)
    return tar.source(names, labels, classes, image_size, channels or 3, f"imagenet:{directory} {split}")


def split_names(directory: str) -> tuple[str, ...]:
    """The splits whose archives are there, as tensorflow-datasets calls them."""
    there = {"train": TRAIN, "validation": VAL}
    found = tuple(split for split, name in there.items() if files.glob(f"{directory}/{name}"))
    if not found:
        raise UserError(f"{directory} holds neither {TRAIN} nor {VAL}; get them from https://image-net.org.")
    return found


def _train(path: str) -> dict[Named, str]:
    """Return the class of every image for training, named `n01440764/n01440764_10026.JPEG`."""
    shard = shards.read(path, _scan_classes)
    return {named: named.partition("/")[0] for named in _named(shard)}


def _scan_classes(file: Any, path: str, state: str) -> shards.Shard:
    """Read the headers of a tar file of tar files."""
    found = []
    for outer in archive.members(file, path, stop=files.size(path)):
        if outer.name.endswith(".tar"):
            wnid = files.last(outer.name).removesuffix(".tar")
            stop = outer.offset + outer.size
            inner = archive.members(file, f"{outer.name} in {path}", start=outer.offset, stop=stop)
            found += [image._replace(name=f"{wnid}/{files.last(image.name)}") for image in inner]
    names, offsets, sizes = map(list, zip(*found, strict=True)) if found else ([], [], [])
    return shards.Shard(path, names, offsets, sizes, [None] * len(names), state)


def _val(path: str, directory: str) -> dict[Named, str]:
    """Return the class of every image for validation; labels are in the order of the images' names."""
    images = sorted(_named(shards.read(path)))
    devkit = files.glob(f"{directory}/{DEVKIT}")
    labels = _devkit_labels(devkit[0]) if devkit else _known_labels()
    if len(labels) != len(images):
        source = devkit[0] if devkit else f"the list for all of it ({directory} lacks {DEVKIT})"
        raise UserError(f"{path} has {len(images):,} images, but {source} {len(labels):,} labels; copy both again.")
    return dict(zip(images, labels, strict=True))


def _named(shard: shards.Shard) -> list[Named]:
    places = zip(shard.names, shard.offsets, shard.sizes, strict=True)
    return [Named(name, (shard.path, offset, size, shard.state)) for name, offset, size in places]


def _devkit_labels(path: str) -> list[str]:
    """Return the WordNet number of each image for validation, out of the development kit."""
    from scipy import io as matlab  # takes a moment

    try:
        with files.open_file(path) as file, gzip.open(file) as unpacked:
            content = unpacked.read(_MOST)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path} can't be unpacked ({error}); copy it again.") from error
    found = {files.last(m.name): m for m in archive.members(io.BytesIO(content), path, stop=len(content))}
    try:
        truth, meta = (found[name] for name in (TRUTH, META))
        table = matlab.loadmat(io.BytesIO(content[meta.offset : meta.offset + meta.size]), squeeze_me=True)["synsets"]
        wnids = {int(row["ILSVRC2012_ID"]): str(row["WNID"]) for row in np.atleast_1d(table)}
        numbers = content[truth.offset : truth.offset + truth.size].split()
        return [wnids[int(number)] for number in numbers]
    except (KeyError, ValueError, IndexError, NotImplementedError) as error:
        raise UserError(
            f"{path} is not the development kit of ILSVRC 2012 (it lacks {error}); copy it again."
        ) from error


def _known_labels() -> list[str]:
    """Return the labels of all 50,000 images for validation, a list that tensorflow-datasets brings along."""
    spec = importlib.util.find_spec("tensorflow_datasets")
    package = pathlib.Path(spec.origin).parent if spec and spec.origin else pathlib.Path()
    return (package / "datasets" / "imagenet2012" / "validation_labels.txt").read_text().split()
