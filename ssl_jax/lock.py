"""One process at a time in a directory: a lock that the system lets go of when its process ends, however it ends."""

import contextlib
import errno
import fcntl
import json
import os
import pathlib
import platform
import time
from collections.abc import Callable, Iterator
from typing import IO, Any, TextIO

from ssl_jax.core import UserError

FILE = ".lock"
# What says that a file system knows no locks; EBADF is NFS's word for a file that is open for reading only.
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EBADF)


@contextlib.contextmanager
def hold(
    directory: pathlib.Path, announce: Callable[[str], None], *, what: str = "workdir", flag: str = "--workdir"
) -> Iterator[None]:
    """Keep other processes out of `directory` (made if missing) while the context lasts; messages call it `what`.

    The file `.lock` names the owner, and is empty when there is none. What counts is the system's lock on it (flock),
    which ends with the process even after kill -9: an owner without it is stale, and is taken over with a word about
    it.

    Raises:
      UserError: another process holds it, or the directory can't be written.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        file = (directory / FILE).open("a+", encoding="utf-8")
    except OSError as error:
        raise UserError(f"The {what} {directory} can't be written: {error.strerror or error}.") from error
    with file:
        free, owner = _acquire(file, announce), _read(file)
        if not free:
            raise UserError(
                f"Another run is at work in {directory} ({_words(owner)}); wait for it, stop it, or use another {flag}."
            )
        if owner:
            announce(f"A run was killed here ({_words(owner)}); its lock is taken over.")
        _write(file, {"host": platform.node(), "pid": os.getpid(), "since": time.strftime("%Y-%m-%d %H:%M:%S %z")})
        try:
            yield
        finally:
            with contextlib.suppress(OSError):  # the disk is full, or gone: the lock ends with the file anyway
                _write(file, {})


@contextlib.contextmanager
def briefly(path: pathlib.Path) -> Iterator[None]:
    """Have other processes wait while the context lasts, which is to be a moment: the system's lock on the file `path`.

    The file is made, and stays. Where the file system knows no locks, nobody waits.

    Raises:
      OSError: the file can't be made.
    """
    try:
        file: IO[bytes] = path.open("ab")
    except PermissionError:  # it is of another user, who shares the directory
        file = path.open("rb")
    with file:
        _lock(file, fcntl.LOCK_EX)
        yield


def _acquire(file: TextIO, announce: Callable[[str], None]) -> bool:
    try:
        known = _lock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    if not known:
        announce("This file system knows no locks: see to it that no second run works in the same directory.")
    return True


def _lock(file: IO[Any], how: int) -> bool:
    """Lock a file; False if the file system knows no locks."""
    try:
        fcntl.flock(file, how)
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        return False
    return True


def _read(file: TextIO) -> dict[str, Any]:
    file.seek(0)
    try:
        return json.loads(file.read())
    except json.JSONDecodeError:  # empty, or half-written
        return {}


def _write(file: TextIO, owner: dict[str, Any]) -> None:
    file.truncate(0)
    file.write(json.dumps(owner) if owner else "")
    file.flush()


def _words(owner: dict[str, Any]) -> str:
    return f"process {owner['pid']} on {owner['host']}, since {owner['since']}" if owner else "it has just begun"
