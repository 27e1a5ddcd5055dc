"""Numbers, times and nested records as short text. What is missing or not a number is a dash, never `nan`."""

import datetime
import math
import shlex
from collections.abc import Iterator, Mapping
from typing import Any

DASH = "\N{EN DASH}"
MINUS = "\N{MINUS SIGN}"
# In the page's language, whatever the machine's is.
_MONTHS = "January February March April May June July August September October November December"


def is_number(value: Any) -> bool:
    """True for a finite int or float (numpy's scalars too), False for booleans, NaN, infinities and all else."""
    if isinstance(value, bool) or value is None:
        return False
    try:
        return math.isfinite(value)
    except TypeError:
        return False


def dash(value: Any) -> Any:
    """A dash for None, NaN and infinities, anything else as it is: what the template applies to every value."""
    missing = value is None or (isinstance(value, float) and not math.isfinite(value))
    return DASH if missing else value


def number(value: Any, digits: int = 4) -> str:
    """Text of a number with so many significant digits, and separators in large ones: 12,345 or 0.0312 or 1.2e-07."""
    if not is_number(value):
        return DASH
    value = float(value)
    if value == 0:
        return "0"
    size = math.floor(math.log10(abs(value)))
    if size >= 15 or size < -4:
        mantissa, exponent = f"{value:.{max(digits - 2, 0)}e}".split("e")
        mantissa = mantissa.rstrip("0").rstrip(".") if "." in mantissa else mantissa
        return f"{mantissa}e{int(exponent)}".replace("-", MINUS)
    text = f"{value:,.{max(digits - 1 - size, 0)}f}"
    return (text.rstrip("0").rstrip(".") if "." in text else text).replace("-", MINUS)


def percent(value: Any, signed: bool = False) -> str:
    """A fraction as a percentage with one decimal: 0.861 -> `86.1%`; `signed` gives points: 0.02 -> `+2.0`."""
    if not is_number(value):
        return DASH
    text = f"{100 * value:+.1f}" if signed else f"{100 * value:.1f}%"
    return text.replace("-", MINUS)


def duration(seconds: Any) -> str:
    """Seconds as `42 s`, `4 min 10 s`, `3 h 5 min` or `2 d 4 h`."""
    if not is_number(seconds) or seconds < 0:
        return DASH
    whole = round(seconds)
    for size, unit, below, smaller in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= size:
            rest = whole % size // below
            return f"{whole // size} {unit}" + (f" {rest} {smaller}" if rest else "")
    return f"{whole} s" if whole or seconds == 0 else "under 1 s"


def date(text: Any) -> str:
    """A time in ISO form as `23 November 2026, 22:50 UTC`; anything else stays as it is."""
    try:
        moment = datetime.datetime.fromisoformat(str(text))
    except ValueError:
        return describe(text)
    zone = moment.tzname()
    return f"{moment.day} {_MONTHS.split()[moment.month - 1]} {moment.year}, {moment:%H:%M}" + (
        f" {zone}" if zone else ""
    )


def describe(value: Any) -> str:
    """One line for any JSON value: lists joined by commas, records as `key value` pairs, None as a dash.

    A list of one text several times, such as the devices of a host, is `8 x TPU v4`.
    """
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {describe(item)}" for key, item in value.items()) or DASH
    if isinstance(value, (list, tuple)):
        if len(value) > 1 and isinstance(value[0], str) and all(item == value[0] for item in value):
            return f"{len(value)} x {value[0]}"
        return ", ".join(describe(item) for item in value) or DASH
    if isinstance(value, float):
        return number(value, 6)
    return DASH if value is None else str(value)


def command_line(command: Any) -> str:
    """The command as one line for a shell: a list of arguments is quoted, text is kept."""
    if isinstance(command, (list, tuple)):
        return shlex.join(str(part) for part in command)
    return "" if command is None else str(command)


def flatten(record: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """The leaves of a nested record as (`"optimizer.name"`, text), in its own order."""
    for key, value in record.items():
        if isinstance(value, Mapping) and value:
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", describe(value)
