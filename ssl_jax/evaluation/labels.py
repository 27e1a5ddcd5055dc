"""Which training images keep their labels: a share of each class, or those on a list of file names."""

import collections
import os
import pathlib
from collections.abc import Iterable

import numpy as np
from jaxtyping import Int

from ssl_jax import data
from ssl_jax.core import UserError


def labels_of(source: data.Source) -> Int[np.ndarray, " n"]:
    """The labels of all images; a `UserError` if there are none."""
    labels = source.labels
    if labels is None:
        raise UserError(f"{source.name} has no labels; for folders, one folder per class gives them.")
    return labels


def count_classes(train: data.Source, test: data.Source) -> int:
    """Number of classes of two labelled sources, which must name them alike.

    Raises:
      UserError: one of them has no labels, or other classes.
    """
    highest = [int(labels_of(source).max()) for source in (train, test)]
    classes = len(train.classes) if train.classes else highest[0] + 1
    named = train.classes is not None and test.classes is not None and train.classes != test.classes
    if named or highest[1] >= classes:
        raise UserError(f"{train.name} and {test.name} have different classes, so one can't be scored on the other.")
    return classes


def draw_share(labels: Int[np.ndarray, " n"], *, share: float, seed: int = 0, trial: int = 0) -> Int[np.ndarray, " m"]:
    """Rows of a random share of each class's examples, rounded, at least one of each class that has any.

    A function of (seed, share, trial) and the labels. Differs from the lists that SimCLR published for ImageNet's 1 %
    (about 13 of each class) in which images are drawn; with these lists use `rows_named`.

    Args:
      labels: classes, counted from 0.
      share: above 0, at most 1.
      seed: of the draw.
      trial: number of the draw.

    Raises:
      UserError: a share out of its range.
    """
    if not 0.0 < share <= 1.0:
        raise UserError(f"`share` of the labels must be above 0 and at most 1 (0.01 for 1 %), but is {share}.")
    rng = np.random.default_rng((seed, round(share * 1e6), trial))
    rows = []
    for label in np.unique(labels):
        of_class = np.flatnonzero(labels == label)
        rows.append(rng.choice(of_class, max(round(share * len(of_class)), 1), replace=False))
    return np.concatenate(rows)


def rows_named(source: data.Source, names: str | os.PathLike[str] | Iterable[str]) -> Int[np.ndarray, " m"]:
    """Rows of the images on a list of file names, in the list's order.

    A name fits a file if it is the end of the file's path: `n01440764_10026.JPEG`, as in SimCLR's published lists of
    ImageNet's 1 % and 10 %, fits `n01440764/n01440764_10026.JPEG`.

    Args:
      source: images that are files (`Source.files`).
      names: the names, or the path of a text file with one a line.

    Raises:
      UserError: the images are no files, the list can't be read or is empty, or a name fits no file or several.
    """
    if source.files is None:
        raise UserError(f"{source.name} has no file names, so a list of names can't choose from it; use `per_class`.")
    wanted = _read(names) if isinstance(names, str | os.PathLike) else [str(name) for name in names]
    if not wanted:
        raise UserError("The list of file names is empty.")
    parts = [pathlib.PurePath(name).parts for name in wanted]
    lengths = {len(part) for part in parts}
    ends: dict[tuple[str, ...], list[int]] = collections.defaultdict(list)
    for row, file in enumerate(source.files):
        path = pathlib.PurePath(str(file)).parts
        for length in lengths:
            ends[path[-length:]].append(row)
    found = [ends.get(part, []) for part in parts]
    missing = [name for name, rows in zip(wanted, found, strict=True) if not rows]
    if missing:
        raise UserError(
            f"{len(missing)} of the {len(wanted)} file names on the list, such as {missing[0]}, are not in "
            f"{source.name}, whose files are named like {source.files[0]}."
        )
    several = next((i for i, rows in enumerate(found) if len(rows) > 1), None)
    if several is not None:
        first, second, *_ = found[several]
        raise UserError(
            f"The name {wanted[several]} on the list fits both {source.files[first]} and {source.files[second]}; write "
            "the folder before it."
        )
    return np.asarray([rows[0] for rows in found])


def _read(path: str | os.PathLike[str]) -> list[str]:
    try:
        text = pathlib.Path(path).expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"The list of file names {path} can't be read: {error}.") from error
    return [line.strip() for line in text.splitlines() if line.strip()]
