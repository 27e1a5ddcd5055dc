"""Splits with slices, as in tensorflow-datasets, or lists: `train[:55000]`, `train[:10%]+test`, `train[@ids.txt]`."""

import re
from typing import NamedTuple

from ssl_jax.core import UserError

_SLICE = r"(?P<start>-?\d+%?)?\s*:\s*(?P<stop>-?\d+%?)?"
_PART = re.compile(rf"\s*(?P<name>\w+)\s*(?:\[\s*(?:{_SLICE}|@\s*(?P<ids>[^\]]+?))\s*\])?\s*(?P<plus>\+|$)")


class Part(NamedTuple):
    """A part of a split: a name, and the slice of it or the file that lists the ids of its images."""

    name: str
    start: str | None = None
    stop: str | None = None
    ids: str | None = None


def parse(split: str) -> list[Part]:
    """Take a split apart: `"train[:10%]+test"` -> `[Part("train", stop="10%"), Part("test")]`.

    Raises:
      UserError: if it does not read as names with optional slices, joined by `+`.
    """
    parts, position, more = [], 0, True
    while more:
        found = _PART.match(split, position)
        if found is None:
            raise UserError(
                f"split {split!r} is not understood; write for example 'train', 'train[:55000]', 'train[90%:]' or "
                "'train[@ids.txt]'."
            )
        parts.append(Part(found["name"], found["start"], found["stop"], found["ids"]))
        position, more = found.end(), found["plus"] == "+"
    return parts


def span(n: int, start: str | None, stop: str | None, where: str, *, of: str = "") -> tuple[int, int]:
    """Resolve one slice of a split of `n` examples to `(first, last + 1)`.

    Percentages are rounded to the closest example, halves to the even one, and negative numbers count from the end:
    tensorflow-datasets' definition, so that neighbouring slices share no example and miss none.

    Args:
      n: number of examples of the whole split.
      start: such as `"100"`, `"-100"`, `"90%"`, or None for the beginning.
      stop: likewise, or None for the end.
      where: the split as the user wrote it, for the message.
      of: what is split, likewise.

    Raises:
      UserError: if the slice reaches outside of the split or holds nothing.
    """
    first, last = _position(n, start, 0), _position(n, stop, n)
    there = f" of {of}" if of else ""
    if not (0 <= first <= n and 0 <= last <= n):
        raise UserError(f"split {where!r} reaches outside of the {n} examples{there}; use numbers up to {n}.")
    if first >= last:
        text = f"split {where!r} holds no example{there}: it runs from {first} to {last} of {n}"
        raise UserError(f"{text}; widen the slice.")
    return first, last


def _position(n: int, text: str | None, default: int) -> int:
    if text is None:
        return default
    value = round(n * int(text[:-1]) / 100) if text.endswith("%") else int(text)
    return value + n if value < 0 else value
