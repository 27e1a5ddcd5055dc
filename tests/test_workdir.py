"""The files of a run: what they hold, and that a crash or a restart leaves them whole."""

import errno
import json
import math
import os
import resource

import pytest
import recipes
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ssl_jax import UserError, workdir
from ssl_jax.evaluate import config_of


def record(**fields) -> dict:
    config = recipes.config("simclr", **fields)
    return workdir.describe_run(config, command=["ssl-jax", "pretrain"], source_name="digits", fingerprint="abc")


def scalars(directory) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard shows."""
    board = EventAccumulator(str(directory / "tensorboard"))
    board.Reload()
    return {name: [(event.step, event.value) for event in board.Scalars(name)] for name in board.Tags()["scalars"]}


def write(directory, *, start: int, steps, offset: float = 0.0) -> None:
    writer = workdir.MetricWriter(directory, step=start)
    for step in steps:
        writer.write(step, {"loss": step + offset})
    writer.close()


@pytest.mark.parametrize("name", recipes.NAMES)
def test_config_survives_json(name):
    config = recipes.config(name)
    back = config_of(json.loads(json.dumps({"config": workdir.plain(config)})))
    assert back.to_dict() == config.to_dict()


def test_record_says_how_a_result_came_about(tmp_path):
    assert workdir.open_workdir(tmp_path / "deep" / "run", record()) is False
    found = workdir.read_run(tmp_path / "deep" / "run")
    assert found["config"]["method"] == "simclr"
    assert {"jax", "flax", "optax", "numpy", "python", "ssl_jax"} <= set(found["versions"])
    assert found["devices"] == {"platform": "cpu", "kind": found["devices"]["kind"], "count": 8}
    assert found["data"] == {"train": "digits", "fingerprint": "abc"}
    assert found["created"].endswith("Z")


def test_open_workdir_compares_what_matters(tmp_path):
    workdir.open_workdir(tmp_path, record())
    assert workdir.open_workdir(tmp_path, record(seed=1)) is False, "nothing had begun"
    write(tmp_path, start=0, steps=[10])
    assert workdir.open_workdir(tmp_path, record(seed=1, log_every=3, probe=False)) is True
    with pytest.raises(UserError, match=r"optimizer_args.weight_decay: 0.0001 -> 0.5; seed: 1 -> 2"):
        workdir.open_workdir(tmp_path, record(seed=2, optimizer_args={"weight_decay": 0.5}))
    other = record(seed=1)
    other["data"]["fingerprint"] = "def"
    with pytest.raises(UserError, match="not the images that the run began with"):
        workdir.open_workdir(tmp_path, other)


def test_damaged_record(tmp_path):
    (tmp_path / "run.json").write_text('{"config": ')
    with pytest.raises(UserError, match="is damaged"):
        workdir.read_run(tmp_path)


def test_json_has_no_nan(tmp_path):
    workdir.write_json(tmp_path / "x.json", {"a": [1.0, math.nan], "b": {"c": -math.inf}})
    assert json.loads((tmp_path / "x.json").read_text()) == {"a": [1.0, None], "b": {"c": None}}
    assert [path.name for path in tmp_path.iterdir()] == ["x.json"]


def test_json_of_two_processes_and_on_a_full_disk(tmp_path, monkeypatch):
    """Another process writes the same file meanwhile; half a file is removed when there is no room for the rest."""
    path, sync = tmp_path / "x.json", os.fsync

    def other(number: int) -> None:
        monkeypatch.setattr(os, "fsync", sync)
        with monkeypatch.context() as patch:
            patch.setattr(os, "getpid", lambda: 1)
            workdir.write_json(path, "theirs")
        sync(number)

    def full(number: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", other)
    workdir.write_json(path, "ours")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left on device"):
        workdir.write_json(path, "more")
    assert json.loads(path.read_text()) == "ours"
    assert [path.name for path in tmp_path.iterdir()] == ["x.json"]


def test_metrics_and_tensorboard_hold_the_same(tmp_path):
    writer = workdir.MetricWriter(tmp_path, step=0)
    for step in (1, 2, 3):
        writer.write(step, {"loss": 0.5**step, "probe_accuracy": step / 4})
    writer.close()
    rows = workdir.read_metrics(tmp_path)
    assert [row["step"] for row in rows] == [1, 2, 3]
    assert scalars(tmp_path) == {
        name: [(row["step"], row[name]) for row in rows] for name in ("loss", "probe_accuracy")
    }


def test_a_line_is_on_the_disk_when_it_is_written(tmp_path):
    """In TensorBoard too: what came before a checkpoint is not written again."""
    writer = workdir.MetricWriter(tmp_path, step=0)
    for step in (1, 2, 3):
        writer.write(step, {"loss": 1.0})
        assert scalars(tmp_path) == {"loss": [(at, 1.0) for at in range(1, step + 1)]}
    writer.close()


def test_events_that_can_not_be_written_are_an_error_at_once(tmp_path):
    """The file of events may not grow; that of lines, which is shorter, may. Nothing waits for a dead thread."""
    writer = workdir.MetricWriter(tmp_path, step=0)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300, limits[1]))
    try:
        for _ in range(2):
            with pytest.raises(OSError, match="File too large"):
                writer.write(1, {str(i): 1.0 for i in range(7)})
            assert (tmp_path / "metrics.jsonl").stat().st_size < 300
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        writer.close()


@pytest.mark.parametrize("kept", [0, 2])
def test_restart_hides_what_came_after_the_checkpoint(tmp_path, kept):
    write(tmp_path, start=0, steps=range(1, 6))
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 6, "lo')
    write(tmp_path, start=kept, steps=range(kept + 1, 5), offset=0.5)
    expected = [(step, float(step)) for step in range(1, kept + 1)] + [(i, i + 0.5) for i in range(kept + 1, 5)]
    assert [(row["step"], row["loss"]) for row in workdir.read_metrics(tmp_path)] == expected
    assert scalars(tmp_path) == {"loss": expected}


def test_time_goes_on_where_the_run_stopped(tmp_path, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(workdir.time, "time", lambda: now[0])
    for step in (1, 2):
        writer = workdir.MetricWriter(tmp_path, step=step - 1)
        now[0] += 7
        writer.write(step, {"loss": 1.0})
        now[0] += 5000  # between two runs
        writer.close()
    assert [row["time"] for row in workdir.read_metrics(tmp_path)] == [7.0, 14.0]
