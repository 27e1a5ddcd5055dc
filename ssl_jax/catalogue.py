"""The table of what there is, read off the methods themselves and off what was measured."""

import functools
import importlib
import importlib.resources
import inspect
import json
import re
import statistics
from collections.abc import Mapping
from typing import Any

from ssl_jax import methods
from ssl_jax.core import Card

FAMILIES = (
    "input space",
    "pretext",
    "contrastive",
    "teacher and student",
    "decorrelation and clustering",
    "yardstick",
)
FIGURES = "small budget: k-NN / linear / 10 labels"


def module(name: str) -> Any:
    """A method's module (in the package, its name stands for the factory)."""
    return importlib.import_module(f"ssl_jax.methods.{name}")


def card(name: str) -> Card:
    """What a method's module says about itself."""
    return module(name).CARD


def summary(name: str) -> tuple[str, str]:
    """Title and idea, from the first sentence of a method's module: `Title: idea (Authors, venue).`."""
    paragraph = " ".join((inspect.getdoc(module(name)) or "").split("\n\n")[0].split())
    title, _, idea = paragraph.partition(": ")
    return title, idea.rstrip(".")


def idea(name: str) -> str:
    """The idea without authors and venue, for tables."""
    return re.sub(r" \([^()]*(\([^()]*\)[^()]*)*\)$", "", summary(name)[1])


def names() -> list[str]:
    """All methods, family by family."""
    return sorted(methods.__all__, key=lambda name: (FAMILIES.index(card(name).family), name))


@functools.cache
def measured() -> dict[str, Any]:
    """Figures of the small budget by config (`python -m benchmarks.methods --write`), means over `by_seed`'s."""
    file = importlib.resources.files("ssl_jax") / "measured.json"
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}


def figures_of(name: str) -> dict[str, Any] | None:
    """Figures of a method's small form, or None if it was not measured."""
    found = (measured().get(f"{name}:{variant}") for variant in ("fashion_mnist", "photos"))
    return next((figures for figures in found if figures), None)


def by_seed(figures: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """A config's figures of each seed: `{"0": {"run", "untrained", "raw", "cpu_seconds", "peak_mb"}, ...}`."""
    if "seeds" in figures:
        return dict(figures["seeds"])
    names = ("run", "untrained", "raw", "cpu_seconds", "peak_mb")
    return {str(figures["seed"]): {name: figures[name] for name in names}}


def mean(figures: Mapping[str, Any], key: str) -> float:
    """Mean over seeds of a config's accuracy "knn", "linear" or "labels_10", in percent, rounded nowhere before."""
    return statistics.mean(seed["run"][key] for seed in by_seed(figures).values())


def figures_text(name: str) -> str:
    """K-NN, linear and ten labels per class in percent, for tables."""
    figures = figures_of(name)
    if figures is None:
        return "not measured"
    text = " / ".join(f"{mean(figures, key):.1f}" for key in ("knn", "linear", "labels_10"))
    return text if figures["data"] == "fashion_mnist" else f"{text} ({figures['data']})"


def table() -> str:
    """Lines of text, family by family: idea and measured figures first, since terminals are narrow."""
    rows: list[tuple[str, ...]] = [("method", "idea", FIGURES, "state it keeps", "papers", "published", "encoders")]
    for name in names():
        about = card(name)
        if f"{about.family}:" not in (row[0] for row in rows):
            rows.append((f"{about.family}:", *[""] * (len(rows[0]) - 1)))
        state, papers = ", ".join(about.state) or "none", ", ".join(about.papers)
        rows.append((name, idea(name), figures_text(name), state, papers, about.published, about.encoders))
    columns = list(zip(*(row for row in rows if row[1]), strict=True))  # a family's name may reach over its column
    widths = [max(map(len, column)) for column in columns]
    lines = ["  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join(lines)
