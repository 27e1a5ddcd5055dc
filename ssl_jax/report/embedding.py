"""Geometry of the embedding map: where the dots, the colours and the class names go."""

import dataclasses
from typing import Any

import numpy as np

from ssl_jax.core import UserError
from ssl_jax.report import images

SIZE = 600
MARGIN = 24
COLOURS = 12  # more than a dozen colours cannot be told apart: rarer classes share grey
MAX_POINTS = 3000


@dataclasses.dataclass(frozen=True, kw_only=True)
class Group:
    """The dots of one class: name, colour (0: grey), count, SVG path, and where its name goes on the map (or None)."""

    name: str
    colour: int
    count: int
    path: str
    anchor: tuple[float, float] | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Map:
    """The whole map. The sheet holds one thumbnail per dot, in the order of the groups and of the dots in their paths.

    `height` is in the same units as `SIZE`, the width; `sheet` is a data URI or None.
    """

    method: str
    height: float
    count: int
    groups: list[Group]
    labelled: bool
    sheet: str | None
    columns: int
    rows: int


def layout(given: dict[str, Any]) -> Map | None:
    """Place the points of an embedding map; None when none of them is finite.

    Args:
      given: `xy` float [m 2]; and, each of them optional, `label` int [m], `classes` tuple of names, `thumbnails`
        uint8 [m h w c], `method` (what made the map, "t-SNE").

    Raises:
      UserError: when the lengths do not agree.
    """
    xy = np.asarray(given["xy"], np.float64)
    label, thumbnails = given.get("label"), given.get("thumbnails")
    for name, array in (("label", label), ("thumbnails", thumbnails)):
        if array is not None and len(array) != len(xy):
            raise UserError(f"The embedding map has {len(xy)} points but {len(array)} entries in {name!r}.")
    keep = np.flatnonzero(np.isfinite(xy).all(axis=1))
    keep = keep[np.linspace(0, len(keep) - 1, min(len(keep), MAX_POINTS)).astype(int)] if len(keep) else keep
    if not len(keep):
        return None
    points, height = _fit(xy[keep])
    labels = np.zeros(len(keep), int) if label is None else np.asarray(label)[keep]
    groups, order = _groups(points, labels, given.get("classes"), label is not None)
    sheet, columns, rows = None, 0, 0
    if thumbnails is not None:
        sheet, columns, rows = images.sheet(np.asarray(thumbnails)[keep][order])
    return Map(
        method=str(given.get("method") or "2-D map"),
        height=round(height, 1),
        count=len(keep),
        groups=groups,
        labelled=label is not None,
        sheet=sheet,
        columns=columns,
        rows=rows,
    )


def _fit(xy: np.ndarray) -> tuple[np.ndarray, float]:
    """Scale both axes alike into the drawing; flat maps get a lower drawing, within limits."""
    low, high = xy.min(axis=0), xy.max(axis=0)
    span = np.maximum(high - low, 1e-12 * max(float(np.abs(xy).max()), 1.0))
    factor = (SIZE - 2 * MARGIN) / max(span[0], span[1])
    height = max(float(span[1] * factor), SIZE / 2 - 2 * MARGIN) + 2 * MARGIN
    centred = (xy - (low + high) / 2) * factor
    return np.stack([SIZE / 2 + centred[:, 0], height / 2 - centred[:, 1]], axis=1), height


def _groups(
    points: np.ndarray, labels: np.ndarray, classes: tuple[str, ...] | None, labelled: bool
) -> tuple[list[Group], np.ndarray]:
    """One group per class, the most frequent `COLOURS` with a colour, and the order of the points within them."""
    found, counts = np.unique(labels, return_counts=True)
    chosen = sorted(found[np.argsort(-counts, kind="stable")][:COLOURS].tolist()) if labelled else []
    members = [np.flatnonzero(~np.isin(labels, chosen))] + [np.flatnonzero(labels == c) for c in chosen]
    names = ["other classes" if labelled else "all"]
    names += [str(classes[c]) if classes is not None and 0 <= c < len(classes) else str(c) for c in chosen]
    room = [min(6.0 * len(name), SIZE / 2) for name in names[1:]]  # half the width of a name on the map
    anchors = _spread(np.array([_dense(points[m]) for m in members[1:]]), room)
    groups = [
        Group(
            name=name,
            colour=colour if labelled else 1,
            count=len(rows),
            path="".join(f"M{x:.1f} {y:.1f}h0" for x, y in points[rows]),
            anchor=anchors[colour - 1] if colour else None,
        )
        for colour, (name, rows) in enumerate(zip(names, members, strict=True))
        if len(rows)
    ]
    return groups, np.concatenate(members)


def _dense(points: np.ndarray, reach: float = 40.0) -> np.ndarray:
    """The point with most others near it: a mean would put the name of a split class between its parts."""
    sample = points[:: -(-len(points) // 500)]
    near = ((sample[:, None] - points[None]) ** 2).sum(axis=-1) < reach**2
    top = sample[near.sum(axis=1).argmax()]
    return points[((points - top) ** 2).sum(axis=-1) < reach**2].mean(axis=0)


def _spread(
    anchors: np.ndarray, room: list[float], gap: float = 26.0, width: float = 100.0
) -> list[tuple[float, float]]:
    """Keep names inside, and move those that would cover one another apart, up and down, a little at a time."""
    anchors, gap, width = anchors.reshape(-1, 2), 26.0, 100.0
    for _ in range(60):
        for i in range(len(anchors)):
            for j in range(i):
                dx, dy = np.abs(anchors[i] - anchors[j])
                if dx < width and dy < gap:
                    push = (gap - dy) / 2 * (1 if anchors[i, 1] >= anchors[j, 1] else -1)
                    anchors[i, 1] += push
                    anchors[j, 1] -= push
    inside = [min(max(float(x), half), SIZE - half) for x, half in zip(anchors[:, 0], room, strict=True)]
    return [(round(x, 1), round(float(y), 1)) for x, y in zip(inside, anchors[:, 1], strict=True)]
