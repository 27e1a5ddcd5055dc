"""What came of a claim, the words of its verdict, and its page."""

import dataclasses
import inspect
import statistics
from collections.abc import Callable, Sequence

import numpy as np

Curve = tuple[list[float], list[list[float]]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Finding:
    """What came of a claim.

    Attributes:
      verdict: "holds", "does not hold" or "holds in part", with what it rests on; see `verdict`.
      figures: name of a setting -> name of a figure -> one value per seed.
      curves: name of a panel -> name of a setting -> (positions along x, one row of values per seed).
      x: what stands along x.
      log: whether x is logarithmic, with a mark at each position.
      tables: name of a panel -> row -> column -> value, drawn as a heat map.
      bars: names of figures that are drawn as bars, one per setting.
    """

    verdict: str
    figures: dict[str, dict[str, list[float]]]
    curves: dict[str, dict[str, Curve]] = dataclasses.field(default_factory=dict)
    x: str = "step"
    log: bool = False
    tables: dict[str, dict[str, dict[str, float]]] = dataclasses.field(default_factory=dict)
    bars: tuple[str, ...] = ()


def verdict(holds: Sequence[bool], basis: str) -> str:
    """In words, and what it rests on."""
    word = "holds" if all(holds) else "holds in part" if any(holds) else "does not hold"
    return f"{word} ({basis})"


def beats(a: Sequence[float], b: Sequence[float]) -> bool:
    """Whether `a` is above `b` in every seed."""
    return bool((np.subtract(a, b) > 0).all())


def keeps_up(a: Sequence[float], b: Sequence[float], within: float = 0.3) -> bool:
    """Whether the mean of `a` is above that of `b`, or below it by no more than `within`."""
    return bool(np.mean(a) >= np.mean(b) - within)


def spread(values: Sequence[float], digits: int = 2) -> str:
    """Mean and deviation as text; exact before they are rounded, as in the tables of methods."""
    deviation = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.{digits}f}{deviation}"


def sentence(claim: Callable) -> str:
    """A claim in one sentence, the first line of its function's docstring."""
    return (inspect.getdoc(claim) or "").splitlines()[0]


def page(name: str, claim: Callable, finding: Finding) -> str:
    """What came of a claim as Markdown: sentence, verdict, how it was tried, every figure, the command, the picture."""
    names = list(dict.fromkeys(name for figures in finding.figures.values() for name in figures))
    digits = {column: _digits([v for f in finding.figures.values() for v in f.get(column, [])]) for column in names}
    counts = sorted({len(values) for figures in finding.figures.values() for values in figures.values()})
    seeds = " to ".join(dict.fromkeys(map(str, (counts[0], counts[-1])))) + (" seed" if counts[-1] == 1 else " seeds")
    lines = [f"## {sentence(claim)}", "", f"**{finding.verdict[0].upper()}{finding.verdict[1:]}.**", ""]
    how = "\n".join((inspect.getdoc(claim) or "").splitlines()[2:])
    lines += [how, ""] if how else []
    lines += [f"| {seeds} | {' | '.join(names)} |", "|---|" + "---|" * len(names)]
    for setting, figures in finding.figures.items():
        cells = [spread(figures[column], digits[column]) if figures.get(column) else "" for column in names]
        lines.append(f"| {setting} | {' | '.join(cells)} |")
    lines += ["", f"Command: `python -m benchmarks.claims {name} --write`. Figures of each seed: `claims/{name}.json`."]
    return "\n".join([*lines, "", f"![{sentence(claim)}](claims/{name}.svg)"]) + "\n"


def _digits(values: Sequence[float]) -> int:
    """Digits after the point: three of shares, one of percents, none of hundreds."""
    most = float(np.max(np.abs(values))) if len(values) else 0.0
    return 3 if most < 2 else 1 if most < 100 else 0
