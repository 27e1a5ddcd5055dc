"""The record of evaluations, when several write it."""

import errno
import fcntl
import json
import math
import threading

import numpy as np

from ssl_jax import data, lock, results
from ssl_jax.protocols import Task


def opened(directory, protocol: str, *, step: int = 5, **options) -> results.Record:
    source = data.from_arrays(np.zeros((2, 4, 4, 1), np.uint8), np.arange(2))
    task = Task(train=source, test=source, seed=0, prepare=lambda x: x, normalize={}, size=4, channels=1)
    names = {"encoder": "student", "layers": [None], "options": {protocol: options}}
    return results.Record(directory, task, config={}, step=step, seed=0, **names)


def add(record: results.Record, value: float, *, sets: list[str] | None = None) -> None:
    [protocol] = record.head["protocols"]
    row = {"protocol": protocol, "metric": "accuracy", "value": value, "std": None, "share": True, "setting": {}}
    record.add(record.key("this run", protocol, layer="pooled", sets=sets), [row])


def shown(record: results.Record) -> list[str]:
    """Figures in the table of the latest call."""
    return [line.split()[-1] for line in results.table(record.write()).splitlines()[1:]]


def held(record) -> list[tuple[str, float]]:
    return [(row["protocol"], row["value"]) for row in record["results"]]


def test_two_evaluations_at_once_keep_each_others_rows(tmp_path):
    """The quick one begins and ends while the slow one is at work; a later row stands in for one that says the same."""
    slow = opened(tmp_path, "linear")
    quick = opened(tmp_path, "knn")
    add(quick, 0.25)
    add(opened(tmp_path, "linear"), 0.5)
    add(slow, 0.75)
    rows = [("knn", 0.25), ("linear", 0.75)]
    assert held(results.read(tmp_path)) == held(slow.write()) == rows
    assert slow.has(quick.key("this run", "knn", layer="pooled"))
    add(opened(tmp_path, "knn", step=6), 0.0)
    assert held(slow.write()) == [*rows, ("knn", 0.0)]
    assert results.table(slow.write()).split()[-2:] == ["linear", "75.00"]


def test_rows_of_other_options_stand_beside_each_other_and_only_those_asked_for_are_shown(tmp_path):
    """Although they tell the same of themselves; the report shows one, of the latest call."""
    add(opened(tmp_path, "linear"), 0.5)
    other = opened(tmp_path, "linear", trials=2)
    add(other, 0.75)
    first = opened(tmp_path, "linear")
    assert first.has(first.key("this run", "linear", layer="pooled"))
    assert (shown(first), shown(other)) == (["50.00"], ["75.00"])
    assert [[r["value"] for r in results.current(record.write())] for record in (first, other)] == [[0.5], [0.75]]
    assert held(first.write()) == [("linear", 0.5), ("linear", 0.75)]


def test_named_data_that_has_changed_takes_the_place_of_what_it_was(tmp_path):
    record = opened(tmp_path, "svm", data="voc:here")
    add(record, 0.5, sets=["a", "b"])
    assert record.has(record.key("this run", "svm", layer="pooled", sets=["a", "b"]))
    assert not record.has(record.key("this run", "svm", layer="pooled", sets=["a", "c"]))
    add(record, 0.25, sets=["a", "c"])
    assert held(record.write()) == [("svm", 0.25)]


def test_files_without_options_of_the_call_are_read(tmp_path):
    """As early versions wrote them: their rows are kept and shown by protocol."""
    record = opened(tmp_path, "knn")
    add(record, 0.5)
    old = json.loads(record.path.read_text())
    del old["options"]
    record.path.write_text(json.dumps(old))
    assert [row["value"] for row in results.asked(results.read(tmp_path))] == [0.5]
    again = opened(tmp_path, "knn")
    assert again.has(again.key("this run", "knn", layer="pooled"))


def test_one_writes_while_the_other_waits(tmp_path, monkeypatch):
    """Where the file system knows locks; elsewhere it writes without."""
    first, second = opened(tmp_path, "knn"), opened(tmp_path, "linear")
    writer = threading.Thread(target=add, args=(second, 0.5))
    with lock.briefly(tmp_path / results.LOCK):
        writer.start()
        writer.join(0.2)
        assert writer.is_alive()
        assert results.read(tmp_path) is None
    writer.join()

    def unknown(file, how):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", unknown)
    add(first, 0.25)
    assert held(results.read(tmp_path)) == [("linear", 0.5), ("knn", 0.25)]
    said = []
    with lock.hold(tmp_path, said.append):
        assert "knows no locks" in said[0]


def test_what_is_not_finite_is_shown_as_such(tmp_path):
    add(opened(tmp_path, "quality"), math.nan)
    record = opened(tmp_path, "quality").write()
    assert held(record) == [("quality", None)]
    assert results.table(record).splitlines()[1].split() == ["quality", "nan"]
