"""Steps that are not finite: not applied, counted, and the end of a run when there are too many in a row."""

import dataclasses
import json
import shutil

import jax.numpy as jnp
import numpy as np
import pytest
import recipes

from ssl_jax import UserError, data, experiment, monitors, skips, train, workdir
from ssl_jax.pretrain import pretrain
from ssl_jax.replay import replay

BAD = (2, 5, 6, 7)  # steps, counted from 0, whose loss is not a number
FIELDS = {"steps": 12, "log_every": 4, "checkpoint_every": 4, "keep_checkpoints": 9, "knn_every": -1, "probe": False}


def poisoned(method):
    """The method, with a loss and a gradient that are not finite at some steps."""

    def loss(params, carry, batch, rng, step):
        value, rest = method.loss(params, carry, batch, rng, step)
        return value * jnp.where(jnp.any(step == jnp.asarray(BAD)), jnp.nan, 1.0).astype(value.dtype), rest

    return dataclasses.replace(method, loss=loss)


@pytest.fixture(autouse=True)
def poison(monkeypatch):
    make = experiment.build_method
    monkeypatch.setattr(experiment, "build_method", lambda *args, **kwargs: poisoned(make(*args, **kwargs)))


def run(directory, limit: int) -> tuple:
    heard = []
    config = recipes.config("simclr", **FIELDS, max_skipped_steps=limit)
    return pretrain(config, directory, announce=heard.append), heard


def test_step_that_is_not_finite_changes_nothing_but_the_counter():
    parts = experiment.build(recipes.config("moco", **FIELDS))
    states, skipped = [], []
    arguments = {"tx": parts.tx, "views": parts.views, "batch_size": 64, "steps": 4}
    for state, metrics, _ in train(parts.method, parts.source, **arguments):
        states.append(recipes.bits(recipes.copy(state)))
        skipped.append(float(metrics["skipped"]))
        assert int(state.step) == len(states)
    assert skipped == [0.0, 0.0, 1.0, 0.0]
    recipes.assert_same_bits(states[2], states[1].replace(step=states[2].step))
    for part in ("params", "carry", "opt_state"):
        with pytest.raises(AssertionError):
            recipes.assert_same_bits(getattr(states[3], part), getattr(states[2], part))


def test_too_many_in_a_row(tmp_path):
    """The run stops, says why, replays the step, and goes on to the bits of a run with a higher limit."""
    stopped, patient = tmp_path / "stopped", tmp_path / "patient"
    with pytest.raises(UserError, match=r"steps 6 to 8 were not applied, 3 in a row .* its loss is nan"):
        run(stopped, limit=3)
    record = json.loads((stopped / skips.FILE).read_text())
    rows = data.indices(1260, batch_size=64, seed=0, step=5)
    assert record == {"step": 6, "in_a_row": 3, "checkpoint": 8, "ids": rows.tolist()}
    before = sorted(path.name for path in stopped.rglob("*"))
    said = replay(stopped)
    assert sorted(path.name for path in stopped.rglob("*")) == before
    assert said.startswith("Step 6, the first of 3 that were not applied, from the state kept as the checkpoint of")
    assert "\n  loss: nan\n" in said
    assert "\n  gradient encoder/" in said
    assert "state" not in said.split("Not finite:")[1]
    assert "views" not in said
    assert said.endswith(f"Images (rows of the data): {', '.join(map(str, rows))}")
    state, heard = run(patient, limit=4)
    assert [text for text in heard if "not applied" in text] == [
        f"Warning: step {step} was not applied: its loss is nan, its gradient's norm nan. Skipped so far: {total}."
        for step, total in ((3, 1), (6, 2), (8, 4))
    ]
    assert [row["skipped"] for row in workdir.read_metrics(patient)] == [1, 4, 4]
    rate = experiment.build(recipes.config("simclr", **FIELDS)).rate
    used = [float(rate(jnp.asarray(applied))) for applied in (2, 4, 7)]  # before the steps 4, 8 and 12
    assert [row["learning_rate"] for row in workdir.read_metrics(patient)] == used
    assert len(set(used)) == 3
    resumed, heard = run(stopped, limit=4)
    assert "Going on from the checkpoint of step 8." in heard
    recipes.assert_same_bits(resumed, state)
    rows = [
        [{**row, "time": 0, "images_per_second": 0, "data_wait": 0} for row in workdir.read_metrics(d)]
        for d in (patient, stopped)
    ]
    assert rows[0] == rows[1]
    shutil.rmtree(stopped / "checkpoints" / "12")
    shutil.rmtree(stopped / "checkpoints" / "8")
    (stopped / skips.FILE).unlink()
    with pytest.raises(UserError, match="in a row"):
        run(stopped, limit=3)
    assert json.loads((stopped / skips.FILE).read_text()) == record, "the count goes on from a checkpoint"
    with pytest.raises(UserError, match=r"No run in .* was stopped"):
        replay(patient)


def test_probe_learns_nothing_from_features_that_are_not_finite():
    features, labels = np.ones((4, 3), np.float32), np.arange(4, dtype=np.int32) % 2
    probe = monitors.update_probe(monitors.init_probe(3, 2), features, labels)
    for bad in (np.nan, np.inf):
        other = features.copy()
        other[1, 2] = bad
        recipes.assert_same_bits(monitors.update_probe(probe, other, labels), probe)
