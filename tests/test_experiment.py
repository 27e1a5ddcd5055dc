"""From config fields to keyword arguments: schedules, rates, optimizer groups, and what data and run fill in."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import recipes
from ml_collections import ConfigDict

from ssl_jax import UserError, data, experiment
from ssl_jax.experiment import build_method, build_optimizer, build_rate, scheduled
from ssl_jax.training import for_step

SOURCE = data.from_arrays(np.zeros((640, 8, 8, 1), np.uint8), np.arange(640) % 7)
BLANK = data.from_arrays(np.zeros((640, 8, 8, 1), np.uint8))


def config(**fields) -> ConfigDict:
    """Ten steps are an epoch."""
    return recipes.config("simclr", batch_size=64, **fields)


def at(schedule, *steps) -> list[float]:
    return [float(schedule(jnp.asarray(step, jnp.int32))) for step in steps]


@pytest.mark.parametrize(
    ("fields", "length"), [({}, 100), ({"epochs": 2.0}, 20), ({"steps": 5}, 5), ({"fraction": 0.3}, 30)]
)
def test_a_schedule_lasts_as_long_as_it_says(fields, length):
    value = ConfigDict({"schedule": "linear", "start": 1.0, "end": 3.0, **fields})
    schedule = scheduled(value, config(), SOURCE, steps=100)
    np.testing.assert_allclose(at(schedule, 0, length, 2 * length), [1, 3, 3])
    assert at(schedule, length - 1)[0] < 3


def test_a_schedule_in_epochs_may_be_capped_by_a_part_of_the_run():
    value = ConfigDict({"schedule": "cosine", "start": 0.0, "end": 1.0, "epochs": 30.0, "fraction": 0.3})
    assert at(scheduled(value, config(), SOURCE, steps=100), 15, 30) == pytest.approx([0.5, 1.0])


def test_what_is_no_schedule_stays_and_a_wrong_one_is_an_error():
    assert scheduled(0.3, config(), SOURCE, steps=10) == 0.3
    with pytest.raises(UserError, match=r"Unknown schedule 'cosin'; there is cosine, linear. Did you mean 'cosine'"):
        scheduled(ConfigDict({"schedule": "cosin"}), config(), SOURCE, steps=10)
    with pytest.raises(UserError, match="argument of the schedule 'begin'"):
        scheduled(ConfigDict({"schedule": "cosine", "begin": 0.0}), config(), SOURCE, steps=10)


def test_kinds_of_rates():
    fields = {"learning_rate": 0.1, "warmup_epochs": 1.0}
    cosine = build_rate(config(**fields, final_learning_rate=0.01), SOURCE, steps=110)
    np.testing.assert_allclose(at(cosine, 0, 5, 10, 60, 110), [0, 0.05, 0.1, 0.055, 0.01], rtol=1e-6)
    drops = build_rate(config(**fields, schedule="drops", drop_epochs=(3.0, 6.0)), SOURCE, steps=110)
    np.testing.assert_allclose(at(drops, 5, 10, 29, 30, 60), [0.05, 0.1, 0.1, 0.01, 0.001], rtol=1e-6)
    constant = build_rate(config(**fields, schedule="constant"), SOURCE, steps=110)
    np.testing.assert_allclose(at(constant, 0, 10, 100), [0, 0.1, 0.1], rtol=1e-6)
    with pytest.raises(UserError, match="cosine, drops or constant, not 'linear'"):
        build_rate(config(schedule="linear"), SOURCE, steps=110)


def test_groups_of_the_optimizer():
    """A rate that stays, one that is scaled, and a group that is frozen for an epoch."""
    groups = {"a": {"constant_rate": True}, "b": {"rate_scale": 0.5}, "c": {"frozen_epochs": 0.1}}
    c = config(
        optimizer="sgd", learning_rate=0.2, optimizer_args={"weight_decay": 0.0, "momentum": 0.0, "groups": groups}
    )
    tx = build_optimizer(c, SOURCE, build_rate(c, SOURCE, steps=2), steps=2)
    params = {name: {"w": jnp.ones(())} for name in "abcd"}
    state, found = tx.init(params), []
    for _ in range(2):
        updates, state = jax.jit(tx.update)(params, state, params)
        found.append({name: float(updates[name]["w"]) for name in params})
    assert found[0] == pytest.approx({"a": -0.2, "b": -0.1, "c": 0.0, "d": -0.2})
    assert found[1] == pytest.approx({"a": -0.2, "b": -0.05, "c": -0.1, "d": -0.1})


def test_data_and_run_fill_in_what_a_method_asks_for(monkeypatch):
    given, real = {}, experiment.methods.simclr

    def method(encoder, *, examples=None, classes=None, steps=None, width=3):
        given.update(examples=examples, classes=classes, steps=steps, width=width)
        return real(encoder)

    monkeypatch.setattr(experiment.methods, "simclr", method)
    c = config()
    c.method_args = ConfigDict({"classes": 4})
    build_method(c, SOURCE, steps=9)
    assert given == {"examples": 640, "classes": 4, "steps": 9, "width": 3}
    c.method_args = ConfigDict()
    build_method(c, SOURCE, steps=9)
    assert given["classes"] == 7
    with pytest.raises(UserError, match="simclr learns from labels, and digits has none"):
        build_method(c, BLANK, steps=9)


def test_labels_go_only_to_a_method_that_learns_from_them():
    batch = {"image": 1, "id": 2, "label": 3, "valid": 4}
    method = recipes.experiment("simclr").method
    assert for_step(method, batch) == {"image": 1, "id": 2}
    labelled = dataclasses.replace(method, labels=True)
    assert for_step(labelled, batch) == {"image": 1, "id": 2, "label": 3}
    with pytest.raises(UserError, match="learns from labels, but the data has none"):
        for_step(labelled, {"image": 1, "id": 2})
