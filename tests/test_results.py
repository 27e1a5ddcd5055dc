"""The record of evaluations, when several write it."""

import errno
import fcntl
import math
import threading

import numpy as np

from ssl_jax import data, lock, results
from ssl_jax.protocols import Task


def opened(directory, protocol: str, *, step: int = 5) -> results.Record:
    source = data.from_arrays(np.zeros((2, 4, 4, 1), np.uint8), np.arange(2))
    task = Task(train=source, test=source, seed=0, prepare=lambda x: x, normalize={}, size=4, channels=1)
    names = {"encoder": "student", "layers": [None], "protocols": [protocol]}
    return results.Record(directory, task, config={}, step=step, seed=0, **names)


def add(record: results.Record, protocol: str, value: float, **options) -> None:
    row = {"protocol": protocol, "metric": "accuracy", "value": value, "std": None, "share": True, "setting": {}}
    record.add(record.key("this run", protocol, options, "pooled"), [row])


def held(record) -> list[tuple[str, float]]:
    return [(row["protocol"], row["value"]) for row in record["results"]]


def test_two_evaluations_at_once_keep_each_others_rows(tmp_path):
    """The quick one begins and ends while the slow one is at work; a later row stands in for one that says the same."""
    slow = opened(tmp_path, "linear")
    add(slow, "linear", 0.5)
    quick = opened(tmp_path, "knn")
    add(quick, "knn", 0.25)
    add(quick, "linear", 0.75, epochs=9)
    add(slow, "svm", 1.0)
    rows = [("knn", 0.25), ("linear", 0.75), ("svm", 1.0)]
    assert held(results.read(tmp_path)) == held(slow.write()) == rows
    assert slow.has(quick.key("this run", "knn", {}, "pooled"))
    add(opened(tmp_path, "knn", step=6), "knn", 0.0)
    assert held(slow.write()) == [*rows, ("knn", 0.0)]
    assert results.table(slow.write()).split()[-2:] == ["linear", "75.00"]


def test_one_writes_while_the_other_waits(tmp_path, monkeypatch):
    """Where the file system knows locks; elsewhere it writes without."""
    first, second = opened(tmp_path, "knn"), opened(tmp_path, "linear")
    writer = threading.Thread(target=add, args=(second, "linear", 0.5))
    with lock.briefly(tmp_path / results.LOCK):
        writer.start()
        writer.join(0.2)
        assert writer.is_alive()
        assert results.read(tmp_path) is None
    writer.join()

    def unknown(file, how):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", unknown)
    add(first, "knn", 0.25)
    assert held(results.read(tmp_path)) == [("linear", 0.5), ("knn", 0.25)]
    said = []
    with lock.hold(tmp_path, said.append):
        assert "knows no locks" in said[0]


def test_what_is_not_finite_is_shown_as_such(tmp_path):
    add(opened(tmp_path, "quality"), "quality", math.nan)
    record = opened(tmp_path, "quality").write()
    assert held(record) == [("quality", None)]
    assert results.table(record).splitlines()[1].split() == ["quality", "nan"]
