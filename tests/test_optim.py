import importlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from values import assert_close

from ssl_jax import optim, schedules
from ssl_jax.core import UserError
from ssl_jax.evaluation import tuning

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
    rate = schedules.warmup_cosine(optim.scaled_learning_rate(0.3, 512), steps=40, warmup=8)
    assert_close([rate(at(step)) for step in data["steps"]], data["byol"], 1e-6)
    assert rate(at(0)) == 0
    assert rate(at(8)) == np.float32(0.6)


@pytest.mark.parametrize(("scaling", "base"), [("linear", 0.3), ("sqrt", 0.075)])
def test_learning_rate_equals_simclrs(fixture, scaling, base):
    """Their number of steps is examples * epochs // batch + 1 = 101."""
    expected = fixture("schedule_lr")[f"simclr_{scaling}"]
    rate = schedules.warmup_cosine(optim.scaled_learning_rate(base, 512, scaling), steps=101, warmup=20)
    assert_close([rate(at(step)) for step in range(101)], expected, 1e-6)


def test_learning_rate_equals_mocos_cosine(fixture):
    """Per epoch and without warm-up: the same curve over 200 epochs."""
    rate = schedules.warmup_cosine(0.03, steps=200)
    assert_close([rate(at(epoch)) for epoch in range(200)], fixture("schedule_lr")["moco_v2"], 1e-6)


def test_learning_rate_equals_obows(fixture):
    """Per epoch, with an end above zero."""
    rate = schedules.warmup_cosine(0.03, steps=20, warmup=4, end=3e-5)
    assert_close([rate(at(epoch)) for epoch in range(20)], fixture("schedule_lr")["obow"], 1e-6)
    assert_close(rate(at(20)), 3e-5, 1e-5)


@pytest.mark.parametrize(("peer", "peak", "end"), [("dino", 5e-4, 1e-6), ("solo", 0.3, 0.0)])
def test_learning_rate_equals_dinos_and_solo_learns_after_the_warm_up(fixture, peer, peak, end):
    """Their warm-up reaches the peak one step early, so in it they are ahead by up to one step's rise."""
    expected = fixture("schedule_lr")[peer]
    rate = schedules.warmup_cosine(peak, steps=40, warmup=8, end=end)
    ours = np.asarray([rate(at(step)) for step in range(len(expected))])
    assert_close(ours[8:], expected[8:], 1e-6)
    ahead = expected[:8] - ours[:8]
    assert (ahead > -1e-9).all()
    assert (ahead <= peak / 8 * 1.001).all()


def test_learning_rate_equals_moco_v1s(fixture):
    rate = schedules.drops(0.03, at=(120, 160), factor=0.1)
    assert_close([rate(at(epoch)) for epoch in range(200)], fixture("schedule_lr")["moco_v1"], 1e-6)


def test_scaling_of_rates():
    assert optim.scaled_learning_rate(0.2, 512) == pytest.approx(0.4)
    assert optim.scaled_learning_rate(0.2, 400, "sqrt") == pytest.approx(4.0)
    assert optim.scaled_learning_rate(0.2, 512, "none") == 0.2
    with pytest.raises(UserError, match="linear, sqrt, none"):
        optim.scaled_learning_rate(0.2, 512, "cubic")


def test_a_warm_up_as_long_as_the_run_is_an_error():
    with pytest.raises(UserError, match="warm-up of 10 steps must be shorter than the run of 10"):
        schedules.warmup_cosine(0.1, steps=10, warmup=10)


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


def test_lamb_adapts_what_decays():
    """`exclude_from_layer_adaptation` is `exclude_from_weight_decay` (google-research/albert, commit 6ca4dfd)."""
    params = {"kernel": np.full((2, 2), 5, np.float32), "bias": np.full(2, 5, np.float32)}
    ones = jax.tree.map(np.ones_like, params)
    for decay, bias in ((None, -0.1), ("all", -0.5)):  # Adam's first update is 1; its norm over the weights' is 5
        tx = optim.create("lamb", 0.1, decay=decay)
        updates, _ = tx.update(ones, tx.init(params), params)
        np.testing.assert_allclose(updates["kernel"], -0.5, rtol=1e-5)
        np.testing.assert_allclose(updates["bias"], bias, rtol=1e-5)


