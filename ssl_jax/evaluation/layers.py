"""Several layers at once: a probe of each, and of some of them side by side."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from ssl_jax.core import UserError
from ssl_jax.evaluation.linear import linear_probe


def concatenate_layers(
    features: Mapping[str, Float[np.ndarray, "n _"]], names: Sequence[str] | None = None
) -> Float[np.ndarray, "n d"]:
    """The features of several layers side by side, `[n d1+d2+...]`, in the order of `names` (all by default).

    DINO's probe of ViTs reads the class tokens of the last four blocks so (`eval_linear.py`, `--n_last_blocks`).

    Raises:
      UserError: no layer, one that is not there, or layers with unequal numbers of rows.
    """
    names = list(features) if names is None else list(names)
    missing = [name for name in names if name not in features]
    if missing or not names:
        wanted = repr(missing[0]) if missing else "but none was asked for"
        raise UserError(f"There are no features of layer {wanted}; there is {', '.join(features)}.")
    lengths = {name: len(features[name]) for name in names}
    if len(set(lengths.values())) > 1:
        raise UserError(f"Layers must be of the same images, but their numbers of rows are {lengths}.")
    return np.concatenate([features[name] for name in names], axis=1)


def linear_probe_layers(
    train: Mapping[str, Float[np.ndarray, "n _"]],
    labels: Int[np.ndarray, " n"],
    test: Mapping[str, Float[np.ndarray, "m _"]],
    test_labels: Int[np.ndarray, " m"],
    *,
    together: Sequence[Sequence[str]] = (),
    probe: Callable[..., dict[str, Any]] = linear_probe,
    **kwargs: Any,
) -> dict[str, dict[str, Any]]:
    """A linear probe of every layer: the table that shows where in a network its task has left the best features.

    Pretext tasks are best in the middle: conv4 of a ResNet-50 trained on rotations or relative patches is 8 to 11
    points above conv5 (figures of mmselfsup). Each layer's settings are chosen for it, without the test set.

    Args:
      train: training features by layer (`embed_layers`).
      labels: classes of the training images.
      test: test features of the same layers.
      test_labels: classes of the test images.
      together: groups of layers that are also probed side by side, for example `[("cls9", "cls10", "cls11", "cls12")]`.
      probe: `linear_probe`, or for example `functools.partial(linear_probe_preset, preset="dino")`.
      **kwargs: for the probe.

    Returns:
      What the probe returns, by layer, and by `"first+second"` for a group; `["accuracy"]` is in 0..1.

    Raises:
      UserError: train and test have other layers, or what the probe raises.
    """
    if set(train) != set(test) or not train:
        raise UserError(f"Train and test need the same layers, but have {', '.join(train)} and {', '.join(test)}.")
    groups = [(name,) for name in train] + [tuple(group) for group in together]
    return {
        "+".join(group): probe(
            concatenate_layers(train, group), labels, concatenate_layers(test, group), test_labels, **kwargs
        )
        for group in groups
    }
