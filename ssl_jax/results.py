"""The record of a run's evaluations, `evaluation.json`: it grows row by row, and says of every row what it is of."""

import importlib.metadata
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from ssl_jax import lock, workdir
from ssl_jax.evaluation.features import POOLED
from ssl_jax.protocols import Row, Task

LOCK = ".evaluation.lock"  # not the run's own, for a run may be evaluated while it is trained


class Record:
    """Results so far, kept on disk; those of other data, or of another version of the library, are left behind."""

    def __init__(
        self,
        directory: pathlib.Path,
        task: Task,
        *,
        config: Mapping[str, Any],
        step: int,
        encoder: str,
        layers: Sequence[str | None],
        options: Mapping[str, Mapping[str, Any]],
        seed: int,
    ):
        """Open the record of a directory, for a call with these arguments.

        `options` are those given to each protocol that is asked for; `config` is what the run was trained by.
        """
        self.path = directory / "evaluation.json"
        self.of = {"step": step, "encoder": encoder, "seed": seed}
        names = [layer or POOLED for layer in layers]
        self.head: dict[str, Any] = {**self.of, "layers": names, "protocols": list(options)}
        self.head["options"] = plain(options)
        self.head["version"] = importlib.metadata.version("ssl_jax")
        self.head["data"] = {
            "train": repr(task.train),
            "test": repr(task.test),
            "fingerprint": [task.train.fingerprint, task.test.fingerprint],
        }
        self.head["config"] = plain(config)
        self.results = self._there()

    def key(
        self, features: str, protocol: str, *, layer: str | None, sets: Sequence[str] | None = None
    ) -> dict[str, Any]:
        """What tells rows apart; raw pixels are the same whatever the step, network or layer.

        `layer` is None for what is of the network as a whole; `sets` are fingerprints of data that options name.
        """
        own = {} if features == "raw pixels" else self.of | ({} if layer is None else {"layer": layer})
        own |= {"sets": list(sets)} if sets else {}
        options = self.head["options"][protocol]
        return {"features": features, "protocol": protocol, "seed": self.of["seed"], "options": options, **own}

    def has(self, key: Mapping[str, Any]) -> bool:
        """Whether rows with this key are there."""
        return any(result["of"] == key for result in self.results)

    def _there(self) -> list[Row]:
        """Rows on disk, if they are of the same data and version."""
        before = read(self.path.parent) or {}
        same = all(before.get(name) == self.head[name] for name in ("version", "data"))
        return before["results"] if same else []

    def add(self, key: Mapping[str, Any], rows: Sequence[Row]) -> None:
        """Add all rows of a key, in the place of those that are of the same, and write the file."""
        added = [
            {"features": key["features"], **row, "setting": plain(row["setting"]), "of": dict(key)} for row in rows
        ]
        self.write(added)

    def write(self, added: Sequence[Row] = ()) -> dict[str, Any]:
        """Write the file, with what other processes have written meanwhile, and return what it holds."""
        with lock.briefly(self.path.with_name(LOCK)):
            self.results = _replace(_replace(self.results, self._there()), added)
            record = {**self.head, "results": self.results}
            workdir.write_json(self.path, record)
        return record


def _replace(results: Sequence[Row], newer: Sequence[Row]) -> list[Row]:
    """Results with newer ones in the place of those that are of the same."""
    same = {_identity(result) for result in newer}
    return [*(result for result in results if _identity(result) not in same), *newer]


def _identity(result: Row) -> str:
    """What a row is of; named data that has changed since takes the place of what it was."""
    return json.dumps({name: value for name, value in result["of"].items() if name != "sets"}, sort_keys=True)


def _said(result: Row) -> str:
    """What a row tells of itself: its name, setting and all that it is of, but for options that don't show in these."""
    of = {name: value for name, value in result["of"].items() if name not in ("options", "sets")}
    return json.dumps([result["protocol"], result["metric"], result["setting"], of], sort_keys=True)


def plain(value: Any) -> Any:
    """As JSON gives it back: tuples become lists."""
    return json.loads(json.dumps(value))


def read(directory: pathlib.Path) -> dict[str, Any] | None:
    """The record of a run, or None if there is none that can be read."""
    try:
        record = json.loads((directory / "evaluation.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) and "results" in record else None


def current(record: Mapping[str, Any]) -> list[Row]:
    """The rows of the step, network and seed that were evaluated last.

    Of those that tell the same of themselves, though their options differed, the one that the latest call asked for,
    or else the newest.
    """
    same = {name: record[name] for name in ("step", "encoder", "seed")}
    rows = [result for result in record["results"] if all(result["of"].get(n, v) == v for n, v in same.items())]
    shown = {_said(result): result for result in (*rows, *_asked(record, rows))}
    return [result for result in rows if shown[_said(result)] is result]


def asked(record: Mapping[str, Any]) -> list[Row]:
    """Of the current rows those that the latest call asked for: of its protocols with their options, and layers."""
    return _asked(record, current(record))


def _asked(record: Mapping[str, Any], rows: Sequence[Row]) -> list[Row]:
    layers, options = [None, *record["layers"]], record.get("options")  # none in files of early versions
    return [
        result
        for result in rows
        if (of := result["of"])["protocol"] in record["protocols"]
        and of.get("layer") in layers
        and (options is None or of["options"] == options[of["protocol"]])
    ]


def name_of(result: Row, layers: Sequence[str]) -> str:
    """A row's protocol, with its layer where there are several and its metric where it is no accuracy."""
    layer = result["of"].get("layer")
    metric = "" if result["metric"] == "accuracy" else f", {result['metric']}"
    return result["protocol"] + metric + (f", {layer}" if layer and len(layers) > 1 else "")


def table(record: Mapping[str, Any]) -> str:
    """What the latest call asked for as lines of text: a row per figure, a column per kind of features."""
    rows = asked(record)
    columns = list(dict.fromkeys(result["features"] for result in rows))
    cells: dict[tuple[str, str], str] = {}
    for result in rows:
        for name in names_of(result, rows, record["layers"]):
            cells[name, result["features"]] = cell(result)
    names = list(dict.fromkeys(name for name, _ in cells))
    width = max(map(len, names), default=0)
    lines = [" " * width + "".join(f"{column:>18}" for column in columns)]
    lines += [f"{n:<{width}}" + "".join(f"{cells.get((n, c), ''):>18}" for c in columns) for n in names]
    return "\n".join(lines)


def names_of(result: Row, rows: Sequence[Row], layers: Sequence[str]) -> list[str]:
    """Names of the lines that a row stands in: raw pixels, which have no layer, in those of all layers."""
    if "layer" in result["of"]:
        return [name_of(result, layers)]
    same = [r for r in rows if r["protocol"] == result["protocol"] and r["metric"] == result["metric"]]
    return list(dict.fromkeys(name_of(r, layers) for r in same if "layer" in r["of"])) or [name_of(result, layers)]


def cell(result: Row) -> str:
    """A figure with its deviation over trials, or half of its 95 % confidence interval; shares in percent."""
    value, spread = result["value"], result["setting"].get("confidence", result["std"])
    if value is None:  # as JSON has what is not finite
        return "nan"
    if result["share"]:
        return f"{100 * value:.2f}" + ("" if spread is None else f" ± {100 * spread:.1f}")
    return f"{value:.4g}" + ("" if spread is None else f" ± {spread:.2g}")
