"""Geometry of the learning curves and of the embedding map: numbers in, coordinates and labels out.

The template draws them as inline SVG with the page's own colours, so that one drawing serves the light and the dark
page and its text stays text. No plotting library is needed.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from ssl_jax.report import formats

WIDTH, HEIGHT = 340, 170
LEFT, RIGHT, TOP, BOTTOM = 46.0, 318.0, 10.0, 146.0
POINTS = 300  # more are thinned to half as many buckets: a mean line over a band from least to greatest
MAX_PANELS = 16
NOT_DRAWN = ("step", "time", "queue_filled", "queue_age")  # the latter are told among the facts

# Key in the metrics file -> title, what to look for, and whether it is a fraction. Other keys follow under their names.
KNOWN = {
    "loss": ("Loss", "What training minimises. Only comparable between runs of one method and batch size.", False),
    "knn_top1": ("k-NN accuracy", "Nearest neighbours vote with labels that training never saw.", True),
    "probe_accuracy": ("Online probe accuracy", "A linear classifier on the frozen features, trained alongside.", True),
    "embedding_std": ("Embedding spread", "1 when embeddings point everywhere alike, 0 when all are the same.", False),
    "effective_rank": ("Effective rank", "How many directions the embeddings use; 1 is collapse.", False),
    "target_entropy": ("Entropy of the targets", "In nats; ln(prototypes) if the targets say nothing.", False),
    "target_kl": ("Left to learn", "Divergence of the predictions from the targets; 0 in a collapse.", False),
    "prototypes_used": ("Prototypes used", "How many a batch falls on, by perplexity; 1 is collapse.", False),
    "words_image": ("Words of an image", "How many visual words an image holds, by perplexity.", False),
    "words_batch": ("Words of a batch", "If hardly more than one image's, all images look alike.", False),
    "grad_norm": ("Gradient norm", "", False),
    "learning_rate": ("Learning rate", "", False),
    "images_per_second": ("Images per second", "", False),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Curve:
    """One panel: texts, and coordinates in a box of `WIDTH` by `HEIGHT`.

    Attributes:
      title: heading of the panel.
      hint: what to look for, maybe empty.
      last: text of the last value; a dash if it is not finite.
      summary: one sentence for those who cannot see the drawing.
      line: SVG path of the values, broken where they are not finite.
      band: SVG path around least and greatest value where many points were joined, or "".
      dot: the last finite point.
      x_ticks: (position, text).
      y_ticks: (position, text).
      missing: how many values are not finite.
    """

    title: str
    hint: str
    last: str
    summary: str
    line: str = ""
    band: str = ""
    dot: tuple[float, float] | None = None
    x_ticks: list[tuple[float, str]] = dataclasses.field(default_factory=list)
    y_ticks: list[tuple[float, str]] = dataclasses.field(default_factory=list)
    missing: int = 0


def ticks(low: float, high: float, count: int = 4) -> list[float]:
    """About `count` round numbers (1, 2 or 5 times a power of ten apart) between `low` and `high`."""
    if not high > low:
        return [low]
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * m for m in (1, 2, 5, 10) if power * m >= raw * 0.7)
    first = math.ceil(low / step - 1e-9)
    return [float(i * step) for i in range(first, math.floor(high / step + 1e-9) + 1)]


def series(metrics: Sequence[Mapping[str, Any]], key: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps and values of one key, ordered by step; None becomes NaN, and a repeated step keeps its last value."""
    found: dict[float, float] = {}
    for position, line in enumerate(metrics):
        value = line.get(key, "")
        if value is None or (isinstance(value, (int, float)) and not isinstance(value, bool)):
            step = line.get("step", position)
            found[float(step) if formats.is_number(step) else float(position)] = math.nan if value is None else value
    steps = np.array(sorted(found), np.float64)
    return steps, np.array([found[step] for step in steps], np.float64)


def curves(metrics: Sequence[Mapping[str, Any]]) -> list[Curve]:
    """One panel per number in the metrics, those of `KNOWN` first; at most `MAX_PANELS`."""
    keys = dict.fromkeys(key for line in metrics for key in line if key not in NOT_DRAWN)
    order = [key for known in KNOWN for key in sorted(keys) if known_as(key) == known]
    order += sorted(key for key in keys if known_as(key) not in KNOWN)
    panels = [curve(key, *series(metrics, key)) for key in order if len(series(metrics, key)[0])]
    return panels[:MAX_PANELS]


def known_as(key: str) -> str:
    """The key under which `KNOWN` has it; that of one vocabulary ends with its name, words_image_stage4."""
    return next((name for name in ("words_image", "words_batch") if key.startswith(f"{name}_")), key)


