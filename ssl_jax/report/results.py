"""The evaluation as a table: this run beside raw pixels and a random encoder, and the difference to each."""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

from ssl_jax.report import formats

OURS = "this run"
BASELINES = ("raw pixels", "random encoder")
TITLES = {"knn": "k-NN", "linear": "Linear probe"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """One protocol with one setting.

    Attributes:
      protocol: its name.
      setting: text of the setting of this run's result.
      cells: feature name -> `Cell`; every name of the table is there.
      gains: baseline -> difference in points as text, "" where it cannot be told.
      worse: baselines that are at least as good as this run.
    """

    protocol: str
    setting: str
    cells: dict[str, "Cell"]
    gains: dict[str, str]
    worse: tuple[str, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cell:
    """One figure: as text, as a share (0..1) or None, its spread, and a note when its setting is another one."""

    share: float | None
    text: str
    spread: str = ""
    note: str = ""


def title(protocol: str) -> str:
    """What a reader sees for a protocol's name: `knn` is k-NN, others but k-NN start with a capital letter."""
    capital = protocol if protocol.startswith("k-NN") else protocol[:1].upper() + protocol[1:]
    return TITLES.get(protocol, capital)


def settings(result: Mapping[str, Any] | None) -> dict[str, Any]:
    """What a result's setting and layer add to its protocol's name; what was found besides is no setting."""
    labels, given = (result or {}).get("labels"), (result or {}).get("setting") or {}
    told = re.findall(r"\w+", str((result or {}).get("protocol")))
    layer = ((result or {}).get("of") or {}).get("layer", "pooled")
    return {
        **({} if layer == "pooled" else {"layer": layer}),
        **({} if labels is None else {"labelled images": labels}),
        **{
            key.replace("_", " "): value
            for key, value in given.items()
            if not key.endswith(("accuracy", "confidence")) and not (isinstance(value, int) and str(value) in told)
        },
    }


def columns(results: Sequence[Mapping[str, Any]]) -> list[str]:
    """The features compared: this run and the baselines always, others after them."""
    return list(dict.fromkeys([OURS, *BASELINES, *(str(r.get("features")) for r in results)]))


def table(results: Sequence[Mapping[str, Any]]) -> list[Row]:
    """One row per protocol, metric and setting of this run; a baseline's cell has the same setting, or its best one.

    Protocols without a result of this run get one row, with the best result of each baseline.
    """
    names = columns(results)
    rows = []
    for protocol in dict.fromkeys(_named(r) for r in results):
        of = [r for r in results if _named(r) == protocol]
        ours: list[Any] = [r for r in of if r.get("features") == OURS]
        rows += [_row(protocol, result, of, names) for result in (ours or [None])]
    return rows


def _named(result: Mapping[str, Any]) -> str:
    """A result's protocol, with its metric where that is no accuracy."""
    metric = result.get("metric", "accuracy")
    return f"{result.get('protocol')}{'' if metric == 'accuracy' else f', {metric}'}"


def best(rows: Sequence[Row]) -> list[Row]:
    """The row with the highest share of this run, for each protocol that has one; protocols in their order."""
    top: dict[str, Row] = {}
    for row in rows:
        value = row.cells[OURS].share
        if value is not None and (row.protocol not in top or value > (top[row.protocol].cells[OURS].share or 0)):
            top[row.protocol] = row
    return list(top.values())


def _row(protocol: str, result: Mapping[str, Any] | None, of: Sequence[Mapping[str, Any]], names: list[str]) -> Row:
    """The row of one result of this run, or of a protocol without one."""
    setting = settings(result)
    cells = {name: _cell(result) if name == OURS else _match(of, name, setting) for name in names}
    ours = cells[OURS].share
    gains, worse = {}, []
    for name in BASELINES:
        other = cells[name].share
        gains[name] = ""
        if ours is not None and other is not None:
            gains[name] = formats.percent(ours - other, signed=True)
            worse += [name] if ours <= other else []
    return Row(
        protocol=title(protocol),
        setting=formats.describe(setting) if setting else "",
        cells=cells,
        gains=gains,
        worse=tuple(worse),
    )


def _match(of: Sequence[Mapping[str, Any]], name: str, setting: dict[str, Any]) -> Cell:
    """The result of other features with the same setting, else their best one with a note of what is different."""
    results = [r for r in of if str(r.get("features")) == name]
    for result in results:
        if settings(result) == setting:
            return _cell(result)
    finite = [r for r in results if formats.is_number(r.get("value"))]
    if not finite:
        return _cell(results[0] if results else None)
    result = max(finite, key=lambda r: r["value"])
    other = {key: value for key, value in settings(result).items() if setting.get(key) != value}
    return dataclasses.replace(_cell(result), note=formats.describe(other) if other else "")


def _cell(result: Mapping[str, Any] | None) -> Cell:
    """Text of one result; a dash when there is none or it is not finite."""
    value: Any = (result or {}).get("value")
    if result is None or not formats.is_number(value):
        return Cell(share=None, text=formats.DASH)
    share = result.get("share", True)
    spread = ""
    if _has(result, "std"):
        spread = f"{100 * result['std']:.1f}" if share else formats.number(result["std"], 2)
    if spread and _has(result, "trials"):
        spread += f", {result['trials']} trials"
    confidence: Any = (result.get("setting") or {}).get("confidence")
    if formats.is_number(confidence):
        spread = f"{100 * confidence:.1f}, 95 % interval"
    text = formats.percent(value) if share else formats.number(value)
    return Cell(share=float(value) if share else None, text=text, spread=spread and f"± {spread}")


def _has(result: Mapping[str, Any], name: str) -> bool:
    return formats.is_number(result.get(name))
