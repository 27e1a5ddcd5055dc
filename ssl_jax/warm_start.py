"""Begin with an encoder that somebody has trained before: weights of a run, of torchvision, timm or Hugging Face.

    method = warm_start(methods.byol(encoder), encoder, "resnet50.safetensors")

gives a `Method` like any other. Heads, memory and optimizer begin as they always do.
"""

import dataclasses
import os
import pathlib

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array

from ssl_jax import atomic, interop
from ssl_jax.core import Carry, Method, PyTree, UserError
from ssl_jax.data.files import local
from ssl_jax.interop.files import check_kind
from ssl_jax.nets.positions import resize

FILE = "initial_encoder"  # in a run's directory, with the suffix of the file that was given


def warm_start(
    method: Method, encoder: nn.Module, path: str | os.PathLike[str], *, prefix: str | None = None, teacher: bool = True
) -> Method:
    """The same method, whose encoder begins with the weights in a file of any of `interop.LAYOUTS`.

    Positions of a ViT are interpolated to the number of patches in the views. A parameter that only the method needs,
    such as iBOT's mask token, begins as always where the file has none.

    Args:
      method: what to train.
      encoder: the module that the method was made with.
      path: `.safetensors` or `.npz`.
      prefix: what the names in it begin with, where it holds several encoders.
      teacher: whether the method's teacher is a copy of the encoder, and begins with the same weights.

    Raises:
      UserError: there is no such file, or (from `init`) it can't be read, or is of another encoder.
    """
    path = local(path, "weights to begin with")
    check_kind(path)
    if not path.is_file():
        raise UserError(f"There is no file of weights {path} to begin with.")

    def init(rng: Array, batch: PyTree) -> tuple[PyTree, Carry]:
        params, carry = method.init(rng, batch)
        views = batch["views"][0] if isinstance(batch["views"], tuple) else batch["views"]
        shape = (*views.shape[-3:-1], channels(params["encoder"], views.shape[-1]))
        loaded, statistics = interop.load_encoder(path, encoder, shape, prefix=prefix)

        def begin(params: PyTree, state: PyTree) -> tuple[PyTree, PyTree]:
            return (
                {**params, "encoder": _fitted(loaded, params["encoder"])},
                {**state, "encoder": _fitted(statistics, state["encoder"])},
            )

        params, model_state = begin(params, carry.model_state)
        carry = carry.replace(model_state=model_state)
        if teacher and carry.teacher is not None:
            slow, slow_state = begin(carry.teacher["params"], carry.teacher["model_state"])
            carry = carry.replace(teacher={**carry.teacher, "params": slow, "model_state": slow_state})
        return params, carry

    return dataclasses.replace(method, init=init)


def channels(params: PyTree, default: int) -> int:
    """How many channels an encoder's images have, by its kernels: the first layer's are the fewest."""
    return min((x.shape[2] for x in jax.tree.leaves(params) if x.ndim == 4), default=default)


def _fitted(loaded: PyTree, like: PyTree) -> PyTree:
    """Loaded arrays with the dtypes of `like`, of which what was not loaded is kept."""
    fitted = {}
    for name, value in like.items():
        if name not in loaded:
            fitted[name] = value
        elif hasattr(value, "items"):
            fitted[name] = _fitted(loaded[name], value)
        elif name == "pos_grid":
            fitted[name] = resize(jnp.asarray(loaded[name], value.dtype), *value.shape[:2])
        else:
            fitted[name] = jnp.asarray(loaded[name], value.dtype)
    return fitted


def keep(path: str | os.PathLike[str], directory: pathlib.Path, *, begun: bool) -> None:
    """Copy the file into a run's directory; a run that has begun has it, and `ssl-jax verify` begins with it again."""
    kept = kept_file(path, directory)
    if begun and kept.is_file():
        return
    try:
        atomic.copy(local(path, "weights to begin with"), kept)
    except OSError as error:
        raise UserError(f"{path} can't be copied to {directory}: {error.strerror or error}.") from error


def kept_file(path: str | os.PathLike[str], directory: pathlib.Path) -> pathlib.Path:
    """Where a run's copy of the file is, or would be."""
    check_kind(pathlib.Path(path))
    return directory / f"{FILE}{pathlib.Path(path).suffix}"
