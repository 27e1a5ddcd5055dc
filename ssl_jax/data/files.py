"""Files on this machine or in a bucket: whatever fsspec opens, such as `gs://`, `s3://`, `memory://` and `file://`.

A path is remote if it has `://` in it; `file://` is a local path written as an address. Several remote files are asked
for at once, where the file system can do so.
"""

import functools
import glob as local_glob
import os
import pathlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ssl_jax.core import UserError

EXTRAS = {"gs": "gcs", "gcs": "gcs", "s3": "s3"}
_READERS = 16


def is_remote(path: str) -> bool:
    """Whether a path is an address that fsspec has to open."""
    return "://" in path


def locate(path: str | os.PathLike[str], base: str | os.PathLike[str] | None = None) -> str:
    """Return an absolute address as it is, and a path below `base`, if given, with `~` expanded."""
    path, base = os.fspath(path).removeprefix("file://"), os.fspath(base or "").removeprefix("file://")
    if is_remote(path):
        return path.rstrip("/")
    if is_remote(base):
        return f"{base.rstrip('/')}/{path}".rstrip("/")
    return str(pathlib.Path(pathlib.Path(base).expanduser(), pathlib.Path(path).expanduser()))


def local(path: str | os.PathLike[str], what: str) -> pathlib.Path:
    """Return a path on this machine, with `~` expanded, of one that may be written as `file://`.

    Raises:
      UserError: it is the address of a bucket; `what` says what can't be there.
    """
    text = os.fspath(path).removeprefix("file://")
    if is_remote(text):
        raise UserError(
            f"{text} is in a bucket, and {what} must be on a disk: mount the bucket, or copy from and to it."
        )
    return pathlib.Path(text).expanduser()


def is_directory(path: str) -> bool:
    """Whether there is such a directory; in a bucket, whether there is something below that name."""
    if not is_remote(path):
        return os.path.isdir(path)
    return bool(_remote(path, "isdir"))


def directories(path: str) -> list[str]:
    """Names of the directories directly below one."""
    if not is_remote(path):
        return [entry.name for entry in os.scandir(path) if is_folder(entry)]
    return [last(entry["name"]) for entry in _remote(path, "ls", detail=True) if entry["type"] == "directory"]


