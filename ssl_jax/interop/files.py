"""Files of named arrays that run no code when read: `.safetensors` and `.npz`."""

import json
import os
import pathlib
import zipfile
import zlib
from types import ModuleType

import numpy as np

from ssl_jax import atomic
from ssl_jax.core import UserError

Arrays = dict[str, np.ndarray]
# What readers raise on files that end early, are of another kind, or whose bytes were changed.
DAMAGE = (OSError, EOFError, ValueError, KeyError, RuntimeError, zipfile.BadZipFile, zlib.error, json.JSONDecodeError)
PICKLES = (".pth", ".pt", ".bin", ".ckpt", ".tar", ".pkl", ".pickle", ".pyth")


def read(path: str | os.PathLike[str]) -> Arrays:
    """All arrays of a file by name; floats come as float32, whatever they are stored as.

    Raises:
      UserError: there is no such file, it is damaged, or of another kind (of a pickle it says how to convert it).
    """
    path = pathlib.Path(path)
    check_kind(path)
    if not path.is_file():
        raise UserError(f"There is no file of weights {path}.")
    try:
        arrays = _read_npz(path) if path.suffix == ".npz" else _read_safetensors(path)
    except DAMAGE as error:
        raise UserError(
            f"The weights {path} can't be read: {next(iter(str(error).splitlines()), '')[:200]}."
        ) from error
    # Not `np.issubdtype`, which does not count bfloat16 among the floats.
    return {name: x if x.dtype.kind in "biuSU" else x.astype(np.float32) for name, x in arrays.items()}


def check_kind(path: pathlib.Path) -> None:
    """Raise a `UserError` unless a file's name says that it is of a kind that can be read and written."""
    if path.suffix in PICKLES:
        raise UserError(
            f"{path} is a pickle, which may run any code when it is read; convert it once where torch is: "
            f"`safetensors.torch.save_file(torch.load({path.name!r}, weights_only=True), "
            f"{path.with_suffix('.safetensors').name!r})`, with what the file keeps its weights under, for example "
            "['state_dict'], after the load."
        )
    if path.suffix not in (".npz", ".safetensors"):
        raise UserError(f"Weights are read from and written to .safetensors and .npz, not {path}.")


def _read_npz(path: pathlib.Path) -> Arrays:
    data = np.load(path, allow_pickle=False)
    if isinstance(data, np.ndarray):
        raise ValueError("it is one array without a name, as `np.save` writes it, and `np.savez` does not")
    with data:
        return dict(data)


def _read_safetensors(path: pathlib.Path) -> Arrays:
    safetensors = _library()
    try:
        return safetensors.numpy.load_file(path)
    except safetensors.SafetensorError as error:
        raise ValueError(str(error)) from error


def write(path: str | os.PathLike[str], arrays: Arrays, *, metadata: dict[str, str] | None = None) -> None:
    """Write arrays by name; the file appears when it is complete.

    Args:
      path: `.safetensors` or `.npz`.
      arrays: by name.
      metadata: words for the head of a `.safetensors`; an `.npz` has no place for them.

    Raises:
      UserError: the kind of file is unknown, or it can't be written.
    """
    path = pathlib.Path(path)
    check_kind(path)
    arrays = {name: np.ascontiguousarray(x) if x.ndim else x for name, x in arrays.items()}
    try:
        with atomic.replacing(path) as file:
            if path.suffix == ".npz":
                np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
            else:
                file.write(_library().numpy.save(arrays, metadata=metadata))
    except OSError as error:
        raise UserError(f"The weights can't be written to {path}: {error.strerror or error}.") from error


def _library() -> ModuleType:
    try:
        import safetensors
        import safetensors.numpy
    except ImportError:
        raise UserError("Files of safetensors need their library: pip install 'ssl_jax[interop]'.") from None
    return safetensors
