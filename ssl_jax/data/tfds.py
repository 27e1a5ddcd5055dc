"""Data sets in tensorflow-datasets' array_record files: read by random access, without TensorFlow.

Nothing is downloaded here, and preparing most stock data sets needs TensorFlow and a network; `ssl-jax data prepare`
(`ssl_jax.data.prepare`) writes ImageNet's archives and any other source without both.
"""

import json
import os
import pathlib
import re
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np

from ssl_jax.core import UserError
from ssl_jax.data import files
from ssl_jax.data.lazy import LazySource
from ssl_jax.data.source import Named, digest

FILE_NAMES = "file_names.json"
_OWN = re.compile(r"tensorflow_datasets\.")
_VERSION = re.compile(r"\d+\.\d+\.\d+")


def find(name: str, data_dir: str | os.PathLike[str] | None = None) -> pathlib.Path | None:
    """Return the directory of a prepared data set, its newest version, or None.

    Args:
      name: `name`, `name/config`, `name:version` or `name/config:version`.
      data_dir: where data sets were prepared; `$TFDS_DATA_DIR` or `~/tensorflow_datasets`, as there, if None.

    Raises:
      UserError: it is prepared in several configurations, or `data_dir` is in a bucket.
    """
    path, _, version = name.partition(":")
    given = data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    root = files.local(given, "a prepared data set")
    versions = [info.parent for info in (root / path).glob("*/dataset_info.json")]
    # A single configuration needs no name.
    versions = versions or [info.parent for info in (root / path).glob("*/*/dataset_info.json")]
    versions = [v for v in versions if _VERSION.fullmatch(v.name) and version in ("", v.name)]
    if len({v.parent for v in versions}) > 1:
        names = sorted(f"{path}/{v.parent.name}" for v in versions)
        raise UserError(f"tfds:{path} is prepared in several configurations; choose one, such as tfds:{names[0]}.")
    return max(versions, key=lambda v: tuple(map(int, v.name.split("."))), default=None)


def read(
    name: str, data_dir: str | os.PathLike[str] | None, split: str, image_size: int | None, channels: int | None
) -> LazySource:
    """Open one split of a prepared data set; `"test"` is `"validation"` where there is no other.

    Args:
      name: as for `find`.
      data_dir: as for `find`.
      split: without a slice.
      image_size: shorter side to resize and crop to, or None for data sets whose images have one size.
      channels: 1 or 3, or None for what the data set declares.

    Raises:
      UserError: if nothing is prepared, or not as array_record, or there is no such split, or no image, or images
        differ in size and `image_size` is None.
    """
    directory = find(name, data_dir)
    if directory is None:
        raise _not_prepared(name, data_dir)
    file_format = json.loads((directory / "dataset_info.json").read_text()).get("fileFormat", "tfrecord")
    if file_format != "array_record":
        raise UserError(f"{directory} was prepared as {file_format}; prepare it as array_record: {_command(name)}")
    _check_features(directory / "features.json")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of third parties, while they are imported
        import tensorflow_datasets as tfds

        builder = tfds.builder_from_directory(directory)
    if split == "test" and split not in builder.info.splits:
        split = "validation"
    if split not in builder.info.splits:
        raise UserError(f"tfds:{name} has no split {split!r}; it has {', '.join(builder.info.splits)}.")
    image, label = _keys(builder.info.features, tfds, name)
    shape = _shape(builder.info.features[image].shape, image_size, channels, name)
    # Image features are decoded here like files; tensors need no decoding.
    encoded = isinstance(builder.info.features[image], tfds.features.Image)
    decoders = {image: tfds.decode.SkipDecoding()} if encoded else None
    records = builder.as_data_source(split=split, decoders=decoders)

    names = _file_names(directory, split, len(records))
    items = np.arange(len(records)) if names is None else np.empty(len(records), object)
    if names is not None:
        items[:] = [Named(name, row) for row, name in enumerate(names)]

    def fetch(rows: np.ndarray) -> tuple[list[Any], list[int] | None]:
        places = [item.where for item in rows] if rows.dtype == object else rows.tolist()
        chosen = records.__getitems__(places)
        return [record[image] for record in chosen], [int(record[label]) for record in chosen] if label else None

    info = builder.info.splits[split]
    content = (builder.info.full_name, split, int(info.num_bytes), list(info.shard_lengths))
    return LazySource(
        items,
        fetch,
        classes=tuple(builder.info.features[label].names) if label else None,
        shape=shape,
        image_size=image_size,
        name=f"tfds:{name} {split}",
        fingerprint=lambda: digest(str(content).encode()),
    )


