"""What Hugging Face's `datasets` wrote, `hf:PATH`: a directory of `save_to_disk`, or of parquet files as on the Hub.

Both hold Arrow tables, which pyarrow reads; the package `datasets` itself is not needed, and nothing is downloaded.
Saved directories are mapped into memory and read at random. Parquet is compressed in groups of rows, so sets larger
than the gigabyte of groups that is kept are slow to read at random: write them anew by `ssl-jax data prepare`.
"""

import json
import os
import pathlib
import re

import numpy as np

from ssl_jax.core import UserError
from ssl_jax.data import tables
from ssl_jax.data.decode import Encoded
from ssl_jax.data.files import local
from ssl_jax.data.lazy import LazySource
from ssl_jax.data.sample import shape_of, spread
from ssl_jax.data.source import Named, digest
from ssl_jax.data.tree import HELD_OUT

_PARQUET = re.compile(r"(?P<split>\w+)(-.*)?\.parquet")


def read(directory: str, split: str, image_size: int | None, channels: int | None) -> LazySource:
    """Open one split of a local data set; `"test"` is `"validation"` where there is no other.

    The image is the first column of images, and the label the first of classes or else whole numbers called `label`.

    Args:
      directory: of `Dataset.save_to_disk` (its only split is `"train"`), `DatasetDict.save_to_disk`, or parquet files
        called `SPLIT-....parquet`.
      split: without a slice.
      image_size: shorter side to resize and crop to, or None if all images have the same size already.
      channels: 1 or 3, or None for 3 unless a sample of the images is grey.

    Raises:
      UserError: if it is no such directory, a file is damaged, there is no such split or no image in it, or images
        differ in size and `image_size` is None.
    """
    found = splits(local(directory, "what Hugging Face's datasets saved"))
    alias = next((name for name in HELD_OUT if name in found), split) if split == "test" else split
    paths = found.get(split) or found.get(alias)
    if paths is None:
        raise UserError(f"hf:{directory} has no split {split!r}; it has {', '.join(found)}.")
    try:
        table = tables.Table(paths)
        image = table.image_column()
        labels, classes = table.labels()
        names = table.names(image) if image else None
    except ImportError as error:
        raise UserError(f"hf:{directory} needs pyarrow, which is not installed; pip install 'ssl_jax[hf]'.") from error
    except (OSError, ValueError, KeyError) as error:  # ValueError is what pyarrow's errors are made of
        raise UserError(
            f"hf:{directory} can't be read ({str(error).splitlines()[0]}); save or copy it again."
        ) from error
    if image is None or not len(table):
        raise UserError(f"hf:{directory} {split} has no image in {len(table)} rows of {', '.join(table.schema.names)}.")
    items = np.arange(len(table)) if names is None else np.empty(len(table), object)
    if names is not None:
        items[:] = [Named(name, row) for row, name in enumerate(names)]

    def fetch(chosen: np.ndarray) -> tuple[list[Encoded], None]:
        rows = [item.where for item in chosen] if chosen.dtype == object else chosen.tolist()
        return list(table.images(image, rows)), None

    name = f"hf:{directory} {split}"
    return LazySource(
        items,
        fetch,
        labels=labels,
        classes=classes,
        shape=shape_of(fetch(spread(items))[0], image_size, channels, name),
        image_size=image_size,
        name=name,
        fingerprint=lambda: digest(str([(path.name, os.path.getsize(path)) for path in paths]).encode()),
    )


def splits(directory: pathlib.Path) -> dict[str, list[pathlib.Path]]:
    """Return the Arrow or parquet files of each split.

    Raises:
      UserError: if there are none.
    """
    if (directory / "dataset_dict.json").is_file():
        names = _json(directory / "dataset_dict.json").get("splits", [])
        # Of a name only its last part counts: it comes out of a file.
        return {str(name): _saved(directory / pathlib.PurePath(str(name)).name) for name in names}
    if (directory / "state.json").is_file():
        return {"train": _saved(directory)}
    found: dict[str, list[pathlib.Path]] = {}
    for path in sorted([*directory.glob("*.parquet"), *directory.glob("data/*.parquet")]):
        match = _PARQUET.fullmatch(path.name)
        if match:
            found.setdefault(match["split"], []).append(path)
    if not found:
        raise UserError(
            f"{directory} is no data set of Hugging Face: it holds neither what save_to_disk writes (state.json, "
            "dataset_dict.json) nor SPLIT-....parquet files; for images in folders use folder:PATH."
        )
    return found


def _saved(directory: pathlib.Path) -> list[pathlib.Path]:
    files = _json(directory / "state.json").get("_data_files") or []
    paths = [directory / pathlib.PurePath(str(file.get("filename"))).name for file in files]
    missing = [path for path in paths if not path.is_file()]
    if missing or not paths:
        raise UserError(f"{directory} lacks {missing[0].name if missing else 'data files'}; save or copy it again.")
    return paths


def _json(path: pathlib.Path) -> dict:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} can't be read ({error}); save or copy the data set again.") from error
    return content if isinstance(content, dict) else {}
