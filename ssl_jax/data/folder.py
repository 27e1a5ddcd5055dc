"""Any directory of images as a source, on this machine or in a bucket."""

import os
from collections.abc import Iterable, Iterator

import numpy as np

from ssl_jax.core import UserError
from ssl_jax.data import files, tree
from ssl_jax.data.decode import Encoded, header, try_decode, why_broken
from ssl_jax.data.lazy import LazySource, differ, pool, report_skipped
from ssl_jax.data.source import digest

HEADERS = 200_000  # files beyond which only a sample is opened before the run
SAMPLE = 1_000
NONE = "its beginning is no image's"
REMOTE_SAMPLE = 100  # in a bucket every file takes a while


def read(directory: str | os.PathLike[str], split: str, image_size: int | None, channels: int | None) -> LazySource:
    """Read a directory of images: splits and classes are `tree`'s, channels 3 unless every image is grey.

    The beginning of every file is read here, so that files that are no images are left out and logged. Of more than
    200,000 files only a thousand are looked at, and of those in a bucket a hundred; a bad one among the others is
    replaced when it is met.

    Args:
      directory: of images, or its address, with one sub-directory per class or none, below `train`, `test` or not.
      split: one of those, without a slice.
      image_size: shorter side to resize and crop to, or None if all images have the same size already.
      channels: 1 or 3, or None to choose.

    Raises:
      UserError: if there is no directory, image or split, or images differ in size and `image_size` is None.
    """
    root = files.locate(directory)
    found = tree.splits(root)
    if split not in found:
        raise UserError(f"{root} has no split {split!r}; it has {', '.join(found)}.")
    base, names = found[split]
    if not names:
        raise UserError(f"the split {split!r} of {root} holds no image; add images to it or use another split.")
    name = f"folder:{root} {split}"
    # All splits of a directory must agree on channels, so the choice looks at all of them.
    of_interest = found.values() if channels is None else [found[split]]
    headers = _headers(list(dict.fromkeys(f"{base}/{file}" for base, file in _pairs(of_interest))))
    own = [headers.get(f"{base}/{file}", ()) for file in names]
    skipped = [file for file, sides in zip(names, own, strict=True) if sides is None]
    report_skipped(name, np.array(skipped, object), len(own))
    names = [file for file, sides in zip(names, own, strict=True) if sides is not None]
    if channels is None:
        channels = 1 if all(sides[2] for sides in headers.values() if sides) else 3
    sizes = list(dict.fromkeys(sides[:2] for sides in own if sides))
    if image_size is None and len(sizes) > 1:
        raise differ(name, *sizes[:2])
    classes = tree.classes(found, split)
    source = LazySource(
        np.array(names, object),
        lambda chosen: (_encoded(base, chosen), None),
        labels=None if classes is None else tree.labels(names, classes),
        classes=classes,
        shape=_shape(base, names, image_size, channels),
        image_size=image_size,
        name=name,
        fingerprint=lambda: _fingerprint(base, names),
    )
    reasons = pool().map(why_broken, _encoded(base, skipped))
    source.left_out = {file: why or NONE for file, why in zip(skipped, reasons, strict=True)}
    return source


def _encoded(base: str, names: Iterable[str]) -> list[Encoded]:
    """Paths of local files, contents of those in a bucket."""
    paths = [f"{base}/{name}" for name in names]
    return list(files.read(paths)) if files.is_remote(base) else list(paths)


def _pairs(splits: Iterable[tuple[str, list[str]]]) -> Iterator[tuple[str, str]]:
    return ((base, name) for base, names in splits for name in names)


def _headers(paths: list[str]) -> dict[str, tuple[int, int, bool] | None]:
    """Return the header of each path, or of a sample if there are very many."""
    remote = files.is_remote(paths[0])
    most, enough = (REMOTE_SAMPLE, REMOTE_SAMPLE) if remote else (HEADERS, SAMPLE)
    sample = paths if len(paths) <= most else paths[:: len(paths) // enough]
    return dict(zip(sample, pool().map(header, files.read(sample) if remote else sample), strict=True))


def _shape(base: str, names: list[str], image_size: int | None, channels: int) -> tuple[int, int, int]:
    if image_size is not None:
        return image_size, image_size, channels
    images = (try_decode(_encoded(base, [name])[0], None, channels) for name in names)
    first = next((image for image in images if image is not None), None)
    if first is None:
        raise UserError(f"none of the {len(names)} images of {base} can be decoded; check the files.")
    return first.shape[0], first.shape[1], channels


def _fingerprint(base: str, names: list[str]) -> str:
    """Hash all names, and the sizes of up to ten thousand local files or a hundred remote ones, spread over them."""
    sampled = names[:: max(1, len(names) // (REMOTE_SAMPLE if files.is_remote(base) else 10_000))]
    sizes = [files.size(f"{base}/{name}") for name in sampled]
    return digest(b"\0".join(map(os.fsencode, names)), str(sizes).encode())
