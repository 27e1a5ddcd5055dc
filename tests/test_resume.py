"""Stopped, killed or damaged: what a run goes on from. Every config's resumed run is in `test_conformance`."""

import errno
import gc
import itertools
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import types

import jax
import numpy as np
import pytest
import recipes

from ssl_jax import UserError, checkpoint, collapse, signals, workdir
from ssl_jax import pretrain as loop
from ssl_jax.checkpoint import Checkpoints, Damaged
from ssl_jax.digest import digest
from ssl_jax.evaluate import config_of, load_run
from ssl_jax.experiment import build
from ssl_jax.training import initial_state

# Where one array can't be read, those that are still under way find their event loop closed when they come to an end.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture(autouse=True)
def nothing_under_way():
    """What such reads left behind is collected here, and not in somebody else's test."""
    yield
    gc.collect()


FIELDS = {"steps": 9, "log_every": 4, "checkpoint_every": 4, "knn_every": -1, "probe": False}


def pretrain(directory: pathlib.Path, **fields) -> tuple:
    """Run; returns the state and what was announced."""
    heard = []
    return loop.pretrain(recipes.config("simclr", **{**FIELDS, **fields}), directory, announce=heard.append), heard


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> tuple:
    directory = tmp_path_factory.mktemp("undisturbed")
    state, _ = pretrain(directory)
    return directory, recipes.bits(state)


def steps_saved(directory: pathlib.Path) -> list[int]:
    return sorted(int(path.name) for path in (directory / "checkpoints").iterdir())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_between_two_checkpoints(undisturbed, tmp_path, monkeypatch, number):
    def interrupted(*args, **kwargs):
        for made, state in zip(itertools.count(1), loop_train(*args, **kwargs)):
            if made == 6:
                signal.raise_signal(number)
            yield state

    handlers = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    loop_train = loop.train
    monkeypatch.setattr(loop, "train", interrupted)
    with pytest.raises(signals.Interrupted) as stop:
        pretrain(tmp_path)
    assert (stop.value.step, stop.value.signal_number) == (6, number)
    assert steps_saved(tmp_path) == [4, 6]
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == handlers
    monkeypatch.undo()
    clock = itertools.count(1)

    def slow_at_first(*args, **kwargs):
        for made, state in enumerate(loop_train(*args, **kwargs)):
            for _ in range(1000 if made == 0 else 0):
                next(clock)
            yield state

    monkeypatch.setattr(loop, "train", slow_at_first)
    monkeypatch.setattr(loop, "time", types.SimpleNamespace(perf_counter=lambda: float(next(clock))))
    state, heard = pretrain(tmp_path)
    assert heard[-1] == "Going on from the checkpoint of step 6."
    recipes.assert_same_bits(state, undisturbed[1])
    speeds = [row["images_per_second"] for row in workdir.read_metrics(tmp_path)]
    assert speeds[1:] == [64.0, 64.0], "compilation, in the first step of a call, is not speed"


@pytest.fixture
def before_the_end(undisturbed, tmp_path):
    """A run with one step left."""
    shutil.copytree(undisturbed[0], tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "9")
    return tmp_path / "run"


@pytest.mark.parametrize("moment", ["the last line is written", "the last checkpoint is written"])
def test_signal_at_the_very_end(before_the_end, monkeypatch, moment):
    """It is saved, and the exit is that of a run that was stopped."""
    wait, write = checkpoint.Checkpoints.wait, workdir.MetricWriter.write

    def waiting(self):
        if moment == "the last checkpoint is written" and self._under_way:
            signal.raise_signal(signal.SIGINT)
        wait(self)

    def writing(self, *args, **kwargs):
        if moment == "the last line is written":
            signal.raise_signal(signal.SIGINT)
        write(self, *args, **kwargs)

    monkeypatch.setattr(checkpoint.Checkpoints, "wait", waiting)
    monkeypatch.setattr(workdir.MetricWriter, "write", writing)
    with pytest.raises(signals.Interrupted) as stop:
        pretrain(before_the_end)
    assert stop.value.step == 9
    assert steps_saved(before_the_end) == [8, 9]


@pytest.mark.parametrize(
    ("error", "kind", "said"),
    [
        (OSError(errno.EMFILE, os.strerror(errno.EMFILE)), OSError, "^.Errno 24. Too many open files$"),
        (BrokenPipeError(), UserError, "What read the messages of this run has gone. The last good checkpoint is of"),
    ],
)
def test_only_what_failed_to_be_written_is_told_so(undisturbed, monkeypatch, error, kind, said):
    def train(*args, **kwargs):
        raise error
        yield

    monkeypatch.setattr(loop, "train", train)
    with pytest.raises(kind, match=said):
        pretrain(undisturbed[0])


