"""Images that are chosen by a list of their ids: file names, or row numbers where there are none."""

import collections
import os
import pathlib
from collections.abc import Iterable

import numpy as np
from jaxtyping import Int

from ssl_jax.core import UserError
from ssl_jax.data import files
from ssl_jax.data.source import Source


def rows_named(source: Source, names: str | os.PathLike[str] | Iterable[str]) -> Int[np.ndarray, " m"]:
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
            f"{source.name}, {_left_out(source, missing[0]) or f'whose files are named like {source.files[0]}'}."
        )
    several = next((i for i, rows in enumerate(found) if len(rows) > 1), None)
    if several is not None:
        first, second, *_ = found[several]
        raise UserError(
            f"The name {wanted[several]} on the list fits both {source.files[first]} and {source.files[second]}; write "
            "the folder before it."
        )
    return np.asarray([rows[0] for rows in found])


def rows_listed(source: Source, path: str | os.PathLike[str]) -> Int[np.ndarray, " m"]:
    """Rows of the images whose ids are on a list: file names where there are such, else row numbers from 0.

    Args:
      source: any images.
      path: of a text file with one id a line.

    Raises:
      UserError: see `rows_named`; or an id is no row number, or beyond the images that there are.
    """
    if source.files is not None:
        return rows_named(source, path)
    wanted = _read(path)
    wrong = [text for text in wanted if not (text.isdecimal() and int(text) < len(source))]
    if wrong or not wanted:
        such = (
            f"{len(wrong)} of the {len(wanted)} in {path} are none, such as {wrong[0]}" if wrong else f"{path} is empty"
        )
        raise UserError(
            f"{source.name} has no file names, so its ids are row numbers from 0 to {len(source) - 1}, one a line, but "
            f"{such}."
        )
    return np.asarray([int(text) for text in wanted])


def _left_out(source: Source, name: str) -> str:
    """Why a file that a name fits was left out, if one was."""
    parts = pathlib.PurePath(name).parts
    found = (why for file, why in source.left_out.items() if pathlib.PurePath(file).parts[-len(parts) :] == parts)
    return "".join(f"which leaves it out ({why}): take it off the list, or mend the file" for why in list(found)[:1])


def _read(path: str | os.PathLike[str]) -> list[str]:
    try:
        text = files.read_text(path)
    except UserError as error:
        raise UserError(f"The list of file names {error}") from error
    lines = text.removeprefix("\ufeff").splitlines()  # Windows' editors mark UTF-8 so
    return [line.strip() for line in lines if line.strip()]