def split_names(name: str, data_dir: str | os.PathLike[str] | None) -> list[str]:
    """Names of the splits of a prepared data set.

    Raises:
      UserError: if nothing is prepared.
    """
    directory = find(name, data_dir)
    if directory is None:
        raise _not_prepared(name, data_dir)
    return [split["name"] for split in json.loads((directory / "dataset_info.json").read_text())["splits"]]


def _check_features(path: pathlib.Path) -> None:
    """Refuse features that are not tensorflow-datasets' own, for it imports whatever module the file names."""
    try:
        strange = [name for name in _class_names(json.loads(path.read_text(encoding="utf-8"))) if not _OWN.match(name)]
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} can't be read ({error}); prepare or copy the data set again.") from error
    if strange:
        raise UserError(
            f"{path} names the class {strange[0]!r}, whose module would be run, and which is not tensorflow-datasets' "
            "own; prepare the data set anew."
        )


def _class_names(tree: Any) -> Iterator[str]:
    """All names of classes in a description of features, in any of its versions."""
    if isinstance(tree, dict):
        yield from (str(tree[key]) for key in ("pythonClassName", "python_class_name", "type") if key in tree)
    for value in tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else ():
        yield from _class_names(value)


def _file_names(directory: pathlib.Path, split: str, count: int) -> list[str] | None:
    """Names of the images' files, which `ssl_jax.data.prepare` writes; None where others wrote the data set."""
    try:
        names = json.loads((directory / FILE_NAMES).read_text(encoding="utf-8")).get(split)
    except FileNotFoundError:
        return None
    return names if names is not None and len(names) == count else None


def _keys(features: Any, tfds: Any, name: str) -> tuple[str, str | None]:
    """Return the names of the image and of the label (or None) among the features of an example."""
    items = sorted(features.items(), key=lambda item: item[0] not in ("image", "label"))
    images = [
        key
        for key, feature in items
        if isinstance(feature, tfds.features.Image)
        or (isinstance(feature, tfds.features.Tensor) and feature.np_dtype == np.uint8 and len(feature.shape) == 3)
    ]
    labels = [key for key, feature in items if isinstance(feature, tfds.features.ClassLabel)]
    if not images:
        raise UserError(f"tfds:{name} has no image among {', '.join(features)}; choose a data set of images.")
    return images[0], labels[0] if labels else None


def _shape(
    declared: tuple[int | None, ...], image_size: int | None, channels: int | None, name: str
) -> tuple[int, int, int]:
    channels = channels or (1 if declared[-1] == 1 else 3)
    height, width = (image_size or declared[0]), (image_size or declared[1])
    if height is None or width is None:
        raise UserError(f"the images of tfds:{name} differ in size; give image_size, such as image_size=224.")
    return height, width, channels


def _not_prepared(name: str, data_dir: str | os.PathLike[str] | None) -> UserError:
    where = data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    if name.partition(":")[0] == "imagenet2012":
        return UserError(
            f"tfds:{name} is not prepared in {where}; from ImageNet's archives, without tensorflow: "
            f"ssl-jax data prepare imagenet:PATH --out={where}"
        )
    return UserError(
        f"tfds:{name} is not prepared in {where} (data_dir or TFDS_DATA_DIR name another place); "
        "where there is a network and tensorflow, run: " + _command(name, data_dir)
    )


def _command(name: str, data_dir: str | os.PathLike[str] | None = None) -> str:
    where = f", data_dir={str(data_dir)!r}" if data_dir else ""
    call = f"tfds.builder({name!r}{where}, file_format='array_record').download_and_prepare()"
    return f'python -c "import tensorflow_datasets as tfds; {call}"'
