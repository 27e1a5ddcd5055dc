"""Checks of what a user hands over; each raises a `UserError` that says what to change."""

import numpy as np
from jaxtyping import Array, Float

from ssl_jax.core import PyTree, UserError


def check_positive(**values: float | int | None) -> None:
    """Every value must be above 0 (None stands for a default and passes)."""
    for name, value in values.items():
        if value is not None and not value > 0:
            raise UserError(f"`{name}` must be above 0, but is {value}.")


def check_momentum(momentum: float) -> None:
    """A moving average's momentum must be in 0..1."""
    if not 0.0 <= momentum <= 1.0:
        raise UserError(f"A moving average needs a momentum in 0..1, but was given {momentum}.")


def check_features(*features: Float[Array | np.ndarray, "_ _"]) -> None:
    """Features must be finite, and at least one row of them."""
    for x in features:
        if not len(x):
            raise UserError("There are no features to evaluate: a split is empty.")
        if not np.isfinite(x).all():
            raise UserError("The features hold NaN or infinity, so nothing can be fitted; look at the run's loss.")


def two_views(batch: PyTree) -> Float[Array, "b 2 h w c"]:
    """The batch's views, for a method that compares exactly two of each example."""
    if "views" not in batch:
        raise UserError(
            'The batch holds no "views"; give `views=` to the training step, or bring float views [b, 2, h, w, c].'
        )
    views = batch["views"]
    shape = getattr(views, "shape", None)
    if shape is None or len(shape) != 5 or shape[1] != 2:
        raise UserError(
            "This method compares two views of each example, an array [b, 2, h, w, c], but was given "
            f"{f'a {type(views).__name__}' if shape is None else f'shape {tuple(shape)}'}."
        )
    return views
