"""Transfer: one encoder over several data sets, by linear probe on its features and by fine-tuning."""

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from jax.sharding import Mesh

from ssl_jax import data
from ssl_jax.core import Carry, Method, PyTree, TrainState, UserError
from ssl_jax.data.lazy import LazySource
from ssl_jax.evaluation.features import embed, to_float
from ssl_jax.evaluation.finetune import DEFAULT, fine_tune
from ssl_jax.evaluation.labels import count_classes, labels_of
from ssl_jax.evaluation.linear import linear_probe
from ssl_jax.evaluation.pretrained import check_fits
from ssl_jax.evaluation.tuning import FineTuning
from ssl_jax.methods import supervised
from ssl_jax.sharding import data_mesh
from ssl_jax.train_step import Views

PROTOCOLS = ("linear", "finetune")
Pair = tuple[data.Source, data.Source]


def fitted(source: data.Source, *, size: int, channels: int) -> data.Source:
    """The images at another size and number of channels; the source itself if they are so already.

    The shorter side is resized and the centre cropped to a square; grey is repeated for three channels, and colour
    becomes its luma for one.
    """
    if source[np.arange(1)]["image"].shape[1:] == (size, size, channels):
        return source
    return LazySource(
        np.arange(len(source)),
        lambda rows: (list(source[rows]["image"]), None),
        labels=source.labels,
        classes=source.classes,
        shape=(size, size, channels),
        image_size=size,
        name=source.name,
        fingerprint=lambda: source.fingerprint,
    ).settle()


def transfer(
    encoder: nn.Module,
    params: PyTree,
    state: PyTree,
    sets: Sequence[str | Pair],
    *,
    size: int,
    channels: int,
    protocols: Sequence[str] = PROTOCOLS,
    splits: tuple[str, str] = ("train", "test"),
    recipe: FineTuning = DEFAULT,
    scratch: FineTuning | None = None,
    prepare: Callable[[jax.Array], jax.Array] = to_float,
    views: Views | None = None,
    seed: int = 0,
    mesh: Mesh | None = None,
) -> list[dict[str, Any]]:
    """Linear probe and fine-tuning of one encoder on each of several data sets.

    SimCLR (arXiv 2002.05709, section 6) and BYOL report such tables over twelve sets, where they choose rate and decay
    for each on its validation images and some sets are scored per class; here the recipe is one, and the score the
    share of images that are right.

    Args:
      encoder: with `params` and `state`, as for `fine_tune`.
      params: pretrained parameters.
      state: pretrained batch statistics.
      sets: names for `data.load`, or pairs of training and test images.
      size: side of the images that the encoder was trained on, to which all are brought.
      channels: 1 or 3, likewise.
      protocols: of "linear" (`linear_probe` on pooled features) and "finetune" (`fine_tune`).
      splits: of the data sets that are names, for training and test.
      recipe: of the fine-tuning.
      scratch: trains from random weights by this recipe in place of fine-tuning (`from_scratch`), which the parameters
        of an untrained encoder are compared by; they are for the linear probe alone then.
      prepare: see `fine_tune`.
      views: see `fine_tune`.
      seed: of everything.
      mesh: devices.

    Returns:
      One dict per data set in order: `{"data": name, "examples", "classes", "linear": {"accuracy", ...},
      "finetune": {"accuracy", "ema_accuracy", "steps"}}`, or `{"data": name, "error": sentence}` where something was
      wrong with it; the others are evaluated all the same.

    Raises:
      UserError: no such protocol, or the parameters do not fit the encoder.
    """
    unknown = [name for name in protocols if name not in PROTOCOLS]
    if unknown:
        raise UserError(f"There is no protocol {unknown[0]!r} in a transfer; there is {', '.join(PROTOCOLS)}.")
    mesh = mesh or data_mesh()
    check_fits(
        encoder, params, state, jax.eval_shape(prepare, jax.ShapeDtypeStruct((1, size, size, channels), np.uint8))
    )
    method, trained = frozen(encoder, params, state)

    def load(one: str | Pair) -> Pair:
        if isinstance(one, str):
            train, test = (data.load(one, split, image_size=size, channels=channels) for split in splits)
        else:
            train, test = (fitted(source, size=size, channels=channels) for source in one)
        return train, test

    def evaluate(train: data.Source, test: data.Source) -> dict[str, Any]:
        row: dict[str, Any] = {"examples": len(train), "classes": count_classes(train, test)}
        if "linear" in protocols:
            features = [embed(method, trained, source, prepare=prepare, mesh=mesh) for source in (train, test)]
            row["linear"] = linear_probe(features[0], labels_of(train), features[1], labels_of(test), seed=seed)
        if "finetune" in protocols:
            begin = (params, state) if scratch is None else (None, None)
            how = scratch or recipe
            found = fine_tune(
                encoder, begin[0], begin[1], train, test, recipe=how, prepare=prepare, views=views, seed=seed, mesh=mesh
            )
            row["finetune"] = {
                "accuracy": found.accuracy,
                "ema_accuracy": found.ema_accuracy,
                "steps": found.steps,
            }
        return row

    rows = []
    for one in sets:
        name = one if isinstance(one, str) else one[0].name
        try:
            rows.append({"data": name, **evaluate(*load(one))})
        except (UserError, OSError) as error:
            rows.append({"data": name, "error": str(error)})
    return rows


def frozen(encoder: nn.Module, params: PyTree, state: PyTree | None) -> tuple[Method, TrainState]:
    """An encoder with its variables in the form that `embed` takes: a method and a state."""
    none = np.zeros((), np.int32)
    carry = Carry(model_state={"encoder": state or {}})
    return supervised(encoder, classes=1), TrainState(
        step=none, rng=none, params={"encoder": params}, carry=carry, opt_state=()
    )
