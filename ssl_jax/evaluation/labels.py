"""Which training images keep their labels: a share of each class (for those on a list, `ssl_jax.data.listed`)."""

import numpy as np
from jaxtyping import Int

from ssl_jax import data
from ssl_jax.core import UserError


def labels_of(source: data.Source) -> Int[np.ndarray, " n"]:
    """The labels of all images; a `UserError` if there are none."""
    labels = source.labels
    if labels is None:
        raise UserError(f"{source.name} has no labels; for folders, one folder per class gives them.")
    return labels


def count_classes(train: data.Source, test: data.Source) -> int:
    """Number of classes of two labelled sources, which must name them alike.

    Raises:
      UserError: one of them has no labels, or other classes.
    """
    highest = [int(labels_of(source).max()) for source in (train, test)]
    classes = len(train.classes) if train.classes else highest[0] + 1
    named = train.classes is not None and test.classes is not None and train.classes != test.classes
    if named or highest[1] >= classes:
        raise UserError(f"{train.name} and {test.name} have different classes, so one can't be scored on the other.")
    return classes


def draw_share(labels: Int[np.ndarray, " n"], *, share: float, seed: int = 0, trial: int = 0) -> Int[np.ndarray, " m"]:
    """Rows of a random share of each class's examples, rounded, at least one of each class that has any.

    A function of (seed, share, trial) and the labels. Differs from the lists that SimCLR published for ImageNet's 1 %
    (about 13 of each class) in which images are drawn; with these lists use `data.rows_named`.

    Args:
      labels: classes, counted from 0.
      share: above 0, at most 1.
      seed: of the draw.
      trial: number of the draw.

    Raises:
      UserError: a share out of its range.
    """
    if not 0.0 < share <= 1.0:
        raise UserError(f"`share` of the labels must be above 0 and at most 1 (0.01 for 1 %), but is {share}.")
    rng = np.random.default_rng((seed, round(share * 1e6), trial))
    rows = []
    for label in np.unique(labels):
        of_class = np.flatnonzero(labels == label)
        rows.append(rng.choice(of_class, max(round(share * len(of_class)), 1), replace=False))
    return np.concatenate(rows)
