import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from ssl_jax.core import UserError
from ssl_jax.nets import BatchNorm, ConvNet, ImageNorm, ResNet


def images(dtype, batch=8):
    return jnp.asarray(np.random.default_rng(0).normal(3, 2, (batch, 5, 4, 3)), dtype)


def value_and_gradients(module, **settings):
    """(output, running statistics, gradients by parameters and input) of a training pass."""

    def loss(params, x, stats):
        y, updated = module.apply({"params": params, **stats}, x, mutable=["batch_stats"], **settings)
        return jnp.sin(y.astype(jnp.float32)).sum(), (y, updated)

    return jax.jit(jax.grad(loss, (0, 1), has_aux=True))


PARAMS = {"scale": jnp.asarray([0.5, 1.0, 2.0]), "bias": jnp.asarray([-1.0, 0.0, 1.0])}
STATS = {"batch_stats": {"mean": jnp.asarray([1.0, 2.0, 3.0]), "var": jnp.asarray([4.0, 5.0, 6.0])}}


def assert_trees_close(actual, expected, tolerance):
    """Equal to `tolerance` times each array's largest entry."""

    def close(a, b):
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * np.abs(b).max())

    jax.tree.map(close, actual, expected)


def test_training_equals_flax():
    x = images(jnp.float32)
    ours = value_and_gradients(BatchNorm(), train=True)(PARAMS, x, STATS)
    theirs = value_and_gradients(nn.BatchNorm(momentum=0.9), use_running_average=False)(PARAMS, x, STATS)
    assert_trees_close(ours, theirs, 5e-6)


def test_evaluation_equals_flax_and_changes_nothing():
    x, variables = images(jnp.float32), {"params": PARAMS, **STATS}
    ours = BatchNorm().apply(variables, x, train=False)
    np.testing.assert_allclose(ours, nn.BatchNorm(use_running_average=True).apply(variables, x), atol=1e-6)


def test_gradients_are_those_of_the_formula_in_float64():
    with jax.enable_x64(True):
        x = images(jnp.float64)[:, 0, 0]
        params = jax.tree.map(lambda a: a.astype(jnp.float64), PARAMS)

        def formula(params, x):
            mean = x.mean(0, keepdims=True)
            var = jnp.square(x - mean).mean(0, keepdims=True)
            y = (x - mean) / jnp.sqrt(var + 1e-5)
            return jnp.sin(y * params["scale"][None] + params["bias"][None]).sum()

        def ours(params, x):
            module = BatchNorm(dtype=jnp.float64)
            return jnp.sin(module.apply({"params": params, **STATS}, x, train=True, mutable=["batch_stats"])[0]).sum()

        assert_trees_close(jax.grad(ours, (0, 1))(params, x), jax.grad(formula, (0, 1))(params, x), 1e-12)


def test_large_means_do_not_cost_digits():
    x = jnp.asarray(np.random.default_rng(0).normal(1000, 1, (512, 3)), jnp.float32)
    y, _ = BatchNorm().init_with_output(jax.random.key(0), x, train=True)
    wide = np.asarray(x, np.float64)
    np.testing.assert_allclose(y, (wide - wide.mean(0)) / wide.std(0), atol=2e-4)


def test_groups_equal_local_batch_norms():
    x = images(jnp.float32)
    y, updated = BatchNorm(groups=4).apply({"params": PARAMS, **STATS}, x, train=True, mutable=["batch_stats"])
    local = [
        BatchNorm().apply({"params": PARAMS, **STATS}, part, train=True, mutable=["batch_stats"])
        for part in jnp.split(x, 4)
    ]
    np.testing.assert_allclose(y, jnp.concatenate([out for out, _ in local]), atol=1e-6)
    mean = jax.tree.map(lambda *a: jnp.stack(a).mean(0), *[stats for _, stats in local])
    assert_trees_close(updated, mean, 1e-6)


