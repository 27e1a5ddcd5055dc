"""Fashion-MNIST (Xiao et al., 2017, arXiv:1708.07747): 60,000 + 10,000 grey images of clothes, 28 x 28, ten classes."""

import gzip
import math
import os
import pathlib
import zlib

import numpy as np
from jaxtyping import UInt8

from ssl_jax.core import UserError
from ssl_jax.data.source import ArraySource, from_arrays

CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
DEBIAN = pathlib.Path("/usr/share/datasets/fashion-mnist")  # where the package dataset-fashion-mnist puts the files
FILES = {"train": "train", "test": "t10k"}


def find(directory: str | os.PathLike[str] | None = None) -> pathlib.Path | None:
    """Return the directory that holds the four IDX files, or None.

    It is the one given, else that of the environment variable FASHION_MNIST_DIR, else the Debian package's.
    """
    directory = pathlib.Path(directory or os.environ.get("FASHION_MNIST_DIR") or DEBIAN).expanduser()
    return directory if _file(directory, "train-images-idx3-ubyte") else None


def missing(directory: str | os.PathLike[str] | None = None) -> UserError:
    """The error for files that are not there."""
    return UserError(
        f"Fashion-MNIST is not in {directory or DEBIAN}; run `apt-get install dataset-fashion-mnist` on "
        "Debian or Ubuntu, or give the directory of its four IDX files as fashion_mnist:DIRECTORY."
    )


def read(directory: pathlib.Path, split: str) -> ArraySource:
    """Read `"train"` or `"test"` from IDX files, compressed with gzip or plain.

    Raises:
      UserError: if a file is missing or damaged, or images and labels differ in number.
    """
    images, labels = (_read(directory, f"{FILES[split]}-{kind}-ubyte") for kind in ("images-idx3", "labels-idx1"))
    if images.ndim != 3 or labels.shape != images.shape[:1]:
        raise UserError(
            f"{directory} holds {list(images.shape)} images and {list(labels.shape)} labels for {split}, which do not "
            "fit each other; copy the four files of one data set into the directory."
        )
    return from_arrays(images, labels.astype(np.int32), CLASSES, name=f"fashion_mnist {split}")


def read_idx(path: str | os.PathLike[str]) -> UInt8[np.ndarray, "..."]:
    """Read an array of bytes in the IDX format, in which MNIST was published; `.gz` files are decompressed.

    Raises:
      UserError: if the file is not a complete IDX file of unsigned bytes.
    """
    path = pathlib.Path(path)
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        rank = raw[3]
        shape = tuple(np.frombuffer(raw, ">u4", rank, offset=4).tolist())
        complete = raw[:3] == b"\0\0\x08" and len(raw) == 4 + 4 * rank + math.prod(shape)
    except (OSError, EOFError, zlib.error, IndexError, ValueError):
        complete = False
    if not complete:
        raise UserError(f"{path} is not a complete IDX file of bytes; copy or install it again.")
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * rank).reshape(shape)


def _read(directory: pathlib.Path, stem: str) -> np.ndarray:
    path = _file(directory, stem)
    if path is None:
        raise UserError(f"{directory} lacks {stem}.gz; copy all four files of Fashion-MNIST there.")
    return read_idx(path)


def _file(directory: pathlib.Path, stem: str) -> pathlib.Path | None:
    # Some mirrors write the last dash of the name as a dot.
    names = (stem, stem.replace("-idx", ".idx"))
    paths = (directory / (name + suffix) for name in names for suffix in (".gz", ""))
    return next((path for path in paths if path.is_file()), None)
