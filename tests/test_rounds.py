"""Runs in rounds: between them a method may look at the data and start anew."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import recipes

import ssl_jax
from ssl_jax import Carry, Method, UserError, schedules, train
from ssl_jax.training import begin_round, round_starts

SOURCE = ssl_jax.data.load("digits", "train[:100]")
VIEWS = ssl_jax.augment.simclr(8, blur=False, flip=0.0)
RATE = schedules.linear(1.0, 0.0, steps=4)
TX = optax.sgd(RATE, momentum=0.9)
FIELDS = {"tx": TX, "views": VIEWS, "batch_size": 16, "steps": 10}


def init(rng, batch):
    memory = {"round": jnp.zeros((), jnp.int32), "mean": jnp.zeros((), jnp.float32)}
    return {"w": jnp.ones((), jnp.float32)}, Carry(model_state={}, memory=memory)


def loss(params, carry, batch, rng, step):
    return params["w"] * jnp.mean(batch["views"]), (carry, {"round": carry.memory["round"].astype(jnp.float32)})


def refresh(rng, params, carry, batches):
    """Start anew from the key, and remember the mean of two batches."""
    seen = jnp.stack([jnp.mean(next(batches)["views"]) for _ in range(2)])
    memory = {"round": carry.memory["round"] + 1, "mean": jnp.mean(seen)}
    return {"w": jax.random.normal(rng)}, carry.replace(memory=memory)


METHOD = Method(name="toy", init=init, loss=loss, encode=lambda params, carry, image: (image, {}), refresh=refresh)


def run(**fields):
    """States (on the host) and metrics after every step."""
    return [
        (recipes.bits(recipes.copy(state)), jax.device_get(metrics))
        for state, metrics, _ in train(METHOD, SOURCE, **{**FIELDS, **fields})
    ]


def test_rounds_are_equal_parts():
    assert round_starts(12, 3) == (0, 4, 8)
    assert round_starts(10, 3) == (0, 3, 7)
    assert round_starts(5, 1) == (0,)
    for rounds in (0, 6):
        with pytest.raises(UserError, match=f"run of 5 steps can't have {rounds} rounds"):
            round_starts(5, rounds)


def test_refresh_comes_between_the_rounds_with_a_new_optimizer():
    found = run(rounds=3)
    assert [int(metrics["round"]) for _, metrics in found] == [0] * 3 + [1] * 4 + [2] * 3
    counts = [int(optax.tree.get(state.opt_state, "count")) for state, _ in found]
    assert counts == [1, 2, 3, 1, 2, 3, 4, 1, 2, 3], "schedules start anew as well"
    means = sorted({float(state.carry.memory["mean"]) for state, _ in found})
    assert len(means) == 3, "other images, or other views of them, in every round"
    assert len([state for state, _ in found if state.carry.memory["mean"] == 0]) == 3


@pytest.mark.parametrize("stopped", [2, 3, 5])
def test_a_run_goes_on_in_the_middle_of_a_round_and_at_its_end(stopped):
    whole = run(rounds=3)
    states = train(METHOD, SOURCE, **{**FIELDS, "rounds": 3})
    state = next(s for i, (s, _, _) in enumerate(states, start=1) if i == stopped)
    saved = recipes.copy(state)
    states.close()
    rest = run(rounds=3, state=saved)
    assert len(rest) == 10 - stopped
    recipes.assert_same_bits(rest[-1][0], whole[-1][0])


def test_devices_do_not_matter_to_a_round():
    mesh = {n: ssl_jax.sharding.data_mesh(jax.devices()[:n]) for n in (1, 8)}
    made = []
    for devices in mesh.values():
        state = ssl_jax.training.initial_state(METHOD, SOURCE, tx=TX, views=VIEWS, mesh=devices)
        made.append(
            begin_round(METHOD, state, SOURCE, tx=TX, views=VIEWS, batch_size=16, seed=0, mesh=devices).carry.memory
        )
    np.testing.assert_allclose(made[0]["mean"], made[1]["mean"], rtol=1e-6)


def test_a_method_without_refresh_has_one_round():
    with pytest.raises(UserError, match="toy does not work in rounds"):
        next(train(dataclasses.replace(METHOD, refresh=None), SOURCE, **FIELDS, rounds=2))
