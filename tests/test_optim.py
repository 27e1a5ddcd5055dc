import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from values import assert_close

from ssl_jax import optim
from ssl_jax.core import UserError

NAMES = (
    "dense/kernel",
    "conv/kernel",
    "dense/bias",
    "batch_normalization/gamma",
    "batch_normalization/beta",
    "zero/kernel",
)
RATES = {"big": [0.5] * 5, "sched": [0.125, 0.25, 0.5, 0.375, 0.1875], "simclr": [4.75] * 5}
SETTINGS = {name: {"weight_decay": 0.05, "trust_coefficient": 0.02} for name in ("big", "sched")}
SETTINGS["simclr"] = {"weight_decay": 1e-6, "trust_coefficient": 1e-3}


@pytest.fixture(autouse=True)
def standard_promotion():
    """Optax raises floats to integer counts, which strict promotion refuses."""
    with jax.numpy_dtype_promotion("standard"):
        yield


def at(step):
    return jnp.asarray(step, jnp.int32)


def compare_lars(data, setting, peer, dtype, tolerance):
    rates = jnp.asarray(RATES[setting], dtype)
    tx = optim.lars(lambda step: rates[step], rate_inside_momentum=peer == "tf_classic", **SETTINGS[setting])
    params = {name: jnp.asarray(data[f"init/{name}"], dtype) for name in NAMES}
    state = tx.init(params)
    for step in range(1, 6):
        gradients = {name: jnp.asarray(data[f"grad{step}/{name}"], dtype) for name in NAMES}
        updates, state = tx.update(gradients, state, params)
        params = optax.apply_updates(params, updates)
        for name in NAMES:
            expected = data[f"{setting}/{peer}/step{step}/{name}"]
            assert params[name].dtype == dtype
            assert_close(params[name], expected, tolerance)


@pytest.mark.parametrize("setting", RATES)
@pytest.mark.parametrize("peer", ["tf_classic", "byol"])
def test_lars_equals_googles_and_deepminds(fixture, setting, peer):
    """google-research/simclr multiplies the rate into the momentum buffer, DeepMind's BYOL after it."""
    compare_lars(fixture("lars"), setting, peer, jnp.float32, 1e-5)


@pytest.mark.parametrize("setting", RATES)
@pytest.mark.parametrize("peer", ["tf_classic", "byol"])
def test_lars_equals_googles_and_deepminds_in_float64(fixture, setting, peer):
    with jax.enable_x64(True):
        compare_lars(fixture("lars"), setting, peer, jnp.float64, 1e-12)


def test_where_the_rate_stands_matters_when_it_changes(fixture):
    data = fixture("lars")
    inside, outside = (data[f"sched/{peer}/step5/dense/kernel"] for peer in ("tf_classic", "byol"))
    assert np.max(np.abs(inside - outside)) > 1e-3


def test_names_give_both_kinds_of_lars(fixture):
    data = fixture("lars")
    for name, peer in (("lars", "tf_classic"), ("lars_byol", "byol")):
        tx = optim.create(name, lambda step: jnp.asarray(RATES["sched"], jnp.float32)[step], **SETTINGS["sched"])
        params = {key: jnp.asarray(data[f"init/{key}"]) for key in NAMES}
        state = tx.init(params)
        for step in range(1, 6):
            gradients = {key: jnp.asarray(data[f"grad{step}/{key}"]) for key in NAMES}
            updates, state = tx.update(gradients, state, params)
            params = optax.apply_updates(params, updates)
        assert_close(params["dense/kernel"], data[f"sched/{peer}/step5/dense/kernel"])


def test_learning_rate_equals_byols(fixture):
    data = fixture("schedule_lr")
    rate = optim.warmup_cosine(optim.scaled_learning_rate(0.3, 512), steps=40, warmup=8)
    assert_close([rate(at(step)) for step in data["steps"]], data["byol"], 1e-6)
    assert rate(at(0)) == 0
    assert rate(at(8)) == np.float32(0.6)


@pytest.mark.parametrize(("scaling", "base"), [("linear", 0.3), ("sqrt", 0.075)])
def test_learning_rate_equals_simclrs(fixture, scaling, base):
    """Their number of steps is examples * epochs // batch + 1 = 101."""
    expected = fixture("schedule_lr")[f"simclr_{scaling}"]
    rate = optim.warmup_cosine(optim.scaled_learning_rate(base, 512, scaling), steps=101, warmup=20)
    assert_close([rate(at(step)) for step in range(101)], expected, 1e-6)


def test_learning_rate_equals_mocos_cosine(fixture):
    """Per epoch and without warm-up: the same curve over 200 epochs."""
    rate = optim.warmup_cosine(0.03, steps=200)
    assert_close([rate(at(epoch)) for epoch in range(200)], fixture("schedule_lr")["moco_v2"], 1e-6)


def test_learning_rate_equals_obows(fixture):
    """Per epoch, with an end above zero."""
    rate = optim.warmup_cosine(0.03, steps=20, warmup=4, end=3e-5)
    assert_close([rate(at(epoch)) for epoch in range(20)], fixture("schedule_lr")["obow"], 1e-6)
    assert_close(rate(at(20)), 3e-5, 1e-5)


def test_scaling_of_rates():
    assert optim.scaled_learning_rate(0.2, 512) == pytest.approx(0.4)
    assert optim.scaled_learning_rate(0.2, 400, "sqrt") == pytest.approx(4.0)
    assert optim.scaled_learning_rate(0.2, 512, "none") == 0.2
    with pytest.raises(UserError, match="linear, sqrt, none"):
        optim.scaled_learning_rate(0.2, 512, "cubic")


def test_a_warm_up_as_long_as_the_run_is_an_error():
    with pytest.raises(UserError, match="warm-up of 10 steps must be shorter than the run of 10"):
        optim.warmup_cosine(0.1, steps=10, warmup=10)


def one_update(name, **kwargs):
    """Updates for a kernel and a bias of ones with zero gradients: what decays moves."""
    params = {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}
    tx = optim.create(name, 0.1, **kwargs)
    updates, _ = tx.update(jax.tree.map(jnp.zeros_like, params), tx.init(params), params)
    return updates


@pytest.mark.parametrize("name", ["adamw", "lamb", "lars", "lars_byol"])
def test_only_kernels_decay(name):
    updates = one_update(name, weight_decay=0.1)
    assert (updates["kernel"] < 0).all()
    np.testing.assert_array_equal(updates["bias"], 0.0)


def test_sgd_decays_all_parameters_as_mocos_and_simsiams():
    updates = one_update("sgd", weight_decay=0.1)
    for leaf in updates.values():
        np.testing.assert_allclose(leaf, -0.01, rtol=1e-6)


@pytest.mark.parametrize("name", ["sgd", "adamw", "lamb", "lars", "lars_byol"])
def test_gradients_are_clipped_by_their_global_norm_first(name):
    params = {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}
    gradients = jax.tree.map(lambda p: 100.0 * p, params)
    clipped = jax.tree.map(lambda g: g * (2.0 / optax.tree.norm(gradients)), gradients)
    results = []
    for grads, clip in ((gradients, 2.0), (clipped, None)):
        tx = optim.create(name, 0.1, clip_norm=clip)
        results.append(tx.update(grads, tx.init(params), params)[0])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), *results)


def test_an_unknown_optimizer_lists_the_known_ones():
    with pytest.raises(UserError, match="adamw, lamb, lars, lars_byol, sgd"):
        optim.create("adagrad", 0.1)
