"""Files that are whole at any time: on the disk before they have their name, and the old one until then."""

import os
import re

import numpy as np
import pytest

from ssl_jax import atomic, interop, lengthen, warm_start, workdir


def rewrite_history(folder):
    (folder / "metrics.jsonl").write_text('{"step": 1, "time": 1.0}\n{"step": 2, "time": 2.0}\n')
    workdir.MetricWriter(folder, step=1).close()


def copy_checkpoint(folder):
    (folder / "7").mkdir()
    (folder / "7" / "array").write_bytes(b"bits")
    lengthen._copy(folder / "7", folder / "lengthened")


def keep_weights(folder):
    (folder / "given.npz").write_bytes(b"weights")
    warm_start.keep(folder / "given.npz", folder, begun=False)


WRITERS = {
    "run.json": lambda folder: workdir.write_json(folder / "run.json", {"a": 1}),
    "metrics.jsonl": rewrite_history,
    "teacher.npz": lambda folder: interop.write(folder / "teacher.npz", {"x": np.ones(3, np.float32)}),
    "x.safetensors": lambda folder: interop.write(folder / "x.safetensors", {"x": np.ones(3, np.float32)}),
    "initial_encoder.npz": keep_weights,
    "lengthened/7/array": copy_checkpoint,
}


@pytest.mark.parametrize("name", WRITERS)
def test_all_of_it_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch, name):
    synced = {}

    def fsync(file):
        path = os.readlink(f"/proc/self/fd/{file}")
        synced[os.path.relpath(path, tmp_path)] = os.fstat(file).st_size

    monkeypatch.setattr(os, "fsync", fsync)
    WRITERS[name](tmp_path)
    parts = [re.escape(part) + r"(\.\S+-\d+)?\.part" for part in name.split("/")[:: 2 if "/" in name else 1]]
    pattern = "/7/".join(parts)  # of the folder's draft too
    [draft] = [path for path in synced if re.fullmatch(pattern, path)]
    assert synced[draft] == (tmp_path / name).stat().st_size > 0
    assert not list(tmp_path.rglob("*.part"))


def test_an_error_leaves_what_was_there(tmp_path):
    path = tmp_path / "x"
    atomic.write_text(path, "old")
    with pytest.raises(KeyError), atomic.replacing(path) as file:  # noqa: PT012
        file.write(b"half")
        raise KeyError
    assert [p.name for p in tmp_path.iterdir()] == ["x"]
    assert path.read_text() == "old"
