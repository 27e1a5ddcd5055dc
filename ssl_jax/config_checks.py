"""Fields of a config that make no sense whatever the data: each is named in a sentence before anything is built."""

import math
from collections.abc import Iterator
from typing import Any

from ssl_jax.checks import check_positive
from ssl_jax.core import UserError

POSITIVE = (
    "batch_size",
    "rounds",
    "log_every",
    "checkpoint_every",
    "keep_checkpoints",
    "knn_bank",
    "knn_queries",
    "max_skipped_steps",
)
FROM_0 = ("seed", "image_size", "view_size", "learning_rate", "final_learning_rate", "warmup_epochs", "max_collapsed")
FINITE = ("epochs", "learning_rate", "final_learning_rate", "warmup_epochs", "drop_factor")


def check_numbers(config: Any) -> None:
    """Raise a `UserError` that names the field if a number is out of its range."""
    for name in FINITE:
        if config[name] is not None and not math.isfinite(config[name]):
            raise UserError(f"`{name}` must be a finite number, but is {config[name]}.")
    check_positive(**{name: config[name] for name in POSITIVE})
    for name in FROM_0:
        if config[name] is not None and config[name] < 0:
            raise UserError(f"`{name}` must be 0 or above, but is {config[name]}.")


def groups(arguments: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """The groups in `optimizer_args`, each a path and what differs there.

    Raises:
      UserError: they are no dict of dicts, as is what a shell makes of one without quotes.
    """
    given = arguments.get("groups") or {}
    if not hasattr(given, "items") or not all(hasattr(changes, "items") for _, changes in given.items()):
        raise UserError(
            "`optimizer_args.groups` is a dict of dicts, on the command line in quotes, such as "
            f"--config.optimizer_args.groups=\"{{'encoder': {{'rate_scale': 0.1}}}}\", and not {str(given)!r}."
        )
    return iter((path, dict(changes)) for path, changes in given.items())
