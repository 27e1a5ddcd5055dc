"""Checks of what a user hands over; each raises a `UserError` that says what to change."""

from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ssl_jax.core import PyTree, UserError
from ssl_jax.schedules import Schedule, value_at


def check_positive(**values: float | int | None) -> None:
    """Every value must be above 0 (None stands for a default and passes)."""
    for name, value in values.items():
        if value is not None and not value > 0:
            raise UserError(f"`{name}` must be above 0, but is {value}.")


def check_momentum(momentum: float | Schedule) -> None:
    """A moving average's momentum must be in 0..1; of a schedule the first value is looked at."""
    first = float(value_at(momentum, jnp.zeros((), jnp.int32)))
    if not 0.0 <= first <= 1.0:
        raise UserError(f"A moving average needs a momentum in 0..1, but was given {first}.")


def check_features(*features: Float[Array | np.ndarray, "_ _"]) -> None:
    """Features must be finite, and at least one row of them."""
    for x in features:
        if not len(x):
            raise UserError("There are no features to evaluate: a split is empty.")
        if not np.isfinite(x).all():
            raise UserError("The features hold NaN or infinity, so nothing can be fitted; look at the run's loss.")


def check_labels(features: Float[Array | np.ndarray, "_ _"], labels: Int[Array | np.ndarray, "..."]) -> None:
    """There must be one label for each row of features, none below 0."""
    if np.ndim(labels) != 1:  # a column would be compared with all rows
        raise UserError(f"Labels are one number for each row, [n], but have the shape {list(np.shape(labels))}.")
    if len(labels) != len(features):
        raise UserError(f"There are {len(features)} rows of features but {len(labels)} labels; give one for each row.")
    if np.min(labels) < 0:
        raise UserError(
            f"Classes are numbered from 0, but a label is {np.min(labels)}; leave out rows without a class."
        )


def views_of(batch: PyTree, *, count: int | None = None) -> Float[Array, "b v h w c"]:
    """The batch's views, all of one size; exactly `count` of each example if that is given."""
    if "views" not in batch:
        raise UserError(
            'The batch holds no "views"; give `views=` to the training step, or bring float views [b, v, h, w, c].'
        )
    views = batch["views"]
    shape = getattr(views, "shape", None)
    if shape is None or len(shape) != 5 or (count is not None and shape[1] != count):
        number, wanted = {None: ("views", "v"), 1: ("one view", 1), 2: ("two views", 2)}.get(
            count, (f"{count} views", count)
        )
        raise UserError(
            f"This method takes {number} of each example, an array [b, {wanted}, h, w, c], but was given "
            f"{f'a {type(views).__name__}' if shape is None else f'shape {tuple(shape)}'}."
        )
    return views


def crops_of(batch: PyTree, *, groups: int | None = None, views: int = 1) -> tuple[Float[Array, "b _ _ _ _"], ...]:
    """The batch's views of several sizes: a tuple of arrays `[b v h w c]`, one per size; `groups` of them if given.

    One array stands for a tuple of one. There must be at least `views` in all.
    """
    given = batch.get("views")
    crops = given if isinstance(given, tuple) else (views_of(batch),)
    if any(getattr(x, "ndim", None) != 5 for x in crops) or (groups is not None and len(crops) != groups):
        shapes = [tuple(getattr(x, "shape", ())) for x in crops]
        raise UserError(
            f"This method takes views of {groups or 'several'} size(s), a tuple of arrays [b, v, h, w, c], but was "
            f"given the shapes {shapes}."
        )
    found = sum(x.shape[1] for x in crops)
    if found < views:
        raise UserError(f"This method compares at least {views} views of each example, but was given {found}.")
    return crops


def maps_of(maps: Mapping[str, Array], which: int | tuple[str, ...]) -> dict[str, Float[Array, "b _ _ _"]]:
    """Feature maps `[b h w c]` by name, or the last so many of an encoder's (all, if there are fewer).

    Raises:
      UserError: the encoder has no maps, or not these.
    """
    found = {name: x for name, x in maps.items() if x.ndim == 4}
    if not found:
        raise UserError("This method needs an encoder that returns feature maps, `(pooled, {name: [b, h, w, c]})`.")
    names = list(found)[-which:] if isinstance(which, int) else which
    missing = [name for name in names if name not in found]
    if missing:
        raise UserError(f"The encoder has no feature map {missing[0]!r}; there is {', '.join(found)}.")
    return {name: found[name] for name in names}


def labels_of(batch: PyTree) -> Int[Array, " b"]:
    """The batch's labels, for a method that learns from them."""
    if "label" not in batch:
        raise UserError('This method learns from labels, but the batch holds no "label"; use data that has them.')
    return jnp.asarray(batch["label"])