@pytest.mark.parametrize("groups", [1, 2, 8])
def test_results_do_not_depend_on_the_number_of_devices(groups):
    x, mesh = images(jnp.float32, batch=16), jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    step = value_and_gradients(BatchNorm(groups=groups), train=True)
    alone = step(PARAMS, x, STATS)
    together = step(PARAMS, jax.device_put(x, NamedSharding(mesh, P("data"))), STATS)
    assert_trees_close(together, alone, 1e-6)


def test_bfloat16_in_and_out_with_float32_inside():
    x = images(jnp.bfloat16)
    gradients, (y, updated) = value_and_gradients(BatchNorm(dtype=None), train=True)(PARAMS, x, STATS)
    assert y.dtype == gradients[1].dtype == jnp.bfloat16
    assert {a.dtype for a in jax.tree.leaves((updated, gradients[0]))} == {jnp.dtype("float32")}
    exact = value_and_gradients(BatchNorm(), train=True)(PARAMS, x.astype(jnp.float32), STATS)
    assert_trees_close(updated, exact[1][1], 1e-6)


def test_without_scale_and_bias_there_are_no_parameters():
    variables = BatchNorm(use_scale=False, use_bias=False).init(jax.random.key(0), images(jnp.float32), train=True)
    assert set(variables) == {"batch_stats"}


def test_groups_that_do_not_divide_the_batch_are_refused():
    """But any batch will do to initialise with."""
    variables = BatchNorm(groups=3).init(jax.random.key(0), images(jnp.float32), train=True)
    with pytest.raises(UserError, match="bn_groups=3 does not divide the batch of 8"):
        BatchNorm(groups=3).apply(variables, images(jnp.float32), train=True, mutable=["batch_stats"])


def test_image_norm_equals_flax_with_one_group():
    x = images(jnp.float32)

    def ours(params, x):
        return jnp.sin(ImageNorm().apply({"params": params}, x, train=True)).sum()

    def theirs(params, x):
        return jnp.sin(nn.GroupNorm(num_groups=1, epsilon=1e-5).apply({"params": params}, x)).sum()

    results = [jax.value_and_grad(f, (0, 1))(PARAMS, x) for f in (ours, theirs)]
    assert_trees_close(*results, 2e-5)


def test_image_norm_sees_one_example_and_is_the_same_in_evaluation():
    x = images(jnp.bfloat16)
    y = ImageNorm(dtype=jnp.bfloat16).apply({"params": PARAMS}, x, train=True)
    assert y.dtype == jnp.bfloat16
    alone = ImageNorm(dtype=jnp.bfloat16).apply({"params": PARAMS}, x[2:3], train=False)
    np.testing.assert_array_equal(y[2:3], alone)


@pytest.mark.parametrize("create", [ConvNet, lambda **fields: ResNet(18, base_width=4, stem="small", **fields)])
def test_an_encoder_with_layer_norm_has_the_same_parameters_and_no_statistics(create):
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 16, 16, 3)), jnp.float32)
    init = lambda kind: jax.eval_shape(lambda: create(norm=kind).init(jax.random.key(0), x, train=True))  # noqa: E731
    shapes = {kind: init(kind) for kind in ("batch", "layer")}
    assert list(shapes["layer"]) == ["params"]
    assert shapes["layer"]["params"] == shapes["batch"]["params"]
    encoder = create(norm="layer")
    params = jax.jit(lambda: encoder.init(jax.random.key(0), x, train=True)["params"])()
    apply = jax.jit(lambda x, train: encoder.apply({"params": params}, x, train=train)[0], static_argnums=1)
    pooled, alone = apply(x, True), apply(x[:1], False)
    np.testing.assert_allclose(pooled[:1], alone, atol=1e-5)


@pytest.mark.parametrize("encoder", [ConvNet(norm="group"), ResNet(18, norm="group")])
def test_an_unknown_norm_is_an_error(encoder):
    with pytest.raises(UserError, match='norm="group" is unknown: choose "batch" or "layer"'):
        encoder.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)), train=True)
