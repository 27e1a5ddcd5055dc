"""Average precision of a ranking, by the definitions of scikit-learn and of PASCAL VOC."""

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from ssl_jax.core import UserError

METHODS = ("area", "11-point", "step")


def precision_recall(
    scores: Float[np.ndarray, " n"], targets: Int[np.ndarray, " n"] | Bool[np.ndarray, " n"]
) -> tuple[Int[np.ndarray, " t"], Float[np.ndarray, " t"]]:
    """Hits and precision among the best of every length at which the score changes: equal scores come together."""
    order = np.argsort(-scores, kind="stable")
    hits = np.cumsum(targets[order].astype(np.int64))
    last = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))
    return hits[last], hits[last] / (last + 1)


def average_precision(
    scores: Float[np.ndarray, " n"], targets: Shaped[np.ndarray, " n"], *, method: str = "area"
) -> float:
    """Average precision (0..1) of scores, high for what should be found, against targets 1 (to be found) or 0.

    The order of rows doesn't matter, since equal scores count together.

    Args:
      scores: any scale.
      targets: 0 and 1, or bool.
      method: "area": under the precision-recall curve, precision at a recall being the best at that or any higher one
        (VOC 2010 on, VISSL); "11-point": the mean of that precision at the recalls 0, 0.1, ..., 1 (VOC07, where a
        recall of 3 in 10 reaches 0.3); "step": precision as it is (scikit-learn's `average_precision_score`).

    Raises:
      UserError: an unknown method, nothing to be found, targets other than 0 and 1, or scores that are not finite.
    """
    if method not in METHODS:
        raise UserError(f"Unknown average precision {method!r}; choose one of {', '.join(METHODS)}.")
    if not np.isfinite(scores).all():
        raise UserError("The scores hold NaN or infinity, so they rank nothing.")
    if not np.isin(targets, (0, 1)).all():
        raise UserError(f"Targets are 0 or 1, but hold {np.unique(targets).tolist()[:5]}; leave out what to ignore.")
    if not targets.any():
        raise UserError("Average precision needs at least one positive, but there is none.")
    hits, precision = precision_recall(scores, targets)
    if method == "step":
        return float(np.sum(np.diff(hits, prepend=0) * precision) / hits[-1])
    recall = hits / hits[-1]
    return area_under(recall, precision) if method == "area" else eleven_points(recall, precision)


def eleven_points(recall: Float[np.ndarray, " r"], precision: Float[np.ndarray, " r"]) -> float:
    """Mean over the recalls 0, 0.1, ..., 1 of the best precision at this recall or a higher one (VOC 2007)."""
    reached = [precision[recall >= level - 1e-9] for level in np.linspace(0, 1, 11)]
    return float(np.mean([found.max() if len(found) else 0.0 for found in reached]))


def area_under(recall: Float[np.ndarray, " r"], precision: Float[np.ndarray, " r"]) -> float:
    """Area under the best precision at a recall or a higher one (VOC from 2010 on)."""
    best = np.maximum.accumulate(precision[::-1])[::-1]
    return float(np.sum(np.diff(recall, prepend=0.0) * best))
