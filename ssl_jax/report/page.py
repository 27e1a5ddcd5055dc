"""Writes the page: gathers what each section shows, fills the template, puts the file in place in one step."""

import base64
import hashlib
import importlib.resources
import math
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2
import markupsafe
import numpy as np
from jaxtyping import UInt8

from ssl_jax import atomic
from ssl_jax.core import UserError
from ssl_jax.report import attention as looks
from ssl_jax.report import embedding, formats, images, plots, results
from ssl_jax.report import words as vocabulary

MAX_VIEWS, MAX_QUERIES, MAX_NEIGHBOURS, MAX_PICTURES = 8, 10, 8, 8


def write(
    path: str | os.PathLike[str],
    *,
    title: str,
    run: dict[str, Any],
    metrics: list[dict[str, Any]],
    evaluation: dict[str, Any] | None = None,
    views: UInt8[np.ndarray, "n v h w c"] | None = None,
    neighbours: dict[str, Any] | None = None,
    embedding_map: dict[str, Any] | None = None,
    pictures: dict[str, UInt8[np.ndarray, "_ _ _ _"]] | None = None,
    attention: dict[str, Any] | None = None,
    words: list[dict[str, Any]] | None = None,
) -> pathlib.Path:
    """Write the report of a run as one HTML file that loads nothing from anywhere; return its path.

    Every part may be missing; the page then says so or leaves the section out. All text is escaped.

    Args:
      path: the file, or an existing folder in which `report.html` is written.
      title: heading of the page.
      run: the record of `run.json`: `config`, `versions`, `command`, `devices`, `data`, `git`, `created`.
      metrics: the lines of `metrics.jsonl`, each with `step`, `time` (seconds) and numbers; None counts as NaN.
      evaluation: the record of `evaluation.json`, or None before the evaluation.
      views: per example its original first and then its augmented views, values 0..255.
      neighbours: `query` uint8 [n h w c], `neighbours` uint8 [n k h w c], nearest first, `similarity` float [n k],
        and `query_label`, `neighbour_label`: lists of class names in the same shape, or None.
      embedding_map: see `embedding.layout`.
      pictures: what the method makes, by name, `[n h w c]`, values 0..255: as many of one size under every name.
      attention: see `attention.rows`; besides, `block` (its number) and `query`: "cls", or "gap" for a mean of patches.
      words: see `words.vocabularies`.

    Raises:
      UserError: when the arrays of one section do not fit together.
    """
    target = pathlib.Path(path)
    target = target / "report.html" if target.is_dir() else target
    shown = (evaluation or {}).get("results") or []
    rows = results.table(shown)
    text = _render(
        title=title,
        created=formats.date(run["created"]) if run.get("created") else "",
        facts=facts(run, metrics, evaluation),
        command=formats.command_line(run.get("command")),
        config=list(formats.flatten(run.get("config") or {})),
        versions=list(formats.flatten(run.get("versions") or {})),
        provenance=provenance(run),
        warnings=warnings(metrics, evaluation, rows),
        curves=plots.curves(metrics),
        steps=len(metrics),
        evaluation=evaluation,
        columns=results.columns(shown),
        rows=rows,
        best=results.best(rows),
        views=_views(views),
        pictures=_pictures(pictures),
        neighbours=_neighbours(neighbours),
        attention=looks.rows(attention),
        block=(attention or {}).get("block"),
        query=(attention or {}).get("query"),
        vocabularies=vocabulary.vocabularies(words),
        coarse={
            "views": _coarse(views),
            "pictures": _coarse(next(iter((pictures or {}).values()), None)),
            "neighbours": _coarse((neighbours or {}).get("query")),
            "attention": _coarse((attention or {}).get("image")),
        },
        map=embedding.layout(embedding_map) if embedding_map else None,
    )
    target.parent.mkdir(parents=True, exist_ok=True)
    atomic.write_text(target, text)  # a reader never sees half a page
    return target


