"""An encoder's variables from and to files of weights, with every shape checked."""

import math
import os
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from ssl_jax import nets
from ssl_jax.core import PyTree, UserError
from ssl_jax.interop import files
from ssl_jax.interop.files import Arrays
from ssl_jax.interop.layouts import LAYOUTS, Layout, Path, is_square, timm_can_hold, timm_join
from ssl_jax.nets import functional
from ssl_jax.nets.positions import sincos

SHOWN = 3  # mismatches that a message names
CLOSE = 1e-5  # of sines and cosines that were computed in float32


def load_encoder(
    path: str | os.PathLike[str], module: nn.Module, image_shape: tuple[int, int, int], *, prefix: str | None = None
) -> tuple[PyTree, PyTree]:
    """Read an encoder's variables, under any of `LAYOUTS`; returns `(params, model_state)`, float32 numpy arrays.

    Args:
      path: `.safetensors` or `.npz`.
      module: the encoder, with the fields that the weights were trained with.
      image_shape: height, width and channels that it will see. A ViT's positions may be of another grid: they are
        interpolated when the module runs. Others' files only tell their number, which is taken for a square where it
        can be one, and else for the grid of `image_shape`.
      prefix: what their names begin with, for example "module.encoder_q."; found by itself where there is only one.

    DINOv2's layer scales are folded into the layers before them. Classifiers are left alone, see `load_head`.

    Raises:
      UserError: the file can't be read, its layout is unknown or of another kind of encoder, or shapes differ.
    """
    layout, arrays, _ = _recognise(path, prefix)
    if not isinstance(module, layout.module):
        raise UserError(f"{path} holds {layout.title}, but the encoder is a {type(module).__name__}.")
    arrays = layout.canonical(arrays)
    if isinstance(module, nets.ViT) and module.pos == "sincos" and "pos_embed[1:]" in arrays:
        arrays = _without_fixed_positions(path, arrays, module, image_shape)
    found, wrong = {}, []
    for place, like in _shapes(module, image_shape).items():
        name = layout.name(place)
        value = arrays.pop(name, None)
        if value is None:
            wrong.append(f"{name} is missing")
            continue
        value = _to_ours(value, place, like.shape, own=layout is LAYOUTS["ssl_jax"])
        free = value.ndim - 1 if place[-1] == "pos_grid" else 0  # positions are interpolated
        if value.ndim != len(like.shape) or value.shape[free:] != like.shape[free:]:
            wrong.append(f"{name} gives {list(value.shape)}, where the encoder has {list(like.shape)}")
        found[place] = value
    wrong += [f"{name} has no place in the encoder" for name in arrays if _belongs(name)]
    if wrong:
        more = f"; and {len(wrong) - SHOWN} more" if len(wrong) > SHOWN else ""
        raise UserError(
            f"The weights in {path} are of another shape than the encoder: {'; '.join(wrong[:SHOWN])}{more}. "
            "Build the encoder as it was trained."
        )
    tree = traverse_util.unflatten_dict(found)
    return tree.pop("params"), tree


def load_head(path: str | os.PathLike[str], *, prefix: str | None = None) -> dict[str, np.ndarray] | None:
    """Read the linear classifier on top of an encoder: `{"kernel": [d c], "bias": [c]}`, or None if there is none."""
    layout, arrays, rest = _recognise(path, prefix)
    if layout is LAYOUTS["ssl_jax"]:
        found = {name: arrays[f"head/{name}"] for name in ("kernel", "bias") if f"head/{name}" in arrays}
        return found or None
    both = rest | arrays  # Hugging Face's classifier stands beside the prefix and not behind it
    weight = both.get(f"{layout.head}.weight")
    if weight is None or weight.ndim != 2:
        return None
    return {"kernel": weight.T.copy(), "bias": both.get(f"{layout.head}.bias", np.zeros(len(weight), np.float32))}


def save_encoder(
    path: str | os.PathLike[str],
    module: nn.Module,
    params: PyTree,
    model_state: PyTree,
    *,
    head: dict[str, Any] | None = None,
    own: bool = False,
    image_shape: tuple[int, int, int] | None = None,
) -> str:
    """Write an encoder for others to read; returns the title of the layout.

    A `ResNet` with batch norm gets torchvision's names and a `ViT` timm's; anything else keeps its own, and so does a
    grid of positions that timm's file would have taken for a square (2 x 8 for 4 x 4).

    Args:
      path: `.safetensors` or `.npz`.
      module: the encoder.
      params: its parameters.
      model_state: its batch statistics.
      head: a linear classifier to go with it, `{"kernel": [d c], "bias": [c]}`.
      own: keep the module's own names in any case.
      image_shape: height, width and channels that it saw. timm's file holds sine-cosine positions as if they were
        learned, and their grid follows from it: without, a ViT with `pos="sincos"` keeps its own names.

    Raises:
      UserError: the file can't be written, or is of another kind.
    """
    theirs = None if own else in_torch(module, params, model_state, image_shape)
    own = theirs is None
    layout, arrays = theirs or (LAYOUTS["ssl_jax"], _named(LAYOUTS["ssl_jax"], params, model_state))
    if head is not None:
        kernel, bias = np.asarray(head["kernel"]), np.asarray(head["bias"])
        arrays |= {"head/kernel": kernel, "head/bias": bias} if own else {}
        arrays |= {} if own else {f"{layout.head}.weight": kernel.T, f"{layout.head}.bias": bias}
    files.write(path, arrays)
    return layout.title


