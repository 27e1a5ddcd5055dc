"""Split names with slices, as in tensorflow-datasets: `train`, `train[:55000]`, `train[90%:]`, `train[:10%]+test`."""

import re

from ssl_jax.core import UserError

_PART = re.compile(r"\s*(?P<name>\w+)\s*(\[\s*(?P<start>-?\d+%?)?\s*:\s*(?P<stop>-?\d+%?)?\s*\])?\s*")


def parse(split: str) -> list[tuple[str, str | None, str | None]]:
    """Take a split apart: `"train[:10%]+test"` -> `[("train", None, "10%"), ("test", None, None)]`.

    Raises:
      UserError: if it does not read as names with optional slices, joined by `+`.
    """
    parts = [_PART.fullmatch(part) for part in split.split("+")]
    if not all(parts):
        raise UserError(
            f"split {split!r} is not understood; write for example 'train', 'train[:55000]', 'train[90%:]'."
        )
    return [(m["name"], m["start"], m["stop"]) for m in parts if m is not None]


def span(n: int, start: str | None, stop: str | None, where: str) -> tuple[int, int]:
    """Resolve one slice of a split of `n` examples to `(first, last + 1)`.

    Percentages are rounded to the closest example, halves to the even one, and negative numbers count from the end:
    tensorflow-datasets' definition, so that neighbouring slices share no example and miss none.

    Args:
      n: number of examples of the whole split.
      start: such as `"100"`, `"-100"`, `"90%"`, or None for the beginning.
      stop: likewise, or None for the end.
      where: the split as the user wrote it, for the message.

    Raises:
      UserError: if the slice reaches outside of the split or holds nothing.
    """
    first, last = _position(n, start, 0), _position(n, stop, n)
    if not (0 <= first <= n and 0 <= last <= n):
        raise UserError(f"split {where!r} reaches outside of the {n} examples that there are; use numbers up to {n}.")
    if first >= last:
        raise UserError(f"split {where!r} holds no example: it runs from {first} to {last} of {n}; widen the slice.")
    return first, last


def _position(n: int, text: str | None, default: int) -> int:
    if text is None:
        return default
    value = round(n * int(text[:-1]) / 100) if text.endswith("%") else int(text)
    return value + n if value < 0 else value
