"""The picture of a claim as an SVG file: curves with least and most over seeds, heat maps, bars with each seed."""

import pathlib
from typing import Any

import numpy as np

from benchmarks.claims.finding import Finding


def draw(finding: Finding, path: pathlib.Path) -> None:
    """Draw all panels of a finding side by side."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams.update({"svg.hashsalt": "ssl_jax", "svg.fonttype": "none", "font.size": 9})  # text stays text
    from matplotlib import pyplot

    panels: list[tuple[str, Any]] = [(title, curves) for title, curves in finding.curves.items()]
    count = len(panels) + len(finding.tables) + len(finding.bars)
    tall = max([3.0, *(0.32 * len(table) + 1.2 for table in finding.tables.values())])
    figure, axes = pyplot.subplots(1, count, figsize=(4.2 * count, tall), squeeze=False)
    rest = iter(axes[0])
    for title, curves in panels:
        _curves(next(rest), title, curves, finding)
    for title, table in finding.tables.items():
        _heat_map(next(rest), title, table)
    for name in finding.bars:
        _bars(next(rest), name, finding)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)


def _curves(axis: Any, title: str, curves: dict, finding: Finding) -> None:
    marker = "o" if finding.log else ""
    for name, (positions, runs) in curves.items():
        values = np.asarray(runs)
        line = axis.plot(positions, values.mean(axis=0), label=name, marker=marker, markersize=3)[0]
        axis.fill_between(positions, values.min(axis=0), values.max(axis=0), color=line.get_color(), alpha=0.2)
    if finding.log:
        ticks = sorted({position for positions, _ in curves.values() for position in positions})
        axis.set_xscale("log")
        axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axis.minorticks_off()
    axis.set_title(title)
    axis.set_xlabel(finding.x)
    axis.legend()


def _heat_map(axis: Any, title: str, table: dict[str, dict[str, float]]) -> None:
    columns = list(dict.fromkeys(column for row in table.values() for column in row))
    values = np.array([[row.get(column, np.nan) for column in columns] for row in table.values()])
    axis.imshow(values, cmap="viridis", aspect="auto")
    axis.set_xticks(range(len(columns)), columns)
    axis.set_yticks(range(len(table)), list(table))
    middle = (np.nanmin(values) + np.nanmax(values)) / 2
    for (i, j), value in np.ndenumerate(values):
        if np.isfinite(value):
            colour = "white" if value < middle else "black"  # viridis is dark where values are low
            axis.text(j, i, f"{value:.1f}", ha="center", va="center", color=colour)
    axis.set_title(title)


def _bars(axis: Any, name: str, finding: Finding) -> None:
    found = {setting: figures[name] for setting, figures in finding.figures.items() if figures.get(name)}
    for place, values in enumerate(found.values()):
        axis.barh(place, np.mean(values), color="tab:blue", alpha=0.5)
        axis.plot(values, np.full(len(values), place), "k.")
    every = np.concatenate(list(found.values()))
    room = 0.2 * float(every.max() - every.min()) or 1.0
    axis.set_xlim(every.min() - room, every.max() + room)
    axis.set_yticks(range(len(found)), list(found))
    axis.invert_yaxis()
    axis.set_title(name)