def test_adams_decay_is_in_its_gradient():
    """Two steps of torch's and Caffe's Adam with weight decay, in numpy: it goes through both moments, of all."""
    rng = np.random.default_rng(0)
    params = {"kernel": rng.normal(size=(3, 2)).astype(np.float32), "bias": np.ones(2, np.float32)}
    gradients = [jax.tree.map(lambda p: rng.normal(size=p.shape).astype(np.float32), params) for _ in range(2)]
    for decay, decaying in ((None, {"kernel", "bias"}), ("kernels", {"kernel"})):
        tx = optim.create("adam", 0.1, weight_decay=0.3, decay=decay, b1=0.5, b2=0.99)
        state, moved = tx.init(params), params
        for gradient in gradients:
            updates, state = tx.update(gradient, state, moved)
            moved = optax.apply_updates(moved, updates)
        for name, start in params.items():
            w, m, v = start.astype(np.float64), 0.0, 0.0
            for step, gradient in enumerate(gradients, start=1):
                g = gradient[name] + 0.3 * w * (name in decaying)
                m, v = 0.5 * m + 0.5 * g, 0.99 * v + 0.01 * g**2
                w = w - 0.1 * m / (1 - 0.5**step) / (np.sqrt(v / (1 - 0.99**step)) + 1e-8)
            np.testing.assert_allclose(moved[name], w, rtol=1e-5)


def test_sgd_decays_all_parameters_as_mocos_and_simsiams():
    updates = one_update("sgd", weight_decay=0.1)
    for leaf in updates.values():
        np.testing.assert_allclose(leaf, -0.01, rtol=1e-6)


ONE_AXIS = {
    "encoder": dict.fromkeys(("cls", "pos_cls", "mask_token", "patch_bias"), np.ones(2, np.float32)),
    "decoder": {"mask": np.ones(2, np.float32)},
    "head": {"last": {"scale": np.ones(2, np.float32)}, "norm0": {"scale": np.ones(2, np.float32)}},
}
OF_MORE_AXES_THERE = {"encoder/cls", "encoder/pos_cls", "encoder/mask_token", "decoder/mask", "head/last/scale"}


def decaying(tx):
    """Paths of `ONE_AXIS` that move with gradients of zero."""
    updates, _ = tx.update(jax.tree.map(np.zeros_like, ONE_AXIS), tx.init(ONE_AXIS), ONE_AXIS)
    moved = [path for path, update in jax.tree.leaves_with_path(updates) if update.any()]
    return {jax.tree_util.keystr(path, simple=True, separator="/") for path in moved}


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw", "lamb", "lars", "lars_byol"])
def test_tokens_and_norms_of_prototypes_decay_though_they_have_one_axis(name):
    """`get_params_groups` of DINO and iBOT, `get_params_groups_with_decay` of DINOv2, timm's `add_weight_decay` in MAE.

    LARS excludes one axis only in Barlow Twins, VICReg, MoCo v3 and DINO, and biases and norms by name in BYOL.
    """
    assert decaying(optim.create(name, 0.1, weight_decay=0.1, decay="kernels")) == OF_MORE_AXES_THERE
    groups = {"head": {"weight_decay": 0.2}}
    assert decaying(optim.create(name, 0.1, weight_decay=0.1, decay="kernels", groups=groups)) == OF_MORE_AXES_THERE


@pytest.mark.parametrize("name", ["sgd", "adamw", "lamb", "lars"])
def test_what_decays_leaves_the_optimizers_state_as_it_is(name, monkeypatch):
    """States of before tokens decayed still fit."""
    fields = {"bias_rate_scale": 0.5} if name == "lars" else {}
    make = lambda: optim.create(  # noqa: E731
        name,
        0.1,
        weight_decay=schedules.linear(0.0, 1.0, steps=1),
        decay="kernels",
        groups={"head/last": {"frozen_steps": 2}},
        **fields,
    )
    now = jax.tree.structure(make().init(ONE_AXIS))
    monkeypatch.setattr(optim, "_has_more_axes_there", lambda path: False)
    assert jax.tree.structure(make().init(ONE_AXIS)) == now


