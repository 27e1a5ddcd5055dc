"""An encoder out of a run: a file of weights for this and other libraries, read back before anybody relies on it."""

import dataclasses
import os
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from absl import flags

from ssl_jax import interop
from ssl_jax.core import PyTree, UserError
from ssl_jax.evaluate import load_run, network_of
from ssl_jax.experiment import build_encoder, normalization
from ssl_jax.interop.files import check_kind
from ssl_jax.interop.huggingface import WEIGHTS
from ssl_jax.warm_start import channels

IMAGES = 8  # that the file's encoder is compared on
LAYOUTS = ("file", "huggingface")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Exported:
    """What was written.

    Attributes:
      layout: whose names the arrays have.
      numbers: how many parameters and statistics.
      shape: height, width and channels of the images that the encoder saw.
      mean: per channel, of values in 0..1, taken off before the encoder; None is nothing.
      std: per channel, divided by afterwards; None is nothing.
    """

    layout: str
    numbers: int
    shape: tuple[int, int, int]
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None


def export(
    directory: str | pathlib.Path,
    out: str | os.PathLike[str],
    *,
    encoder: str = "student",
    step: int | None = None,
    own: bool = False,
    layout: str = "file",
) -> Exported:
    """Write the encoder of a run, and compare what is read again with what the run gives on training images.

    Args:
      directory: workdir of the run, which is only read.
      out: `.safetensors` or `.npz`; for Hugging Face a directory.
      encoder: "student" or "teacher".
      step: which checkpoint, the newest by default.
      own: keep the library's own names, where torchvision or timm have names for such an encoder.
      layout: "file", as `interop.save_encoder` does, or "huggingface", as `interop.save_huggingface` does.

    Raises:
      UserError: no such run, step or encoder, or a file that can't be written or does not give the same features.
    """
    out = pathlib.Path(out)
    weights = _prepared(out, layout, own)
    experiment, state, _ = load_run(directory, step=step)
    network = network_of(experiment, state, encoder)
    count = min(IMAGES, len(experiment.source))
    image = experiment.prepare(experiment.source[np.arange(count)]["image"])
    shape = (*image.shape[1:3], channels(network.params, image.shape[3]))
    encoder_alone = build_encoder(experiment.config)  # also where the method puts something before it
    variables = encoder_alone, network.params, network.state
    if layout == "huggingface":
        title = interop.save_huggingface(out, *variables, shape)
    else:
        title = interop.save_encoder(weights, *variables, own=own, image_shape=shape)
    params, model_state = interop.load_encoder(weights, encoder_alone, shape)

    @jax.jit
    def features(params: PyTree, model_state: PyTree) -> jax.Array:
        """As everything else that looks at the run sees them."""
        carry = state.carry.replace(model_state={**state.carry.model_state, "encoder": model_state})
        of_encoder = {**state.params["encoder"], **params}  # with what only the method's loss reads
        return experiment.method.encode({**state.params, "encoder": of_encoder}, carry, image)[0]

    if not np.array_equal(features(params, model_state), features(network.params, network.state)):
        raise UserError(f"{out} does not give the features of the run when it is read again; don't use it.")
    return Exported(
        layout=title,
        numbers=sum(x.size for x in jax.tree.leaves((params, model_state))),
        shape=shape,
        **normalization(experiment.config.normalize, experiment.source),
    )


def _prepared(out: pathlib.Path, layout: str, own: bool) -> pathlib.Path:
    """The file for the weights, in a directory that is there."""
    if layout not in LAYOUTS:
        raise UserError(f"--layout={layout} is unknown; choose one of {', '.join(LAYOUTS)}.")
    if layout == "huggingface" and own:
        raise UserError("--own keeps this library's names and --layout=huggingface needs theirs; leave one out.")
    if layout == "huggingface" and (out.suffix in (".npz", ".safetensors") or out.is_file()):
        raise UserError(f"--layout=huggingface writes a directory, and --out={out} is a file; name a directory.")
    weights = out / WEIGHTS if layout == "huggingface" else out
    check_kind(weights)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"The weights can't be written to {out}: {error.strerror or error}.") from error
    return weights


def summary(made: Exported, out: str | os.PathLike[str]) -> str:
    """What was written, in words, with how images have to be prepared for it."""
    h, w, c = made.shape
    scale = "" if made.mean is None else f", less the mean {made.mean}, divided by the deviation {made.std}"
    return (
        f"Wrote {made.numbers:,} numbers to {out}, under the names of {made.layout}. Read again, they give the same "
        f"features. The encoder saw {h} x {w} images of {c} channel(s), values in 0..1{scale}; channels last here, "
        "first in torch."
    )


def define(values: flags.FlagValues) -> None:
    """Define the flags of `ssl-jax export`, besides those of all commands that read a run."""
    flags.DEFINE_string("out", None, "File to write, .safetensors or .npz; or a directory.", flag_values=values)
    flags.DEFINE_enum("encoder", "student", ["student", "teacher"], "Which one.", flag_values=values)
    flags.DEFINE_integer("step", None, "Checkpoint; the newest by default.", flag_values=values)
    flags.DEFINE_enum(
        "layout",
        "file",
        LAYOUTS,
        "One file for torchvision or timm, or a directory for `from_pretrained`.",
        flag_values=values,
    )
    flags.DEFINE_bool("own", False, "Keep this library's names, and not torchvision's or timm's.", flag_values=values)


def command(values: flags.FlagValues, say: Callable[[str], None]) -> None:
    """Do what the command line says."""
    names = ("encoder", "step", "own", "layout", "workdir", "out")
    given: dict[str, Any] = {name: values[name].value for name in names}
    directory, out = given.pop("workdir"), given.pop("out")
    say(summary(export(directory, out, **given), out))
