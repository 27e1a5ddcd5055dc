"""What is in a tar shard, as WebDataset writes them: images, and labels beside them under the same name.

The example `n01/0007.jpg` has its label in `n01/0007.cls`, a number or a word, or in `n01/0007.json`, under `label` or
`cls`. All other members are ignored, pickles and numpy arrays among them.
"""

import dataclasses
import json
import os
import pathlib
import re
import time
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np

from ssl_jax.core import UserError
from ssl_jax.data import archive, files
from ssl_jax.data.source import digest
from ssl_jax.data.tree import SUFFIXES

SLOW = 0.2  # seconds of reading headers from which on the result is kept for the next time
_LONGEST = 1 << 20  # bytes of a label or of JSON that are read


@dataclasses.dataclass(frozen=True)
class Shard:
    """The images of one tar file.

    Attributes:
      path: of the tar file.
      names: of the images in it, in its order.
      offsets: first byte of each image in the file.
      sizes: bytes of each image.
      labels: of each image, as text; None where there is none.
      state: changes whenever the file does.
    """

    path: str
    names: list[str]
    offsets: list[int]
    sizes: list[int]
    labels: list[str | None]
    state: str


def expand(pattern: str) -> list[str]:
    """Return the paths of `shards-{000..009}.tar`, `{a,b}.tar` or `shards-*.tar`; none if nothing fits.

    Raises:
      UserError: if braces name files some of which are there and others not.
    """
    found = {path: files.glob(path) for path in _braces(pattern)}
    missing = [path for path, there in found.items() if not there]
    if 0 < len(missing) < len(found):
        raise UserError(f"{len(missing)} of {len(found)} shards of tar:{pattern} are missing, such as {missing[0]}.")
    return [path for there in found.values() for path in there]


def scan(file: Any, path: str, state: str) -> Shard:
    """Read the headers and labels of an open shard."""
    images: list[archive.Member] = []
    labels: dict[str, str] = {}
    for member in archive.members(file, path, stop=files.size(path)):
        key, kind = _key(member.name)
        if ("." + kind).endswith(SUFFIXES):
            images.append(member)
        elif kind in ("cls", "json") and member.size <= _LONGEST:
            file.seek(member.offset)
            label = _label(file.read(member.size), kind)
            if label is not None:
                labels[key] = label
    return Shard(
        path,
        [image.name for image in images],
        [image.offset for image in images],
        [image.size for image in images],
        [labels.get(_key(image.name)[0]) for image in images],
        state,
    )


def read(path: str, scan: Callable[[Any, str, str], Shard] = scan) -> Shard:
    """Read a shard's headers and labels; what took long is kept in the user's cache directory, without its images.

    Args:
      path: of the tar file.
      scan: reads the open file, whose path and state it is given.

    Raises:
      UserError: if it can't be read, or is no plain and whole tar file.
    """
    state = files.state(path)
    kept = _cache() / f"{digest(path.encode('utf-8', 'surrogateescape'), state.encode())}.npz"
    found = _load(kept, path, state)
    if found is not None:
        return found
    begin = time.monotonic()
    with files.open_file(path) as file:
        found = scan(file, path, state)
    if time.monotonic() - begin > SLOW:
        _save(kept, found)
    return found


def example(name: str) -> str:
    """What the names of all members of an example begin with, up to the first dot."""
    return _key(name)[0]


def _key(name: str) -> tuple[str, str]:
    """`a.b/0007.left.JPG` -> `("a.b/0007", "left.jpg")`."""
    directory, slash, base = name.rpartition("/")
    stem, _, kind = base.partition(".")
    return directory + slash + stem, kind.lower()


def _label(content: bytes, kind: str) -> str | None:
    text = content.decode("utf-8", "replace").strip()
    if kind == "cls":
        return text or None
    try:
        record: Any = json.loads(text)
    except (ValueError, RecursionError):
        return None
    label = record.get("label", record.get("cls")) if isinstance(record, dict) else None
    return str(label) if isinstance(label, str | int) and not isinstance(label, bool) else None


def _braces(pattern: str) -> list[str]:
    """Expand the first `{000..009}` or `{a,b}` and then the others; what is neither stays as it is."""
    for found in re.finditer(r"\{(?:(\d+)\.\.(\d+)|([^{}]*,[^{}]*))\}", pattern):
        first, last, words = found.groups()
        if words is None and int(last) < int(first):
            raise UserError(f"{found[0]} in {pattern} counts down; write {{{last}..{first}}}.")
        chosen = words.split(",") if words is not None else _numbers(first, last)
        return [path for word in chosen for path in _braces(pattern[: found.start()] + word + pattern[found.end() :])]
    return [pattern]


def _numbers(first: str, last: str) -> list[str]:
    return [str(number).zfill(len(first)) for number in range(int(first), int(last) + 1)]


def _cache() -> pathlib.Path:
    base = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    return pathlib.Path(base) / "ssl_jax" / "tar"


def _save(kept: pathlib.Path, shard: Shard) -> None:
    """Write a shard's members for the next time; a directory that can't be written to is no reason to stop."""
    text = json.dumps([shard.names, shard.labels]).encode()  # JSON also for names that are no UTF-8
    temporary = kept.with_suffix(f".{os.getpid()}")
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            np.savez(file, text=np.frombuffer(text, np.uint8), offsets=shard.offsets, sizes=shard.sizes)
        os.replace(temporary, kept)
    except OSError:
        temporary.unlink(missing_ok=True)


def _load(kept: pathlib.Path, path: str, state: str) -> Shard | None:
    try:
        with open(kept, "rb") as file, np.load(file, allow_pickle=False) as arrays:
            names, labels = json.loads(arrays["text"].tobytes())
            return Shard(path, names, arrays["offsets"].tolist(), arrays["sizes"].tolist(), labels, state)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):  # not there, or damaged: read it again
        return None