def _render(**context: Any) -> str:
    """Fill the template; the script is admitted by its hash, so that no other one can run on the page."""
    files = importlib.resources.files("ssl_jax.report")
    script = files.joinpath("map.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("ssl_jax", "report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=formats.dash,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("template.html").render(
        **context,
        style=markupsafe.Markup(files.joinpath("style.css").read_text(encoding="utf-8")),
        script=markupsafe.Markup(script),
        digest=digest,
        plots=plots,
        embedding=embedding,
        ours=results.OURS,
        baselines=results.BASELINES,
        percent=formats.percent,
        count="{:,}".format,
    )


def facts(
    run: Mapping[str, Any], metrics: Sequence[Mapping[str, Any]], evaluation: Mapping[str, Any] | None
) -> list[tuple[str, str]]:
    """What was trained, on what, for how long: (name, text), only what is known."""
    config, tested = run.get("config") or {}, evaluation or {}
    seconds = [float(line["time"]) for line in metrics if formats.is_number(line.get("time"))]
    steps = [line["step"] for line in metrics if formats.is_number(line.get("step"))]
    speeds = [line["images_per_second"] for line in metrics if formats.is_number(line.get("images_per_second"))]
    found = {
        "Method": _name(config.get("method")),
        "Encoder": _name(config.get("encoder")),
        "Data": _data(run.get("data")) or _data(tested.get("data")),
        "Steps": formats.number(max(steps), 12) if steps else "",
        "Goes on from": _lengthened(run.get("lengthened")),
        "Time": formats.duration(_elapsed(seconds)) if seconds else "",
        "Images per second": formats.number(float(np.median(speeds)), 3) if speeds else "",
        "Devices": _devices(run.get("devices")) if run.get("devices") else "",
        "Queue": _queue(metrics),
    }
    return [(name, text) for name, text in found.items() if text]


def provenance(run: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Where the run comes from, beyond its config and its command: (name, text)."""
    named = {"created": "Started", "git": "Source revision", "data": "Data", "devices": "Devices"}
    rows = []
    for key, name in named.items():
        value = run.get(key)
        if isinstance(value, Mapping):
            rows += [(f"{name}: {leaf}", text) for leaf, text in formats.flatten(value)]
        elif value is not None:
            rows.append((name, formats.date(value) if key == "created" else formats.describe(value)))
    return rows


def warnings(
    metrics: Sequence[Mapping[str, Any]], evaluation: Mapping[str, Any] | None, rows: Sequence[results.Row]
) -> list[str]:
    """Sentences about what a reader should not overlook."""
    found = []
    steps, loss = plots.series(metrics, "loss")
    bad = steps[~np.isfinite(loss)]
    if len(bad):
        found.append(f"The loss is not finite at {len(bad):,} of {len(loss):,} logged steps, first at {bad[0]:,.0f}.")
    for name in results.BASELINES:
        beaten = [row.protocol for row in results.best(rows) if name in row.worse]
        if beaten:
            found.append(f"No better than {name}: {'; '.join(beaten)}.")
    at = (evaluation or {}).get("step")
    last = max((line["step"] for line in metrics if formats.is_number(line.get("step"))), default=None)
    if formats.is_number(at) and last is not None and at != last:
        found.append(f"The evaluation is of step {at:,}, the curves go on to step {last:,}.")
    return found


def _queue(metrics: Sequence[Mapping[str, Any]]) -> str:
    """How full and how old a queue of features is at the last step that tells, or ""."""
    told = [line for line in metrics if formats.is_number(line.get("queue_age"))]
    if not told or not formats.is_number(told[-1].get("queue_filled")):
        return ""
    age, filled = round(told[-1]["queue_age"]), told[-1]["queue_filled"]
    oldest = f"the oldest entry is {age:,} step{'' if age == 1 else 's'} old"
    return f"full; {oldest}" if filled >= 1 else f"{formats.percent(filled)} filled, the rest as it began; {oldest}"


def _elapsed(seconds: Sequence[float]) -> float:
    """Seconds of training: the last time, or where times are seconds since 1970, their span."""
    return max(seconds) - min(seconds) if min(seconds) > 1e8 else max(seconds)


def _name(value: Any) -> str:
    """Name of a method or encoder that the config gives as text or as a record with a name."""
    if isinstance(value, Mapping):
        value = value.get("name")
    return "" if value is None else str(value)


def _lengthened(value: Any) -> str:
    """Which run a longer one goes on from, and at what step its own begin."""
    return f"{value.get('workdir')}, step {value.get('step'):,}" if isinstance(value, Mapping) else ""


def _devices(value: Any) -> str:
    """Number and kind of the devices, `8 x TPU v4`, from a record of both or from a list."""
    if isinstance(value, Mapping) and {"kind", "count"} <= value.keys():
        return f"{value['count']} x {value['kind']}"
    return formats.describe(value)


def _data(value: Any) -> str:
    """Name and size of the data, or its split where the size is not known."""
    if not isinstance(value, Mapping):
        return "" if value is None else str(value)
    size = next((value[key] for key in ("examples", "size", "length") if formats.is_number(value.get(key))), None)
    name = value.get("name") or value.get("train")
    extent = value.get("split") if size is None else f"{size:,} images"
    return ", ".join(str(part).strip("<>") for part in (name, extent) if part)


def _coarse(pictures: np.ndarray | None) -> bool:
    """True for pictures so small that sharp pixels say more than a blur."""
    return pictures is not None and max(np.shape(pictures)[-3:-1], default=0) <= 40


def _views(views: np.ndarray | None) -> list[list[str]]:
    """Data URIs, one row per example: the original, then its views."""
    if views is None or not len(views):
        return []
    views = views[:MAX_VIEWS]
    flat = images.gallery(views.reshape(-1, *views.shape[2:]))
    width = views.shape[1]
    return [flat[i : i + width] for i in range(0, len(flat), width)]


def _pictures(given: Mapping[str, np.ndarray] | None) -> list[tuple[str, list[str]]]:
    """A row of data URIs under every name."""
    if not given or not all(map(len, given.values())):
        return []
    if len({x.shape for x in given.values()}) > 1:
        shapes = ", ".join(f"{name} {x.shape}" for name, x in given.items())
        raise UserError(f"The method's pictures differ in number or size: {shapes}.")
    rows = np.stack([np.asarray(x)[:MAX_PICTURES] for x in given.values()])
    flat = images.gallery(rows.reshape(-1, *rows.shape[2:]))
    return [(name, flat[i * rows.shape[1] : (i + 1) * rows.shape[1]]) for i, name in enumerate(given)]


def _neighbours(given: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """One record per query: its picture and label, and of its neighbours picture, label, similarity, and if right."""
    if not given or not len(given["query"]):
        return []
    query, found = np.asarray(given["query"])[:MAX_QUERIES], np.asarray(given["neighbours"])
    similarity = np.asarray(given["similarity"], np.float64)
    if len(found) != len(given["query"]) or similarity.shape != found.shape[:2]:
        raise UserError(
            f"The neighbours do not fit their queries: {len(given['query'])} queries, neighbours of shape "
            f"{found.shape}, similarities of shape {similarity.shape}."
        )
    found = found[:MAX_QUERIES, :MAX_NEIGHBOURS]
    k = found.shape[1]
    pictures = images.gallery(np.concatenate([query[:, None], found], axis=1).reshape(-1, *query.shape[1:]), 700_000)
    own, theirs = given.get("query_label"), given.get("neighbour_label")
    rows = []
    for i in range(len(query)):
        row = pictures[i * (k + 1) : (i + 1) * (k + 1)]
        label = None if own is None else str(own[i])
        labels = [None if theirs is None else str(theirs[i][j]) for j in range(k)]
        cells = [
            {"image": row[j + 1], "label": labels[j], "similarity": _similarity(similarity[i, j]),
             "wrong": label is not None and labels[j] is not None and labels[j] != label}
            for j in range(k)
        ]  # fmt: skip
        rows.append({"image": row[0], "label": label, "cells": cells})
    return rows


def _similarity(value: float) -> str:
    """Two decimals, or a dash."""
    return f"{value:.2f}".replace("-", formats.MINUS) if math.isfinite(value) else formats.DASH
