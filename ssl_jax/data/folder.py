"""Any directory of images as a source."""

import os
import pathlib
from collections.abc import Iterable, Iterator

import numpy as np

from ssl_jax.core import UserError
from ssl_jax.data import tree
from ssl_jax.data.decode import header, try_decode
from ssl_jax.data.lazy import LazySource, differ, pool, report_skipped
from ssl_jax.data.source import digest

HEADERS = 200_000  # files beyond which only a sample is opened before the run
SAMPLE = 1_000


def read(directory: str | os.PathLike[str], split: str, image_size: int | None, channels: int | None) -> LazySource:
    """Read a directory of images: splits and classes are `tree`'s, channels 3 unless every image is grey.

    The beginning of every file is read here, so that files that are no images are left out and logged. Of more than
    200,000 files only a thousand are looked at; a bad one among the others is replaced when it is met.

    Args:
      directory: of images, with one sub-directory per class or none, optionally below `train`, `test`, ...
      split: one of those, without a slice.
      image_size: shorter side to resize and crop to, or None if all images have the same size already.
      channels: 1 or 3, or None to choose.

    Raises:
      UserError: if there is no directory, image or split, or images differ in size and `image_size` is None.
    """
    root = pathlib.Path(directory).expanduser()
    found = tree.splits(root)
    if split not in found:
        raise UserError(f"{root} has no split {split!r}; it has {', '.join(found)}.")
    base, names = found[split]
    if not names:
        raise UserError(f"the split {split!r} of {root} holds no image; add images to it or use another split.")
    name = f"folder:{root} {split}"
    # All splits of a directory must agree on channels, so the choice looks at all of them.
    of_interest = found.values() if channels is None else [found[split]]
    headers = _headers(list(dict.fromkeys(os.path.join(*pair) for pair in _pairs(of_interest))))
    own = [headers.get(os.path.join(base, file), ()) for file in names]
    report_skipped(
        name, np.array([file for file, sides in zip(names, own, strict=True) if sides is None], object), len(own)
    )
    names = [file for file, sides in zip(names, own, strict=True) if sides is not None]
    if channels is None:
        channels = 1 if all(sides[2] for sides in headers.values() if sides) else 3
    sizes = list(dict.fromkeys(sides[:2] for sides in own if sides))
    if image_size is None and len(sizes) > 1:
        raise differ(name, *sizes[:2])
    classes = tree.classes(found, split)
    return LazySource(
        np.array(names, object),
        lambda chosen: ([os.path.join(base, file) for file in chosen], None),
        labels=None if classes is None else tree.labels(names, classes),
        classes=classes,
        shape=_shape(base, names, image_size, channels),
        image_size=image_size,
        name=name,
        fingerprint=lambda: _fingerprint(base, names),
    )


def _pairs(splits: Iterable[tuple[pathlib.Path, list[str]]]) -> Iterator[tuple[pathlib.Path, str]]:
    return ((base, name) for base, names in splits for name in names)


def _headers(paths: list[str]) -> dict[str, tuple[int, int, bool] | None]:
    """Return the header of each path, or of a sample if there are very many."""
    sample = paths if len(paths) <= HEADERS else paths[:: len(paths) // SAMPLE]
    return dict(zip(sample, pool().map(header, sample), strict=True))


def _shape(base: pathlib.Path, names: list[str], image_size: int | None, channels: int) -> tuple[int, int, int]:
    if image_size is not None:
        return image_size, image_size, channels
    images = (try_decode(os.path.join(base, name), None, channels) for name in names)
    first = next((image for image in images if image is not None), None)
    if first is None:
        raise UserError(f"none of the {len(names)} images of {base} can be decoded; check the files.")
    return first.shape[0], first.shape[1], channels


def _fingerprint(base: pathlib.Path, names: list[str]) -> str:
    """Hash all names, and the sizes of up to ten thousand files spread over them."""
    sampled = names[:: max(1, len(names) // 10_000)]
    sizes = [os.path.getsize(os.path.join(base, name)) for name in sampled]
    return digest(b"\0".join(map(os.fsencode, names)), str(sizes).encode())