def test_lines_in_a_row_that_look_collapsed_count_on_from_a_checkpoint(before_the_end, monkeypatch):
    def position(step: int) -> pathlib.Path:
        return before_the_end / "checkpoints" / str(step) / "position" / "metadata"

    shutil.rmtree(before_the_end / "checkpoints" / "8" / checkpoint.SEAL)
    position(8).write_text(json.dumps({**json.loads(position(8).read_text()), "collapsed_in_a_row": 1}))
    monkeypatch.setattr(collapse, "embedding", lambda logged: "all is one")
    with pytest.raises(UserError, match=r"saved at step 9, after 2 line\(s\) of progress .* collapse: all is one"):
        pretrain(before_the_end, max_collapsed=2)
    assert json.loads(position(9).read_text())["collapsed_in_a_row"] == 2


def test_killed_while_saving(undisturbed, tmp_path):
    """A half-written checkpoint and a half-written line are left behind."""
    directory = tmp_path / "run"
    shutil.copytree(undisturbed[0], directory)
    (directory / workdir.SAVED).unlink()  # it was the first one
    checkpoints = directory / "checkpoints"
    shutil.rmtree(checkpoints / "9")
    half = checkpoints / "9.orbax-checkpoint-tmp"
    shutil.move(checkpoints / "8", half)
    with (directory / "metrics.jsonl").open("a") as file:
        file.write('{"step": 9, "time"')
    with pytest.raises(UserError, match="no checkpoint in"):
        load_run(directory)
    assert half.is_dir(), "evaluation tidies nothing up"
    state, heard = pretrain(directory)
    assert "no checkpoint yet; starting at step 0" in heard[-1]
    recipes.assert_same_bits(state, undisturbed[1])
    assert steps_saved(directory) == [8, 9]
    assert [row["step"] for row in workdir.read_metrics(directory)] == [4, 8, 9]


@pytest.mark.parametrize("lost", ["directory", "steps", "metrics as well"])
def test_run_whose_checkpoints_are_gone_never_starts_anew(undisturbed, tmp_path, lost):
    """Also where it had saved only because it was stopped, before the first interval or line was over."""
    directory = tmp_path / "run"
    shutil.copytree(undisturbed[0], directory)
    shutil.rmtree(directory / "checkpoints")
    if lost == "steps":
        (directory / "checkpoints" / "9.orbax-checkpoint-tmp").mkdir(parents=True)
    if lost == "metrics as well":
        (directory / "metrics.jsonl").unlink()
    before = sorted(directory.rglob("*"))
    come = "saved its state" if lost == "metrics as well" else "come to step 9"
    with pytest.raises(UserError, match=rf"holds a run that has {come}, but its checkpoints are gone; put them back"):
        pretrain(directory)
    assert sorted(directory.rglob("*")) == before


def test_killed_between_a_line_and_the_first_checkpoint(undisturbed, tmp_path, monkeypatch):
    """The line is written first; nothing was lost that had been saved, so the same command starts anew."""

    class Killed(BaseException):
        pass

    def save(*args, **kwargs):
        raise Killed

    monkeypatch.setattr(checkpoint.Checkpoints, "save", save)
    with pytest.raises(Killed):
        pretrain(tmp_path)
    monkeypatch.undo()
    assert [row["step"] for row in workdir.read_metrics(tmp_path)] == [4]
    assert workdir.checkpoint_files(tmp_path) == []
    record = workdir.read_run(tmp_path)
    workdir.write_json(tmp_path / "run.json", {**record, "versions": {**record["versions"], "jax": "0.0"}})
    state, _ = pretrain(tmp_path)
    recipes.assert_same_bits(state, undisturbed[1])
    assert [row["step"] for row in workdir.read_metrics(tmp_path)] == [4, 8, 9]
    assert workdir.read_run(tmp_path)["versions"] == record["versions"], "nothing of the first start is left"


def test_another_interval_before_the_first_checkpoint(tmp_path):
    """The run is killed with one interval, and again with a longer one, past the step at which the first was due."""
    config = recipes.config("simclr", **FIELDS)
    record = workdir.describe_run(config, command=[], source_name="digits", fingerprint="abc")
    workdir.open_workdir(tmp_path, record)
    (tmp_path / "metrics.jsonl").write_text('{"step": 4, "time": 1.0}\n{"step": 8, "time": 2.0}\n')
    record["config"]["checkpoint_every"] = 9
    assert loop.claim(tmp_path, record, steps=9)
    workdir.mark_saved(tmp_path)
    with pytest.raises(UserError, match="has come to step 8, but its checkpoints are gone"):
        loop.claim(tmp_path, record, steps=9)


