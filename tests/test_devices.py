"""One device or eight: the same numbers, for every config. With SGD, since Adam magnifies the rounding of zeros."""

import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import recipes

from ssl_jax import make_train_step

# In float32, the code that `conftest` has for its quick compilation rounds this step to just beyond the tolerance.
AS_USERS = {"nnclr": {"xla_cpu_use_fusion_emitters": True}} if "fusion_emitters" in os.environ["XLA_FLAGS"] else {}


@pytest.fixture(scope="module", params=recipes.NAMES)
def name(request) -> str:
    return request.param


def assert_close(one: dict, eight: dict, tolerance: float) -> None:
    """Every part differs by at most `tolerance` times its largest entry; whole numbers not at all."""
    for name in one:
        leaves = [jax.tree.leaves_with_path(recipes.bits(tree[name])) for tree in (one, eight)]
        floats = [np.abs(x).max() for _, x in leaves[0] if jnp.issubdtype(x.dtype, jnp.floating)]
        for (path, a), (_, b) in zip(*leaves, strict=True):
            bound = tolerance * max(floats) if jnp.issubdtype(a.dtype, jnp.floating) else 0
            np.testing.assert_allclose(a, b, rtol=0, atol=bound, err_msg=name + jax.tree_util.keystr(path))


def parts_of(state) -> dict:
    """What a step changes; the running statistics are a part of their own."""

    def select(tree, statistics: bool) -> dict:
        leaves = jax.tree.leaves_with_path(tree)
        return {jax.tree_util.keystr(path): x for path, x in leaves if is_statistic(path) == statistics}

    trees = {"params": state.params, "teacher": state.carry.teacher, "memory": state.carry.memory}
    trees |= {"counters": [state.step, state.rng, state.opt_state]}
    return {**{name: select(tree, False) for name, tree in trees.items()}, "statistics": select(state.carry, True)}


def is_statistic(path) -> bool:
    """Running batch statistics stay in float32 whatever the dtype, and no training step reads them."""
    return "batch_stats" in jax.tree_util.keystr(path)


def test_one_step_in_float32(name):
    """Views, loss, gradient, optimizer, teacher and memory, from the same images."""
    [batch] = recipes.batches(name)
    found = []
    for devices in (1, 8):
        inputs = recipes.initial(name, devices), recipes.on_devices(name, batch, devices)
        state, metrics = recipes.step(name, devices).lower(*inputs).compile(AS_USERS.get(name))(*inputs)
        found.append({**parts_of(state), **metrics})
    assert_close(*found, tolerance=1e-6)


def test_twenty_steps_in_float64(name):
    """So many steps magnify rounding in float32 beyond any tolerance that still finds mistakes."""
    batches = [recipes.viewed(name, jax.random.key(1), batch) for batch in recipes.batches(name, 20)]
    batches = [{**b, "views": jax.tree.map(lambda x: np.asarray(x, np.float64), b["views"])} for b in batches]
    starts = {devices: recipes.initial(name, devices) for devices in (1, 8)}
    found = []
    with jax.enable_x64(True):
        for devices, start in starts.items():
            parts, losses = recipes.experiment(name, devices, "float64"), []
            step, state = make_train_step(parts.method, recipes.SGD, mesh=parts.mesh), widen(start)
            for batch in batches:
                state, metrics = step(state, recipes.on_devices(name, batch, devices))
                losses.append(metrics["loss"])
            assert {x.dtype for x in (*losses, *jax.tree.leaves(state.params))} == {jnp.dtype("float64")}
            found.append({**parts_of(state), "losses": losses})
    statistics = [{"statistics": tree.pop("statistics")} for tree in found]
    assert_close(*found, tolerance=1e-9)
    assert_close(*statistics, tolerance=1e-6)


def widen(state):
    """The state with floats in float64, but for the running statistics."""

    def leaf(path, x):
        wide = jnp.issubdtype(x.dtype, jnp.floating) and not is_statistic(path)
        # By numpy, since JAX would compile a program for each shape.
        return jax.device_put(np.asarray(x, np.float64), x.sharding) if wide else x

    return jax.tree.map_with_path(leaf, state)
