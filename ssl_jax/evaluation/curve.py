"""Accuracy over the number of labels, pretrained and from scratch, and how many labels pretraining is worth."""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import numpy as np

from ssl_jax import data
from ssl_jax.core import PyTree, UserError
from ssl_jax.evaluation.labels import labels_of
from ssl_jax.evaluation.semi import semi_supervised

COUNTS = (1, 3, 10, 30, 100, 300)


def label_curve(
    encoder: nn.Module,
    params: PyTree,
    state: PyTree,
    train: data.Source,
    test: data.Source,
    *,
    counts: Sequence[int] = COUNTS,
    **kwargs: Any,
) -> list[dict[str, Any]]:
    """`semi_supervised` at several numbers of labels per class, least first.

    Args:
      encoder: with `params` and `state`, as for `fine_tune`.
      params: pretrained parameters.
      state: pretrained batch statistics.
      train: labelled images to draw from.
      test: labelled images, all of them.
      counts: labels per class; those above the smallest class are left out.
      **kwargs: others of `semi_supervised`, such as `recipe`, `scratch`, `trials`, `seed`, `prepare` and `views`.

    Returns:
      What `semi_supervised` returns for each count, with `"labels_per_class"` before it.

    Raises:
      UserError: no count is left; and see `semi_supervised`.
    """
    smallest = int(np.bincount(labels_of(train)).min())
    possible = sorted(count for count in set(counts) if count <= smallest)
    if not possible:
        raise UserError(f"The smallest class has {smallest} examples, fewer than any of the counts {list(counts)}.")
    return [
        {
            "labels_per_class": count,
            **semi_supervised(encoder, params, state, train, test, per_class=count, **kwargs),
        }
        for count in possible
    ]


def labels_for(counts: Sequence[float | int], accuracies: Sequence[float], accuracy: float) -> float | None:
    """Labels per class with which a curve first reaches an accuracy: linear in accuracy over the logarithm of labels.

    Args:
      counts: labels per class, rising.
      accuracies: at each of them.
      accuracy: what to reach.

    Returns:
      The number of labels; None if the curve begins above the accuracy or never reaches it, so that it says nothing.
    """
    if accuracies[0] > accuracy:
        return None
    logs = np.log(np.asarray(counts, np.float64))
    for i, reached in enumerate(accuracies):
        if reached >= accuracy:
            if i == 0:
                return float(counts[0])
            part = (accuracy - accuracies[i - 1]) / (reached - accuracies[i - 1])
            return float(np.exp(logs[i - 1] + part * (logs[i] - logs[i - 1])))
    return None


def labels_saved(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What `label_curve`'s rows say pretraining is worth.

    Returns:
      `{"times_fewer": {count: factor or None}, "crossing": labels per class or None}`. From scratch takes `factor`
      times as many labels as `count` for the accuracy of fine-tuning with `count`; None where the curve from scratch
      does not contain that accuracy. From `crossing` on, training from scratch is at least as good to the end of the
      curve; None if it never is.
    """
    counts = [row["labels_per_class"] for row in rows]
    tuned, scratch = ([row[key]["accuracy"] for row in rows] for key in ("fine_tuned", "from_scratch"))
    needed = {count: labels_for(counts, scratch, accuracy) for count, accuracy in zip(counts, tuned, strict=True)}
    factors = {count: None if labels is None else labels / count for count, labels in needed.items()}
    return {"times_fewer": factors, "crossing": _crossing(counts, np.subtract(scratch, tuned))}


def _crossing(counts: Sequence[int], lead: np.ndarray) -> float | None:
    """Where `lead` last becomes positive or 0, if it stays so; between two counts by its line over their logarithms."""
    behind = np.flatnonzero(lead < 0)
    last = int(behind[-1]) if len(behind) else -1
    if last == len(counts) - 1:
        return None
    if last < 0:
        return float(counts[0])
    return labels_for(counts[last : last + 2], lead[last : last + 2].tolist(), 0.0)
