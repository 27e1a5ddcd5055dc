"""Curves of a claim as an SVG file: a line per setting, its mean over seeds, and a band from the least to the most."""

import pathlib

import numpy as np

from benchmarks.claims.runs import Finding


def draw(finding: Finding, path: pathlib.Path) -> None:
    """Draw all panels of a finding side by side."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams.update({"svg.hashsalt": "ssl_jax", "font.size": 9})  # the same file each time
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(finding.curves), figsize=(4.2 * len(finding.curves), 3), squeeze=False)
    for axis, (title, curves) in zip(axes[0], finding.curves.items(), strict=True):
        for name, (steps, runs) in curves.items():
            values = np.asarray(runs)
            line = axis.plot(steps, values.mean(axis=0), label=name)[0]
            axis.fill_between(steps, values.min(axis=0), values.max(axis=0), color=line.get_color(), alpha=0.2)
        axis.set_title(title)
        axis.set_xlabel("step")
    axes[0][0].legend()
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)