def is_folder(entry: os.DirEntry) -> bool:
    """Whether a directory's entry is one itself; a link that leads back to itself is none, and left to its reader."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def walk_remote(path: str) -> Iterator[str]:
    """Yield the names of all files below a remote directory, relative to it."""
    top = _system(path)[1].rstrip("/") + "/"
    for name in _remote(path, "find"):
        yield name[len(top) :] if name.startswith(top) else name.lstrip("/")[len(top.lstrip("/")) :]


def glob(pattern: str) -> list[str]:
    """Sorted paths that a pattern with `*`, `?` or `[...]` fits; a path without these is returned if it is there."""
    if not is_remote(pattern):
        found = local_glob.glob(pattern) if local_glob.has_magic(pattern) else [pattern] * os.path.exists(pattern)
        return sorted(found)
    system = _system(pattern)[0]
    if not local_glob.has_magic(pattern):
        return [pattern] * bool(_remote(pattern, "exists"))
    return sorted(system.unstrip_protocol(name) for name in _remote(pattern, "glob"))


def state(path: str) -> str:
    """Text that changes whenever the file does: its size, and when it was written or its checksum in the bucket."""
    if not is_remote(path):
        status = os.stat(path)
        return f"{status.st_size} {status.st_mtime_ns}"
    info = _remote(path, "info")
    return " ".join(str(info.get(key, "")) for key in ("size", "etag", "ETag", "md5Hash", "mtime", "created"))


def size(path: str) -> int:
    """Bytes of a file."""
    return os.path.getsize(path) if not is_remote(path) else int(_remote(path, "info")["size"])


def open_file(path: str) -> Any:
    """Open a file, with `seek` and `read` of bytes; close it afterwards.

    Raises:
      UserError: if it can't be opened.
    """
    if is_remote(path):
        return _remote(path, "open", mode="rb")
    try:
        return open(path, "rb", buffering=0)
    except OSError as error:
        raise _unreadable(path, error) from error


def read(paths: Sequence[str]) -> list[bytes]:
    """Return the contents of remote files, empty for those that are gone.

    Raises:
      UserError: if the bucket can't be reached.
    """
    if not paths:
        return []
    system = _system(paths[0])[0]
    stripped = [system._strip_protocol(path) for path in paths]
    found = system.cat(list(dict.fromkeys(stripped)), on_error="return")
    found = found if isinstance(found, dict) else {stripped[0]: found}
    return [_content(path, found.get(name, b"")) for path, name in zip(paths, stripped, strict=True)]


def read_ranges(ranges: Sequence[tuple[str, int, int]]) -> list[bytes]:
    """Return parts of files, `(path, first byte, number of bytes)` each; all local, or all of one remote system.

    Raises:
      UserError: if a file can't be read.
    """
    if not ranges:
        return []
    if not is_remote(ranges[0][0]):
        return list(_readers().map(_read_range, ranges))
    system = _system(ranges[0][0])[0]
    paths = [system._strip_protocol(path) for path, _, _ in ranges]
    starts, ends = [start for _, start, _ in ranges], [start + length for _, start, length in ranges]
    found = system.cat_ranges(paths, starts, ends, on_error="return")
    return [_content(path, content) for (path, _, _), content in zip(ranges, found, strict=True)]


def read_text(path: str | os.PathLike[str]) -> str:
    """Return the content of a text file in UTF-8, local or remote.

    Raises:
      UserError: if it can't be read.
    """
    with open_file(locate(path)) as file:
        try:
            return file.read().decode("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise _unreadable(os.fspath(path), error) from error


def _read_range(part: tuple[str, int, int]) -> bytes:
    path, start, length = part
    try:
        with open(path, "rb", buffering=0) as file:
            return os.pread(file.fileno(), length, start)
    except OSError as error:
        raise _unreadable(path, error) from error


@functools.cache
def _readers() -> ThreadPoolExecutor:
    """Threads that wait for disks, apart from those that decode."""
    return ThreadPoolExecutor(_READERS, thread_name_prefix="ssl_jax.read")


def _system(path: str) -> tuple[Any, str]:
    """The fsspec file system of an address, and the path in it."""
    import fsspec  # none of it is needed for local files

    protocol = path.partition("://")[0]
    try:
        return fsspec.core.url_to_fs(path)
    except ImportError as error:
        extra = EXTRAS.get(protocol)
        fix = f"pip install 'ssl_jax[{extra}]'" if extra else f"install the package that fsspec asks for: {error}"
        raise UserError(f"{path} needs a package that is not installed; {fix}.") from error
    except ValueError as error:
        raise UserError(f"{path}: there is no file system {protocol}://; use gs://, s3:// or a local path.") from error


def _remote(path: str, what: str, **arguments: Any) -> Any:
    system, inside = _system(path)
    try:
        return getattr(system, what)(inside, **arguments)
    except Exception as error:  # each file system raises errors of its own
        raise _unreadable(path, error) from error


def _content(path: str, content: bytes | Exception) -> bytes:
    if isinstance(content, FileNotFoundError):
        return b""
    if isinstance(content, Exception):
        raise _unreadable(path, content) from content
    return bytes(content)


def _unreadable(path: str, error: Exception) -> UserError:
    reason = str(getattr(error, "strerror", None) or error).strip().splitlines()
    why = f"{type(error).__name__}: {reason[0]}" if reason and is_remote(path) else "".join(reason[:1]) or repr(error)
    return UserError(f"{path} can't be read ({why}); check the path{' and your access' if is_remote(path) else ''}.")


def last(path: str) -> str:
    """The last part of a path or address."""
    return path.rstrip("/").rpartition("/")[2]