def curve(key: str, steps: Float[np.ndarray, " n"], values: Float[np.ndarray, " n"]) -> Curve:
    """The panel of one key: `n` >= 1 values at increasing steps; any of them may be NaN or infinite."""
    title, hint, fraction = KNOWN.get(known_as(key), (key.replace("_", " ").capitalize(), "", False))
    title += f", {key.removeprefix(known_as(key) + '_')}" if known_as(key) != key else ""
    text: Callable[[Any], str] = formats.percent if fraction else formats.number
    finite = np.isfinite(values)
    missing = int((~finite).sum())
    if missing == len(values):
        return Curve(title=title, hint=hint, last=formats.DASH, summary=f"{title}: no finite value.", missing=missing)
    good = values[finite]
    x, low, mean, high = thin(steps, np.where(finite, values, math.nan))
    bottom, top = float(good.min()), float(good.max())
    pad = 0.06 * (top - bottom) or 0.1 * abs(top) or 1.0
    x_scale = scale(steps[0], steps[-1], LEFT, RIGHT)
    y_scale = scale(bottom - pad, top + pad, BOTTOM, TOP)
    last_x = float(steps[finite][-1])
    return Curve(
        title=title,
        hint=hint,
        last=text(float(values[-1])),
        summary=f"{title}: {text(good[0])} at step {formats.number(float(steps[finite][0]))}, {text(good[-1])} at step "
        f"{formats.number(last_x)}; least {text(bottom)}, greatest {text(top)}.",
        line=path(x_scale(x), y_scale(mean)),
        band="" if len(x) == len(steps) else band(x_scale(x), y_scale(low), y_scale(high)),
        dot=(round(float(x_scale(last_x)), 1), round(float(y_scale(good[-1])), 1)),
        x_ticks=[(round(float(x_scale(t)), 1), compact(t)) for t in ticks(float(steps[0]), float(steps[-1]))],
        y_ticks=y_ticks(bottom - pad, top + pad, y_scale, fraction),
        missing=missing,
    )


def thin(steps: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(steps, least, mean, greatest) as given up to `POINTS` values, else over `POINTS // 2` runs of neighbours.

    A run with any NaN keeps what is finite in it; one with nothing finite is NaN.
    """
    if len(steps) <= POINTS:
        return steps, values, values, values
    rows = []
    for run, x in zip(np.array_split(values, POINTS // 2), np.array_split(steps, POINTS // 2), strict=True):
        good = run[np.isfinite(run)]
        rows.append((x.mean(), *((good.min(), good.mean(), good.max()) if len(good) else (math.nan,) * 3)))
    x, low, mean, high = np.array(rows).T
    return x, low, mean, high


def scale(low: float, high: float, start: float, stop: float) -> Callable[[Any], Any]:
    """The linear map from [low, high] to [start, stop]; a single number goes to the middle."""
    if not high > low:
        return lambda value: value * 0 + (start + stop) / 2
    return lambda value: start + (value - low) * ((stop - start) / (high - low))


def path(x: np.ndarray, y: np.ndarray) -> str:
    """SVG path through the points, lifted where `y` is NaN; a lone point becomes a dot (with round line ends)."""
    parts, pen_down = [], False
    for i, (a, b) in enumerate(zip(x, y, strict=True)):
        if math.isfinite(b):
            alone = not pen_down and not (i + 1 < len(y) and math.isfinite(y[i + 1]))
            parts.append(f"{'L' if pen_down else 'M'}{a:.1f} {b:.1f}" + ("h0" if alone else ""))
        pen_down = math.isfinite(b)
    return "".join(parts)


def band(x: np.ndarray, low: np.ndarray, high: np.ndarray) -> str:
    """SVG path around the area between two lines, one closed shape per unbroken stretch."""
    shapes = []
    good = np.flatnonzero(np.isfinite(low))
    for run in np.split(good, np.flatnonzero(np.diff(good) > 1) + 1):
        there = [f"{x[i]:.1f} {high[i]:.1f}" for i in run]
        back = [f"{x[i]:.1f} {low[i]:.1f}" for i in run[::-1]]
        shapes.append("M" + "L".join(there + back) + "Z")
    return "".join(shapes)


def y_ticks(low: float, high: float, position: Callable[[Any], Any], fraction: bool) -> list[tuple[float, str]]:
    """Ticks of the vertical axis, with as many digits as tell neighbours apart."""
    places = ticks(low, high)
    step = places[1] - places[0] if len(places) > 1 else abs(places[0])
    digits = 0 if step == 0 else max(0, -math.floor(math.log10(step * (100 if fraction else 1)) + 1e-9))
    texts = [f"{100 * t:.{digits}f}%" if fraction else f"{t:,.{digits}f}" for t in places]
    if not fraction and (digits > 4 or max(map(len, texts)) > 7):
        texts = [compact(t) for t in places]
    return [(round(float(position(t)), 1), s.replace("-", formats.MINUS)) for t, s in zip(places, texts, strict=True)]


def compact(value: float) -> str:
    """A short text for a tick: 2.5k, 1.2M, 3e-5."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= size:
            size = 1e3 if unit == "k" else size
            return formats.number(value / size, 4) + unit
    return formats.number(value, 3)