def test_stopped_before_the_first_interval_and_then_lost(tmp_path, monkeypatch):
    def stopped(*args, **kwargs):
        for made, state in enumerate(loop_train(*args, **kwargs)):
            if made:  # before, there is nothing to save, and the process ends at once
                signal.raise_signal(signal.SIGTERM)
            yield state

    loop_train = loop.train
    monkeypatch.setattr(loop, "train", stopped)
    with pytest.raises(signals.Interrupted):
        pretrain(tmp_path)
    monkeypatch.undo()
    assert steps_saved(tmp_path) == [2]
    shutil.rmtree(tmp_path / "checkpoints")
    with pytest.raises(UserError, match="checkpoints are gone"):
        pretrain(tmp_path)


def test_newest_checkpoints_are_kept(tmp_path):
    pretrain(tmp_path, keep_checkpoints=3, checkpoint_every=2)
    assert steps_saved(tmp_path) == [6, 8, 9]


def test_probe_may_begin_later(undisturbed, tmp_path):
    directory = tmp_path / "run"
    shutil.copytree(undisturbed[0], directory)
    shutil.rmtree(directory / "checkpoints" / "9")
    state, _ = pretrain(directory, probe=True)
    recipes.assert_same_bits(state, undisturbed[1])
    assert [("probe_accuracy" in row) for row in workdir.read_metrics(directory)] == [False, False, True]


def test_complete_run_stays(undisturbed):
    directory, state = undisturbed
    before = (directory / "metrics.jsonl").read_text()
    again, heard = pretrain(directory)
    assert "The run is complete" in heard[-1]
    recipes.assert_same_bits(again, state)
    assert (directory / "metrics.jsonl").read_text() == before


def test_another_number_of_devices(undisturbed):
    """What eight devices saved, one goes on from."""
    parts = build(recipes.config("simclr", **FIELDS), devices=jax.devices()[:1])
    state = initial_state(parts.method, parts.source, tx=parts.tx, views=parts.views, mesh=parts.mesh)
    checkpoints = Checkpoints(undisturbed[0] / "checkpoints", read_only=True)
    trees, position = checkpoints.restore(9, {"state": state})
    checkpoints.close()
    recipes.assert_same_bits(trees["state"], undisturbed[1])
    assert {len(x.sharding.device_set) for x in jax.tree.leaves(trees)} == {1}
    counts = {"skipped": 0, "skipped_in_a_row": 0, "collapsed_in_a_row": 0}
    assert position == {"seed": 0, "batch_size": 64, "fingerprint": parts.source.fingerprint, "step": 9, **counts}


def flip(path: pathlib.Path, where: float) -> None:
    """Turn one bit of a file."""
    raw = bytearray(path.read_bytes())
    raw[int(where * len(raw))] ^= 16
    path.write_bytes(raw)


def truncate(path: pathlib.Path, where: float) -> None:
    os.truncate(path, int(where * path.stat().st_size))


def zero(path: pathlib.Path, where: float) -> None:
    """What a loss of power leaves where the length was written and the rest was not."""
    size = path.stat().st_size
    truncate(path, where)
    os.truncate(path, size)


def files(folder: pathlib.Path) -> list[pathlib.Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.stat().st_size)


@pytest.mark.parametrize("hurt", [flip, truncate, zero])
def test_run_goes_on_from_the_newest_whole_checkpoint(undisturbed, tmp_path, hurt):
    directory = tmp_path / "run"
    shutil.copytree(undisturbed[0], directory)
    for path in files(directory / "checkpoints" / "9" / "state"):
        hurt(path, 0.6)
    with (directory / "metrics.jsonl").open("ab") as file:
        file.write(bytes(100))
    with pytest.raises(UserError, match=r"checkpoints/9 is damaged or incomplete: \S+"):
        load_run(directory)
    assert steps_saved(directory) == [8, 9], "evaluation moves nothing"
    state, heard = pretrain(directory)
    assert re.search(r"checkpoints/9 is damaged or incomplete: .* moved to .*damaged-checkpoints", heard[-2])
    assert heard[-1] == "Going on from the checkpoint of step 8."
    recipes.assert_same_bits(state, undisturbed[1])
    assert steps_saved(directory) == [8, 9]
    assert [path.name for path in (directory / "damaged-checkpoints").iterdir()] == ["9"]
    for step in (8, 9):
        truncate(max(files(directory / "checkpoints" / str(step) / "state"), key=os.path.getsize), 0.5)
    with pytest.raises(UserError, match=r"None of the 2 checkpoints in .* is whole"):
        pretrain(directory)
    assert steps_saved(directory) == [8, 9], "nothing starts anew, and nothing is moved"


