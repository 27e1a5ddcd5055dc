"""Files that are whole at any time: written beside their place, brought to the disk, and only then put there."""

import contextlib
import os
import pathlib
import shutil
from collections.abc import Iterator
from typing import BinaryIO


@contextlib.contextmanager
def replacing(path: pathlib.Path, *, suffix: str = ".part") -> Iterator[BinaryIO]:
    """A file to write to that takes the place of `path` at the end, and does not if there is an error.

    Not every file system brings what a file holds to the disk before its new name, so that after a loss of power the
    name could stand for an empty file; hence the `fsync`.

    Args:
      path: the file to make or to replace.
      suffix: of the draft's name; one of its own for each process where several may write at once.

    Raises:
      OSError: it can't be written.
    """
    draft = path.with_name(path.name + suffix)
    try:
        with draft.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)  # half of it takes room on a full disk


def write_text(path: pathlib.Path, text: str, *, suffix: str = ".part") -> None:
    """Write a file as a whole, see `replacing`."""
    with replacing(path, suffix=suffix) as file:
        file.write(text.encode())


def copy(source: str | os.PathLike[str], path: str | os.PathLike[str]) -> None:
    """Copy a file as a whole, see `replacing`; also for `shutil.copytree`."""
    with open(source, "rb") as original, replacing(pathlib.Path(path)) as file:
        shutil.copyfileobj(original, file)