@pytest.mark.parametrize("name", ["adamw", "lamb"])
def test_fine_tuning_leaves_tokens_out(name):
    """`no_weight_decay` of MAE's and DeiT's transformers."""
    assert decaying(optim.create(name, 0.1, weight_decay=0.1, decay="matrices")) == set()
    tx = tuning.optimizer(tuning.FineTuning(optimizer=name, weight_decay=0.1, warmup=0.0), 10)
    params = {"encoder": {"cls": jnp.ones(2)}, "classifier": {"kernel": jnp.ones((2, 2))}}
    updates, _ = tx.update(jax.tree.map(jnp.zeros_like, params), tx.init(params), params)
    assert updates["classifier"]["kernel"].any()
    assert not updates["encoder"]["cls"].any()


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_what_decays_may_be_said(name):
    """DINO's SGD leaves biases and norms alone (`utils.get_params_groups`), MoCo v3's AdamW does not."""
    bias = {decay: one_update(name, weight_decay=0.1, decay=decay)["bias"] for decay in ("kernels", "all")}
    np.testing.assert_array_equal(bias["kernels"], 0.0)
    np.testing.assert_allclose(bias["all"], -0.01, rtol=1e-6)
    for wrong, of in (("biases", name), ("all", "lars")):
        with pytest.raises(UserError, match=f'"kernels" for LARS, not {wrong!r} for {of}'):
            optim.create(of, 0.1, decay=wrong)


def test_recipes_decay_what_the_authors_do():
    """`main_dino.py` with `--optimizer sgd`, `main_moco.py` of MoCo v3 with `--optimizer adamw`, VISSL's
    `regularize_bn: False`, `--no_decay_gain` of BiGAN's `train_imagenet.sh`.
    """
    kernels = (("dino", "resnet50"), ("jigsaw", ""), ("jigsaw", "permutations100"), ("bigan", ""))
    for name, variant, expected in (*((*of, "kernels") for of in kernels), ("moco_v3", "vit", "all")):
        config = importlib.import_module(f"ssl_jax.configs.{name}").get_config(variant)
        assert config.optimizer_args.decay == expected


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw", "lamb", "lars", "lars_byol"])
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
    with pytest.raises(UserError, match="adam, adamw, lamb, lars, lars_byol, sgd"):
        optim.create("adagrad", 0.1)


def paths_that_move(tx, steps):
    """For each step the paths of a nested tree that an update changes, with gradients of ones."""
    params = {"encoder": {"kernel": jnp.ones((2, 2))}, "head": {"dense": jnp.ones((2, 2)), "last": jnp.ones((2, 2))}}
    state, moved = tx.init(params), []
    for _ in range(steps):
        updates, state = tx.update(jax.tree.map(jnp.ones_like, params), state, params)
        flat = {
            jax.tree_util.keystr(path, simple=True, separator="/"): x for path, x in jax.tree.leaves_with_path(updates)
        }
        moved.append({path: float(x[0, 0]) for path, x in flat.items() if x.any()})
    return moved


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_a_group_is_frozen_for_its_first_steps_and_then_starts_afresh(name):
    tx = optim.create(name, 0.1, groups={"head/last": {"frozen_steps": 2}})
    moved = paths_that_move(tx, 3)
    assert [sorted(step) for step in moved] == [["encoder/kernel", "head/dense"]] * 2 + [
        ["encoder/kernel", "head/dense", "head/last"]
    ]
    assert moved[2]["head/last"] == pytest.approx(moved[0]["encoder/kernel"], rel=1e-6), (
        "momentum was gathered meanwhile"
    )


def test_a_frozen_group_enters_the_schedules_where_the_run_is():
    rate = schedules.linear(1.0, 0.0, steps=4)
    moved = paths_that_move(optim.create("sgd", rate, momentum=0.0, groups={"head/last": {"frozen_steps": 2}}), 4)
    assert [step.get("head/last") for step in moved] == [None, None, -0.5, -0.25]
    assert [step["encoder/kernel"] for step in moved] == [-1.0, -0.75, -0.5, -0.25]


def test_a_group_has_its_own_rate_and_decay_and_the_longest_path_counts():
    groups = {"head": {"learning_rate": 1.0}, "head/last": {"weight_decay": 1.0}}
    [moved] = paths_that_move(optim.create("sgd", 0.1, momentum=0.0, groups=groups), 1)
    assert moved == pytest.approx({"encoder/kernel": -0.1, "head/dense": -1.0, "head/last": -0.2})


def test_a_group_without_parameters_is_an_error():
    with pytest.raises(UserError, match="under the optimizer group 'predictor'; there is encoder, head"):
        paths_that_move(optim.create("sgd", 0.1, groups={"predictor": {}}), 1)


@pytest.mark.parametrize("name", ["sgd", "adamw", "lars", "lamb"])
def test_weight_decay_may_follow_a_schedule(name):
    """A decay that is zero at step 0 and 1 at step 1, with zero gradients."""
    tx = optim.create(name, 0.1, weight_decay=schedules.linear(0.0, 1.0, steps=1), momentum=0.0)
    params = {"kernel": jnp.ones((2, 2))}
    state, zero = tx.init(params), {"kernel": jnp.zeros((2, 2))}
    first, state = tx.update(zero, state, params)
    second, _ = tx.update(zero, state, params)
    assert not first["kernel"].any()
    assert (second["kernel"] < 0).all()