def in_torch(
    module: nn.Module, params: PyTree, model_state: PyTree, image_shape: tuple[int, int, int] | None = None
) -> tuple[Layout, Arrays] | None:
    """An encoder's arrays as torchvision or timm have them, or None where they can't, see `save_encoder`."""
    if isinstance(module, nets.ResNet) and module.norm == "batch":
        return LAYOUTS["torchvision"], _named(LAYOUTS["torchvision"], params, model_state)
    if not isinstance(module, nets.ViT) or (module.pos == "sincos" and image_shape is None):
        return None
    if module.pos == "sincos" and image_shape is not None:
        grid = sincos(image_shape[0] // module.patch, image_shape[1] // module.patch, module.dim)
        params = {**params, "pos_cls": np.zeros(module.dim, np.float32), "pos_grid": grid}
    if not timm_can_hold(params["pos_grid"].shape[:2]):
        return None
    return LAYOUTS["timm"], timm_join(_named(LAYOUTS["timm"], params, model_state))


def _named(layout: Layout, params: PyTree, model_state: PyTree) -> Arrays:
    variables = traverse_util.flatten_dict({"params": params, **model_state})
    own = layout is LAYOUTS["ssl_jax"]
    return {layout.name(place): _to_theirs(np.asarray(x), place, own=own) for place, x in variables.items()}


def _without_fixed_positions(
    path: str | os.PathLike[str], arrays: Arrays, module: nets.ViT, image_shape: tuple[int, int, int]
) -> Arrays:
    """Leave positions out that the encoder computes by itself; others' files keep them beside what was trained."""
    height, width = (side // module.patch for side in image_shape[:2])
    n = len(arrays["pos_embed[1:]"])
    if is_square(n):
        height = width = math.isqrt(n)  # as for learned positions: of another size of image
    fixed = sincos(height, width, module.dim).reshape(-1, module.dim)
    for name, value in (("pos_embed[0]", np.zeros(module.dim)), ("pos_embed[1:]", fixed)):
        if arrays[name].shape != value.shape or not np.allclose(arrays[name], value, rtol=0, atol=CLOSE):
            raise UserError(
                f'The positions in {path} (pos_embed) are not those that an encoder with pos="sincos" computes for '
                f'{height} x {width} patches of width {module.dim}; build it with pos="learned" to read them.'
            )
    return {name: x for name, x in arrays.items() if not name.startswith("pos_embed")}


def _recognise(path: str | os.PathLike[str], prefix: str | None) -> tuple[Layout, Arrays, Arrays]:
    """The layout of a file, its arrays with the prefix taken off, and those that have no such prefix."""
    arrays = files.read(path)
    if any(name.startswith("params/") for name in arrays):
        return LAYOUTS["ssl_jax"], arrays, {}
    for layout in LAYOUTS.values():
        ends = [name.removesuffix(layout.anchor) for name in arrays if name.endswith(layout.anchor)]
        prefixes = [p for p in ends if (not p or p.endswith(".")) and prefix in (None, p)]
        if len(prefixes) > 1:
            raise UserError(f"{path} holds several encoders; choose one by its prefix: {', '.join(sorted(prefixes))}.")
        if prefixes:
            own = {n.removeprefix(prefixes[0]): x for n, x in arrays.items() if n.startswith(prefixes[0])}
            return layout, own, {n: x for n, x in arrays.items() if not n.startswith(prefixes[0])}
    known = ", ".join(f"{layout.title} ({layout.anchor})" for layout in LAYOUTS.values())
    here = f" with the prefix {prefix!r}" if prefix else ""
    raise UserError(
        f"The layout of {path}{here} is unknown; its names begin with {', '.join(list(arrays)[:SHOWN]) or 'none'}, and "
        f"known layouts are {known}."
    )


def _shapes(module: nn.Module, image_shape: tuple[int, int, int]) -> dict[Path, jax.ShapeDtypeStruct]:
    image = jnp.zeros((2, *image_shape), jnp.float32)
    params, state = jax.eval_shape(lambda: functional.init(module, jax.random.key(0), image))
    return traverse_util.flatten_dict({"params": params, **state})


def _belongs(name: str) -> bool:
    """Whether an array that found no place is part of the encoder, and not of a head or of torch's bookkeeping."""
    parts = (
        "layer1.",
        "layer2.",
        "layer3.",
        "layer4.",
        "blocks.",
        "pos_embed",
        "reg_token",
        "register_tokens",
        "embeddings.reg",
        "params/",
        "batch_stats/",
    )
    return name.startswith(parts) and not name.endswith(("num_batches_tracked", "relative_position_index"))


def _to_ours(value: np.ndarray, place: Path, shape: tuple[int, ...], *, own: bool) -> np.ndarray:
    """Torch's order of axes to flax's; tokens lose their axes of length 1, positions get a grid."""
    if own:
        return value
    if place[-1] == "pos_grid":
        side = math.isqrt(len(value))
        grid = (side, side) if side**2 == len(value) else shape[:2]  # the file doesn't say, and most are square
        return value.reshape(*grid, -1) if math.prod(grid) == len(value) else value
    if place[-1] in ("cls", "mask_token"):
        return value.reshape(-1)
    if value.ndim == 4:
        return value.transpose(2, 3, 1, 0)
    return value.T if value.ndim == 2 else value


def _to_theirs(value: np.ndarray, place: Path, *, own: bool) -> np.ndarray:
    if own or place[-1] == "pos_grid":
        return value
    if place[-1] == "cls":
        return value[None, None]
    if value.ndim == 4:
        return value.transpose(3, 2, 0, 1)
    return value.T if value.ndim == 2 else value
