import jax
import jax.numpy as jnp
import networks
import numpy as np
import pytest
from values import assert_close

from ssl_jax import init_state, make_train_step, methods, nets, optim
from ssl_jax.configs import moco_v3 as config
from ssl_jax.core import UserError
from ssl_jax.schedules import cosine


def build(encoder=None, **arguments):
    return methods.moco_v3(encoder or networks.Tiny(), **{"layers": 2, "hidden": 9, "dim": 5, **arguments})


def numpy_project(params, image):
    pooled = networks.encode(params["encoder"], image)
    return pooled, networks.head(params["projector"], pooled, (True, True))


def contrast(query, key, temperature):
    """One direction in float64, row by row; the factor 2 tau belongs to the loss."""
    scores = networks.unit(query) @ networks.unit(key).T / temperature
    rows = [np.log(np.exp(row).sum()) - row[i] for i, row in enumerate(scores)]
    return 2 * temperature * np.mean(rows)


@pytest.mark.parametrize("temperature", [0.2, 1.0])
def test_loss_is_two_tau_times_both_directions_and_keys_are_the_slow_copys(temperature):
    method, batch = build(temperature=temperature), networks.batch()
    params, carry = networks.start(method)
    carry = carry.replace(teacher={**carry.teacher, "params": networks.shaken(carry.teacher["params"], seed=2)})
    value, (after, metrics) = jax.jit(method.loss)(params, carry, batch, jax.random.key(1), networks.ZERO)
    images = [batch["views"][:, view] for view in range(2)]
    pooled, projections = zip(*(numpy_project(params, image) for image in images), strict=True)
    queries = [networks.head(params["predictor"], z, (True, True)) for z in projections]
    keys = [numpy_project(carry.teacher["params"], image)[1] for image in images]
    assert_close(value, contrast(queries[0], keys[1], temperature) + contrast(queries[1], keys[0], temperature), 1e-5)
    assert metrics["candidates"] == len(images[0])
    assert_close(metrics["embedding"], queries[0], 1e-5)
    assert_close(metrics["features"], pooled[0], 1e-5)
    assert jax.tree.structure(after) == jax.tree.structure(carry)
    jax.tree.map(np.testing.assert_array_equal, after.teacher["params"], carry.teacher["params"])
    kinds = (after.teacher["model_state"]["encoder"], after.model_state["encoder"])
    assert not any(jax.tree.leaves(jax.tree.map(lambda a, b: bool(np.all(a == b)), *kinds)))


def test_no_gradient_reaches_the_keys():
    method, batch = build(), networks.batch()
    params, carry = networks.start(method)

    def loss(params, teacher):
        full = carry.replace(teacher={**carry.teacher, "params": teacher})
        return method.loss(params, full, batch, jax.random.key(1), networks.ZERO)[0]

    own, slow = jax.jit(jax.grad(loss, argnums=(0, 1)))(params, carry.teacher["params"])
    assert all(np.any(leaf) for leaf in jax.tree.leaves(own) if leaf.ndim > 1)
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(slow))


@pytest.mark.parametrize("layers", [2, 3])
def test_heads_have_no_biases_and_end_in_norms_without_parameters(layers):
    params, carry = jax.jit(build(layers=layers).init)(jax.random.key(0), networks.batch())
    norm = {"scale": (9,), "bias": (9,)}
    hidden = {"dense1": {"kernel": (9, 9)}, "norm1": norm} if layers == 3 else {}
    last = f"dense{layers - 1}"
    expected = {"dense0": {"kernel": (6, 9)}, "norm0": norm, **hidden, last: {"kernel": (9, 5)}}
    assert jax.tree.map(jnp.shape, params["projector"]) == expected
    predictor = {"dense0": {"kernel": (5, 9)}, "norm0": norm, "dense1": {"kernel": (9, 5)}}
    assert jax.tree.map(jnp.shape, params["predictor"]) == predictor
    assert f"norm{layers - 1}" in carry.model_state["projector"]["batch_stats"]
    online = {name: params[name] for name in ("encoder", "projector")}
    jax.tree.map(np.testing.assert_array_equal, carry.teacher["params"], online)  # starts as a copy


def test_a_resnets_predictor_ends_without_a_norm_as_the_authors():
    """`_build_mlp(..., last_bn=False)` of `MoCo_ResNet` in moco-v3's `moco/builder.py`; `MoCo_ViT` has the norm."""
    found = {}
    for norm in (True, False):
        params, carry = jax.eval_shape(build(predictor_norm=norm).init, jax.random.key(0), networks.batch())
        found[norm] = sorted(params["predictor"]), sorted(carry.model_state["predictor"]["batch_stats"])
        assert sorted(carry.model_state["projector"]["batch_stats"]) == ["norm0", "norm1"]
        assert sorted(params["predictor"]["dense1"]) == ["kernel"]
    layers = ["dense0", "dense1", "norm0"]
    assert found == {True: (layers, ["norm0", "norm1"]), False: (layers, ["norm0"])}
    recipes = {variant: config.get_config(variant).method_args for variant in ("", "vit", "fashion_mnist", "test")}
    assert [name for name, arguments in recipes.items() if not arguments.predictor_norm] == [""]


def test_the_average_follows_the_momentums_schedule():
    """The authors average at the start of a step with its own momentum, `main_moco.py` `adjust_moco_momentum`."""
    method = build(momentum=cosine(0.5, 1.0, steps=4))
    params, carry = networks.start(method)
    for step in range(5):
        before = carry.teacher["params"]["encoder"]["dense"]["kernel"]
        carry = method.update(params, carry, jnp.asarray(step, jnp.int32))
        m = 1 - 0.5 * (np.cos(np.pi * min(step + 1, 4) / 4) + 1) / 2
        expected = m * before + (1 - m) * params["encoder"]["dense"]["kernel"]
        assert_close(carry.teacher["params"]["encoder"]["dense"]["kernel"], expected, 1e-6)
    assert "predictor" not in carry.teacher["params"]


def test_a_transformers_patch_embedding_stays_as_it_starts():
    """Neither the gradient nor, in the recipe, weight decay moves it; what comes after it does move."""
    recipe = config.get_config("vit")
    assert recipe.encoder_args.freeze_patches
    groups = recipe.optimizer_args.groups
    encoder = nets.ViT(patch=2, dim=8, depth=1, heads=2, freeze_patches=True, pos="sincos")
    method, batch = build(encoder), networks.batch()
    for fields, moves in (({"groups": groups.to_dict()}, False), ({}, True)):
        tx = optim.create("adamw", 0.1, weight_decay=recipe.optimizer_args.weight_decay, decay="all", **fields)
        state = init_state(method, tx, batch)
        before = jax.tree.map(np.asarray, state.params["encoder"])
        state, _ = make_train_step(method, tx)(state, batch)
        after = state.params["encoder"]
        assert np.any(before["patch_kernel"] != after["patch_kernel"]) == moves
        np.testing.assert_array_equal(before["patch_bias"], after["patch_bias"])
        assert np.any(before["block1"]["mlp_in"]["kernel"] != after["block1"]["mlp_in"]["kernel"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"temperature": 0.0}, "`temperature` must be above 0, but is 0.0"),
        ({"layers": 0}, "`layers` must be above 0"),
        ({"hidden": 0}, "`hidden` must be above 0"),
        ({"dim": 0}, "`dim` must be above 0"),
        ({"momentum": 1.5}, r"momentum in 0\.\.1, but was given 1.5"),
    ],
)
def test_impossible_settings_are_refused_when_the_method_is_built(arguments, message):
    with pytest.raises(UserError, match=message):
        build(**arguments)
