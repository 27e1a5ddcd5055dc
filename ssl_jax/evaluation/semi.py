"""Few labels: fine-tuning beside supervised training from scratch, on the same labels."""

import dataclasses
import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from jax.sharding import Mesh

from ssl_jax import data
from ssl_jax.checks import check_positive
from ssl_jax.core import PyTree, UserError
from ssl_jax.data import rows_named
from ssl_jax.evaluation.features import to_float
from ssl_jax.evaluation.few_labels import draw_labels
from ssl_jax.evaluation.finetune import DEFAULT, fine_tune
from ssl_jax.evaluation.labels import count_classes, draw_share, labels_of
from ssl_jax.evaluation.trials import trial_seed
from ssl_jax.evaluation.tuning import FineTuning
from ssl_jax.train_step import Views

# From scratch, by optimizer: what is right for small networks.
SCRATCH_RATES = {"adamw": 3e-3, "lamb": 3e-3, "sgd": 0.1, "lars": 0.1}


def from_scratch(recipe: FineTuning, *, rate: float | None = None, min_steps: int = 300) -> FineTuning:
    """The recipe for random weights: the same passes and regularisation, but all of the network learns at `rate`.

    What only makes sense for a pretrained trunk goes: a rate of its own, layer-wise decay, frozen statistics and a
    classifier that was fitted before. Where labels are so few that the passes are fewer steps than `min_steps`, it
    takes these, more than the fine-tuning: random weights have further to go. `rate` None is the optimizer's of
    `SCRATCH_RATES`: 3e-3 for AdamW and 0.1 for SGD.
    """
    return dataclasses.replace(
        recipe,
        head_rate=SCRATCH_RATES.get(recipe.optimizer, 3e-3) if rate is None else rate,
        trunk_rate=None,
        layer_decay=1.0,
        frozen_statistics=False,
        head="random",
        min_steps=max(min_steps, recipe.min_steps),
    )


def summary(accuracies: Sequence[float]) -> dict[str, Any]:
    """`{"accuracy": mean, "std": deviation with n - 1 or None for one trial, "accuracies": all of them}`."""
    std = float(np.std(accuracies, ddof=1)) if len(accuracies) > 1 else None
    return {"accuracy": float(np.mean(accuracies)), "std": std, "accuracies": [float(a) for a in accuracies]}


def semi_supervised(
    encoder: nn.Module,
    params: PyTree,
    state: PyTree,
    train: data.Source,
    test: data.Source,
    *,
    share: float | None = None,
    per_class: int | None = None,
    names: str | os.PathLike[str] | Iterable[str] | None = None,
    recipe: FineTuning = DEFAULT,
    scratch: FineTuning | None = None,
    beside_scratch: bool = True,
    trials: int = 3,
    seed: int = 0,
    prepare: Callable[[jax.Array], jax.Array] = to_float,
    views: Views | None = None,
    mesh: Mesh | None = None,
) -> dict[str, Any]:
    """Fine-tune on a part of the labels, and train from scratch on the same ones, with the same views and passes.

    The field reports 1 % and 10 % of ImageNet (SimCLR, arXiv 2002.05709, section 6). Each trial draws labels of its
    own and has its own random weights and order of images, all from (seed, trial).

    Args:
      encoder: with `params` and `state`, as for `fine_tune`.
      params: pretrained parameters.
      state: pretrained batch statistics.
      train: labelled images, of which some are used.
      test: labelled images, all of them.
      share: share of the labels of each class, such as 0.01 (`draw_share`).
      per_class: number of labels of each class, in place of `share` (`draw_labels`).
      names: a list of file names or a file that holds one, in place of both (`rows_named`); trials then differ in
        weights and order alone.
      recipe: of the fine-tuning; `FINE_TUNING` has those of papers.
      scratch: of training from scratch; None is `from_scratch(recipe)`.
      beside_scratch: False leaves training from scratch out.
      trials: number of draws.
      seed: of everything.
      prepare: see `fine_tune`.
      views: see `fine_tune`; the same for both.
      mesh: devices.

    Returns:
      `{"labels": number of labelled images, "trials", "fine_tuned": row, "from_scratch": row or None}`; a row is
      `{"accuracy", "std", "accuracies"}`, see `summary`, with `"ema"`, such a row of the averaged weights, if the
      recipe has them, and `"steps"`.

    Raises:
      UserError: not exactly one of `share`, `per_class` and `names`; fewer examples of a class than asked for; a list
        that fits no files; and see `fine_tune`.
    """
    check_positive(trials=trials)
    count_classes(train, test)
    if sum(choice is not None for choice in (share, per_class, names)) != 1:
        raise UserError("Say which labels to use by exactly one of `share`, `per_class` and `names`.")
    labels, listed = labels_of(train), None if names is None else rows_named(train, names)

    def chosen(trial: int) -> np.ndarray:
        if listed is not None:
            return listed
        if share is not None:
            return draw_share(labels, share=share, seed=seed, trial=trial)
        assert per_class is not None
        return draw_labels(labels, per_class=per_class, seed=seed, trial=trial)

    subsets = [data.Subset(train, chosen(trial)) for trial in range(trials)]

    def row(recipe: FineTuning, params: PyTree, state: PyTree) -> dict[str, Any]:
        found = [
            fine_tune(
                encoder,
                params,
                state,
                subset,
                test,
                recipe=recipe,
                prepare=prepare,
                views=views,
                seed=trial_seed(seed, trial),
                mesh=mesh,
            )
            for trial, subset in enumerate(subsets)
        ]
        averaged = [f.ema_accuracy for f in found if f.ema_accuracy is not None]
        ema = {"ema": summary(averaged)} if averaged else {}
        return {**summary([f.accuracy for f in found]), **ema, "steps": found[0].steps}

    return {
        "labels": len(subsets[0]),
        "trials": trials,
        "fine_tuned": row(recipe, params, state),
        "from_scratch": row(scratch or from_scratch(recipe), None, None) if beside_scratch else None,
    }