def test_arrays_are_clipped_one_by_one():
    """DINO's rule, array by array: a small gradient is left alone beside a large one."""
    gradients = {"small": jnp.full((4,), 0.1), "large": jnp.full((4,), 10.0)}
    tx = optim.create("sgd", 1.0, momentum=0.0, clip_each_norm=3.0)
    updates, _ = tx.update(gradients, tx.init(gradients), gradients)
    np.testing.assert_allclose(updates["small"], -0.1, rtol=1e-6)
    np.testing.assert_allclose(updates["large"], -10.0 * 3.0 / (20.0 + 1e-6), rtol=1e-6)


def test_adamw_and_lamb_are_optaxs():
    params = {"kernel": jnp.asarray(np.random.default_rng(0).normal(size=(3, 4)), jnp.float32)}
    for name, peer in (("adamw", optax.adamw), ("lamb", optax.lamb)):
        ours, theirs = optim.create(name, 0.1, weight_decay=0.3), peer(0.1, weight_decay=0.3)
        states = [ours.init(params), theirs.init(params)]
        for step in range(3):
            gradient = jax.tree.map(lambda p, step=step: jnp.sin(p + step), params)
            pair = [tx.update(gradient, state, params) for tx, state in zip((ours, theirs), states, strict=True)]
            states = [state for _, state in pair]
            np.testing.assert_allclose(pair[0][0]["kernel"], pair[1][0]["kernel"], rtol=1e-6)


def test_schedules_begin_and_end_where_they_say():
    for kind in (schedules.linear, schedules.cosine):
        values = [float(kind(0.2, 0.8, steps=10)(at(step))) for step in (0, 5, 10, 20)]
        np.testing.assert_allclose(values, [0.2, 0.5, 0.8, 0.8], rtol=1e-6)
    drops = schedules.drops(1.0, at=(3, 5), factor=0.1)
    np.testing.assert_allclose(
        [drops(at(step)) for step in (0, 2, 3, 4, 5, 9)], [1, 1, 0.1, 0.1, 0.01, 0.01], rtol=1e-6
    )
    warm = schedules.with_warmup(drops, steps=20, warmup=4)
    np.testing.assert_allclose([warm(at(step)) for step in (0, 2, 4, 7)], [0, 0.5, 1, 0.1], rtol=1e-6)
    assert schedules.value_at(0.3, at(1)) == 0.3
    assert schedules.value_at(schedules.constant(0.3), at(1)) == np.float32(0.3)


@pytest.mark.parametrize("name", ["lars", "lars_byol"])
def test_lars_may_give_biases_and_norms_a_rate_of_their_own(name):
    """The rate multiplies in the end, so that the same gradients give updates in that proportion (Barlow Twins)."""
    params = {"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)}
    states, updates = {}, {}
    for scale in (1.0, 0.024):
        tx = optim.create(name, 0.2, weight_decay=1e-2, bias_rate_scale=scale)
        states[scale] = tx.init(params)
        for step in range(3):
            gradients = jax.tree.map(lambda p, k=step: p * (k + 1.0), params)
            updates[scale], states[scale] = tx.update(gradients, states[scale], params)
    np.testing.assert_allclose(updates[0.024]["bias"], 0.024 * updates[1.0]["bias"], rtol=1e-6)
    np.testing.assert_array_equal(updates[0.024]["kernel"], updates[1.0]["kernel"])


def test_a_rate_that_was_meant_for_lars_is_doubted():
    assert "adamw with a learning rate of 4.8 will hardly train" in optim.unlikely_rate("adamw", 4.8)
    assert "adam with a learning rate of 4.8 will" in optim.unlikely_rate("adam", 4.8)
    assert optim.unlikely_rate("adamw", 1e-3) is None
    assert optim.unlikely_rate("lars", 4.8) is None


def test_updates_are_counted_since_the_optimizer_began():
    """Also with groups, of which one stands still at first, and with a parameter that is called as a counter is."""
    params = {"encoder": {"kernel": np.ones((2, 2), np.float32)}, "count": np.ones(3, np.float32)}
    tx = optim.create("adamw", lambda step: 0.1 / (1 + step), groups={"count": {"frozen_steps": 1}})
    state = tx.init(params)
    assert optim.updates_counted(state) == 0
    for _ in range(2):
        _, state = tx.update(params, state, params)
    assert optim.updates_counted(state) == 2
