"""Collapse in words: what the numbers of a training step say about it, for people who watch the run.

A method names the sign that fits it, `Method.warn`; what holds for all methods is looked at besides. All functions take
the scalars that were logged at one step and return a sentence, or None. `Alarm` says it, and counts.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

from ssl_jax.core import UserError

Warn = Callable[[Mapping[str, float]], str | None]


def embedding(logged: Mapping[str, float]) -> str | None:
    """All images are embedded alike: SimSiam's deviation (1 is healthy) below 0.1, or fewer than two directions."""
    std, rank = logged.get("embedding_std"), logged.get("effective_rank")
    if std is not None and std < 0.1:
        return f"all images are embedded nearly alike (embedding_std {std:.3f}; 1 is evenly spread, 0 a single point)"
    if rank is not None and rank < 2.0:
        return f"all embeddings lie on a line (effective_rank {rank:.2f})"
    return None


def stuck_at_chance(
    count: int, *, key: str = "loss", after: int = 200, within: float = 0.01, scale: float = 1.0
) -> Warn:
    """The loss `key` is still that of a guess among `count`, ln(count), to `within` of it, after so many steps.

    A loss that is a multiple of a cross-entropy has its `scale`.
    """
    chance = scale * math.log(count)
    formula = f"ln {count}" if scale == 1.0 else f"{scale:g} ln {count}"

    def warn(logged: Mapping[str, float]) -> str | None:
        value = logged.get(key)
        if value is None or logged.get("step", 0) < after or abs(value - chance) > within * chance:
            return None
        return f"{key} is {value:.3f}, that of a guess among {count} ({formula} = {chance:.3f})"

    return warn


def guess_among_candidates(*, scale: float = 1.0) -> Warn:
    """`stuck_at_chance` of a loss that tells one of so many `candidates`, as the step has logged their number.

    So it is where all similarities are alike, which is where embeddings go to one point. A batch of one leaves nothing
    to be told.
    """

    def warn(logged: Mapping[str, float]) -> str | None:
        candidates = int(logged.get("candidates", 0))
        return stuck_at_chance(candidates, scale=scale)(logged) if candidates > 1 else None

    return warn


def same_words(logged: Mapping[str, float], *, after: int = 200, above: float = 1.05) -> str | None:
    """All images of a batch hold the same visual words: the batch uses hardly more of them than one image.

    Reads the perplexities `words_image...` and `words_batch...` of every vocabulary, once a run had so many steps.
    """
    for key, image in logged.items():
        batch = logged.get(key.replace("words_image", "words_batch"))
        if key.startswith("words_image") and batch and logged.get("step", 0) >= after and batch < above * image:
            return f"all images hold the same visual words ({key} {image:.1f}, in the whole batch {batch:.1f})"
    return None


def prototypes(count: int, *, after: int = 200, within: float = 0.01) -> Warn:
    """Targets over `count` prototypes say nothing, for one of two reasons; from what `losses.usage` tells.

    They are all alike and even (entropy near ln(count): too little sharpening), or one prototype takes every image
    (entropy and divergence near 0, too little centring); near means within `within` times ln(count). Sure targets that
    a student has learnt are no collapse as long as different images have different ones.
    """
    near = within * math.log(count)

    def warn(logged: Mapping[str, float]) -> str | None:
        entropy, kl, used = (logged.get(name) for name in ("target_entropy", "target_kl", "prototypes_used"))
        if entropy is None or kl is None or used is None or logged.get("step", 0) < after:
            return None
        if entropy > math.log(count) - near:
            return f"the targets are even over all {count} prototypes (entropy {entropy:.3f}, ln {count})"
        if entropy < near and kl < near and used < 1.5:
            return f"one of {count} prototypes takes every image (entropy {entropy:.3f}, divergence {kl:.3f})"
        return None

    return warn


def any_of(*checks: Warn) -> Warn:
    """The first sentence that one of the checks has to say."""
    return lambda logged: next((text for check in checks if (text := check(logged))), None)


class Alarm:
    """Says in words when a run looks collapsed: at the first sign, and again after every ten lines that it lasts.

    Attributes:
      signs: how many of the last lines of progress looked collapsed, in a row.
    """

    def __init__(self, warn: Warn, announce: Callable[[str], None], *, limit: int = 0):
        """`warn` is the method's own; what holds for all methods is looked at besides. A `limit` of 0 is none."""
        self.warn, self.announce, self.limit, self.signs = any_of(warn, embedding), announce, limit, 0

    def resume(self, position: Mapping[str, Any]) -> None:
        """Go on counting from what a checkpoint remembers."""
        self.signs = position.get("collapsed_in_a_row", 0)

    def counts(self) -> dict[str, int]:
        """What a checkpoint remembers."""
        return {"collapsed_in_a_row": self.signs}

    def see(self, step: int, logged: Mapping[str, float]) -> UserError | None:
        """Look at the scalars of one step; an error once `limit` lines in a row looked collapsed."""
        text = self.warn({**logged, "step": step})
        if text and self.signs % 10 == 0:
            self.announce(f"Warning: step {step:,} looks like a collapse: {text}.")
        self.signs = self.signs + 1 if text else 0
        if not self.limit or self.signs < self.limit:
            return None
        return UserError(
            f"Stopped and saved at step {step:,}, after {self.signs} line(s) of progress that looked like a collapse: "
            f"{text}. Mend the recipe and take another --workdir, or go on with --config.max_collapsed=0."
        )
