"""An encoder of one's own on the command line: a class or a function in the config's file, named by `config.encoder`.

Only the file that the user names with `--config` is run. A workdir keeps the encoder's name, the file's and a digest of
it as text, so that commands that read a workdir can say which flag they need; none looks for the file by itself.
"""

import contextlib
import contextvars
import hashlib
import importlib.resources
import importlib.util
import pathlib
import sys
from collections.abc import Callable, Iterator
from typing import Any

from ssl_jax import nets
from ssl_jax.core import UserError

_origin: contextvars.ContextVar[dict[str, str] | None] = contextvars.ContextVar("origin", default=None)


def origin(encoder: str) -> dict[str, str] | None:
    """The file that an encoder comes from and its digest, for the record of a run; None if it is the library's."""
    return None if encoder in nets.NAMES else _origin.get()


@contextlib.contextmanager
def known(path: str | None, encoder: str) -> Iterator[None]:
    """While the context lasts, an encoder's name that is not the library's means what a config's file has under it.

    Args:
      path: of the file, as the user gave it to `--config`; None if there was none.
      encoder: `config.encoder`.

    Raises:
      UserError: the file can't be read or run, or has nothing under that name.
    """
    if nets.is_known(encoder) or path is None or _is_packaged(file := pathlib.Path(path.partition(":")[0])):
        yield
        return
    token = _origin.set({"file": str(file), "digest": _digest(file)})
    try:
        with nets.own(**{encoder: _from_file(file, encoder)}):
            yield
    finally:
        _origin.reset(token)


def check_known(record: dict[str, Any]) -> None:
    """Raise a `UserError` that names the flag, if the encoder of a run's record is not known here."""
    encoder, came_from = record["config"]["encoder"], record.get("encoder_file") or {}
    if not nets.is_known(encoder):
        raise UserError(
            f"The run has an encoder of your own, {encoder}, and a workdir never says what code to run: add "
            f"--config={came_from.get('file', 'FILE.py')}, the file that has it."
        )


def _is_packaged(file: pathlib.Path) -> bool:
    return file.suffix != ".py" or file.parent == pathlib.Path(str(importlib.resources.files("ssl_jax.configs")))


def _digest(file: pathlib.Path) -> str:
    try:
        return hashlib.sha256(file.read_bytes()).hexdigest()[:16]
    except OSError as error:
        raise UserError(f"The config file {file} can't be read: {error.strerror or error}.") from error


def _from_file(file: pathlib.Path, name: str) -> Callable[..., Any]:
    """What a Python file has under a name, after it was run."""
    spec = importlib.util.spec_from_file_location(f"ssl_jax_own_{file.stem}", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # flax looks types up there while it makes a class
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # the user's own code, which may raise anything
        raise UserError(f"Running {file} failed: {type(error).__name__}: {error}.") from error
    found = getattr(module, name, None)
    if not callable(found):
        raise UserError(
            f"There is no encoder {name!r}: it is none of {', '.join(nets.NAMES)}, and {file} has no class or function "
            "of that name."
        )
    return found