def test_no_flipped_bit_goes_unnoticed(undisturbed, tmp_path):
    """Any file, any place: either the very bits that were saved come back, or an error."""
    parts = build(recipes.config("simclr", **FIELDS))
    like = initial_state(parts.method, parts.source, tx=parts.tx, views=parts.views, mesh=parts.mesh)
    rng, caught = np.random.default_rng(0), 0
    for number in range(12):
        directory = tmp_path / str(number)
        shutil.copytree(undisturbed[0] / "checkpoints" / "9", directory / "9")
        largest = sorted(files(directory), key=os.path.getsize, reverse=True)
        (flip, truncate)[number % 2](largest[number // 2], rng.random())
        checkpoints = Checkpoints(directory, read_only=True)
        try:
            trees, _ = checkpoints.restore(9, {"state": like})
            recipes.assert_same_bits(trees["state"], undisturbed[1])
        except Damaged:
            caught += 1
        finally:
            checkpoints.close()
    assert caught >= 2, "the rest hit what nothing depends on"


def test_checkpoint_of_an_earlier_version(tmp_path):
    """A stored run of format 1 is read bit for bit and goes on; so does one from before there were digests."""
    stored = pathlib.Path(__file__).parent / "fixtures" / "run_format_1"
    row = workdir.read_metrics(stored)[-1]
    config = config_of(workdir.read_run(stored))
    for name in ("sealed", "older"):
        directory = tmp_path / name
        shutil.copytree(stored, directory)
        if name == "older":
            shutil.rmtree(directory / "checkpoints" / "4" / checkpoint.SEAL)
        assert digest(load_run(directory, step=4)[1]) == row["digest"]
        heard = []
        state = loop.pretrain(config, directory, announce=heard.append)
        assert heard[-1] == "Going on from the checkpoint of step 4."
        assert int(state.step) == 6


def test_checkpoint_of_a_later_version(undisturbed, tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "FORMAT", checkpoint.FORMAT - 1)
    with pytest.raises(UserError, match="has the format 1, and this version of ssl_jax reads up to 0"):
        pretrain(undisturbed[0])


@pytest.mark.parametrize("keep", [1, 2])
def test_write_that_fails_is_an_error_of_the_system(tmp_path, keep):
    """Files are not allowed to grow: the save fails for real, and the checkpoint before it stays."""
    import resource

    tree = {"x": jax.numpy.asarray(np.random.default_rng(0).normal(size=100_000), "float32")}
    checkpoints = Checkpoints(tmp_path / "checkpoints", keep=keep)
    checkpoints.save(1, {"state": tree}, {"step": 1})
    checkpoints.wait()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):  # noqa: PT012
            checkpoints.save(2, {"state": tree}, {"step": 2})
            checkpoints.wait()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    checkpoints.close()
    assert loop.newest(tmp_path) == "The last good checkpoint is of step 1."
    checkpoints = Checkpoints(tmp_path / "checkpoints", read_only=True)
    restored, _ = checkpoints.restore(1, {"state": tree})
    recipes.assert_same_bits(restored["state"], tree)
    checkpoints.close()


@pytest.fixture
def disk(tmp_path):
    """A file system of its own, and a function that gives it another size in KB."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def resize(size: int, *more: str) -> int:
        options = ",".join([f"size={size}k", *more])
        return subprocess.call(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], stderr=subprocess.DEVNULL)

    if resize(10_000) != 0:
        pytest.skip("mounting is not permitted here")
    yield folder, resize
    subprocess.check_call(["umount", "--lazy", str(folder)])  # TensorBoard may hold a file that it could not flush


@pytest.mark.parametrize("foreseen", [True, False])
def test_a_disk_that_is_really_full(undisturbed, disk, monkeypatch, foreseen):
    """One sentence, the checkpoints before stay whole, and with more room the run goes on to the same end."""
    folder, resize = disk
    resize(1900 if foreseen else 700, "remount")
    if not foreseen:  # the room was there when the save began
        monkeypatch.setattr(checkpoint, "check_room", lambda *_: None)
    fields = {"checkpoint_every": 1, "keep_checkpoints": 99}
    with pytest.raises(UserError, match=r"failed: No space left on device\. The last good checkpoint is of") as full:
        pretrain(folder / "run", **fields)
    last = int(re.search(r"of step (\d+)", str(full.value))[1])
    assert 0 < last < FIELDS["steps"]
    resize(10_000, "remount")
    state, heard = pretrain(folder / "run", **fields)
    assert heard[-1] == f"Going on from the checkpoint of step {last}."
    recipes.assert_same_bits(state, undisturbed[1])


def test_a_disk_that_may_only_be_read(undisturbed, disk):
    folder, resize = disk
    shutil.copytree(undisturbed[0], folder / "run")
    resize(10_000, "remount", "ro")
    with pytest.raises(UserError, match=r"The workdir .*run can't be written: Read-only file system"):
        pretrain(folder / "run")
    _, state, _ = load_run(folder / "run")
    recipes.assert_same_bits(state, undisturbed[1])
