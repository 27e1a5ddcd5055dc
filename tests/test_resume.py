"""Stopped, killed or damaged: what a run goes on from. Every config's resumed run is in `test_conformance`."""

import itertools
import os
import pathlib
import shutil
import signal

import jax
import numpy as np
import pytest
import recipes

from ssl_jax import UserError, workdir
from ssl_jax import pretrain as loop
from ssl_jax.checkpoint import Checkpoints
from ssl_jax.evaluate import load_run
from ssl_jax.experiment import build
from ssl_jax.training import initial_state

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
    with pytest.raises(loop.Interrupted) as stop:
        pretrain(tmp_path)
    assert (stop.value.step, stop.value.signal_number) == (6, number)
    assert steps_saved(tmp_path) == [4, 6]
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == handlers
    monkeypatch.undo()
    state, heard = pretrain(tmp_path)
    assert heard[-1] == "Going on from the checkpoint of step 6."
    recipes.assert_same_bits(state, undisturbed[1])


def test_killed_while_saving(undisturbed, tmp_path):
    """A half-written checkpoint and a half-written line are left behind."""
    directory = tmp_path / "run"
    shutil.copytree(undisturbed[0], directory)
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
    assert position == {"seed": 0, "batch_size": 64, "fingerprint": parts.source.fingerprint, "step": 9}


def test_damaged_checkpoint(undisturbed, tmp_path):
    directory = tmp_path / "run"
    shutil.copytree(undisturbed[0], directory)
    for path in (directory / "checkpoints" / "9" / "state").rglob("*"):
        if path.is_file():
            os.truncate(path, path.stat().st_size // 2)
    with pytest.raises(UserError, match=r"checkpoints/9 can't be read .* remove it to go on from the one before"):
        pretrain(directory)
    assert steps_saved(directory) == [8, 9]
    shutil.rmtree(directory / "checkpoints" / "9")
    state, heard = pretrain(directory)
    assert "step 8" in heard[-1]
    recipes.assert_same_bits(state, undisturbed[1])


def test_write_that_fails_is_an_error_of_the_system(tmp_path):
    """Files are not allowed to grow: the save fails for real, and the checkpoint before it stays."""
    import resource

    tree = {"x": jax.numpy.asarray(np.random.default_rng(0).normal(size=100_000), "float32")}
    checkpoints = Checkpoints(tmp_path)
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
    assert checkpoints.steps() == [1]
    restored, _ = checkpoints.restore(1, {"state": tree})
    recipes.assert_same_bits(restored["state"], tree)
    checkpoints.close()
