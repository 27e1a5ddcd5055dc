import jax
import jax.numpy as jnp
import networks
import numpy as np
import optax
import pytest
import recipes
from values import assert_close

from ssl_jax import collapse, init_state, make_train_step, methods, monitors
from ssl_jax.core import UserError

SIZES = {"layers": 3, "dim": 9, "bottleneck": 5}


@pytest.fixture(scope="module")
def method():
    return methods.simsiam(networks.Tiny(), **SIZES)


def numpy_forward(params, image):
    pooled = networks.encode(params["encoder"], image)
    z = networks.head(params["projector"], pooled, (True, True, True))
    return pooled, z, networks.head(params["predictor"], z, (True, False))


def symmetric(params, views, targets=None):
    """The loss in numpy; against given targets instead of the network's own, if there are any."""
    _, z, p = zip(*(numpy_forward(params, views[:, view]) for view in range(2)), strict=True)
    z = targets or z
    cosine = lambda p, z: np.sum(networks.unit(p) * networks.unit(z), axis=1).mean()  # noqa: E731
    return -(cosine(p[0], z[1]) + cosine(p[1], z[0])) / 2


def test_loss_is_the_mean_of_both_directions_with_statistics_per_view(method):
    batch = networks.batch()
    params, carry = networks.start(method)
    value, (after, metrics) = jax.jit(method.loss)(params, carry, batch, jax.random.key(1), networks.ZERO)
    pooled, z1, _ = numpy_forward(params, batch["views"][:, 0])
    assert_close(value, symmetric(params, batch["views"]), 1e-5)
    assert_close(metrics["embedding"], z1, 1e-5)
    assert_close(metrics["features"], pooled, 1e-5)
    assert jax.tree.structure(after) == jax.tree.structure(carry)


@pytest.mark.parametrize("stop_gradient", [True, False])
def test_no_gradient_flows_through_the_targets_unless_asked_for(stop_gradient):
    """By finite differences with the targets held, and with targets that move."""
    method = methods.simsiam(networks.Tiny(), **SIZES, stop_gradient=stop_gradient)
    views, key = networks.batch()["views"], jax.random.key(1)
    params, carry = networks.start(method)
    gradient = jax.jit(jax.grad(lambda p: method.loss(p, carry, {"views": views}, key, networks.ZERO)[0]))(params)
    targets = [numpy_forward(params, views[:, view])[1] for view in range(2)] if stop_gradient else None
    found = np.asarray(gradient["encoder"]["dense"]["kernel"])
    for entry in ((0, 0), (3, 2), (11, 5)):
        values = []
        for sign in (1, -1):
            moved = jax.tree.map(lambda x: np.asarray(x, np.float64).copy(), params)
            moved["encoder"]["dense"]["kernel"][entry] += sign * 1e-6
            values.append(symmetric(moved, views, targets))
        difference = (values[0] - values[1]) / 2e-6
        assert abs(difference - found[entry]) < 1e-3 * np.abs(found).max()


@pytest.mark.parametrize("stop_gradient", [True, False])
def test_without_the_stop_all_images_fall_on_a_line(stop_gradient):
    """Their deviation does not show it, since the last norm stretches a line to deviation 1."""
    method = methods.simsiam(networks.Tiny(dim=16), layers=3, dim=16, bottleneck=8, stop_gradient=stop_gradient)
    tx = optax.chain(optax.add_decayed_weights(1e-3), optax.sgd(0.2, momentum=0.9))
    state, step = init_state(method, tx, networks.batch()), make_train_step(method, tx)
    for i in range(200):
        state, metrics = step(state, networks.batch(examples=64, seed=i))
    rank = float(monitors.collapse(metrics["embedding"])["effective_rank"])
    assert rank > 5 if stop_gradient else rank < 2
    assert (collapse.embedding({"effective_rank": rank}) is None) == stop_gradient


def test_heads_have_no_bias_before_a_norm_and_the_projector_ends_in_a_norm_without_parameters(method):
    params, carry = jax.jit(method.init)(jax.random.key(0), networks.batch())
    norm = {"scale": (9,), "bias": (9,)}
    assert jax.tree.map(jnp.shape, params["projector"]) == {
        "dense0": {"kernel": (6, 9)},
        "norm0": norm,
        "dense1": {"kernel": (9, 9)},
        "norm1": norm,
        "dense2": {"kernel": (9, 9)},
    }
    assert jax.tree.map(jnp.shape, params["predictor"]) == {
        "dense0": {"kernel": (9, 5)},
        "norm0": {"scale": (5,), "bias": (5,)},
        "dense1": {"kernel": (5, 9), "bias": (9,)},
    }
    assert "norm2" in carry.model_state["projector"]["batch_stats"]


def test_the_predictors_rate_stays_while_the_others_falls():
    parts = recipes.experiment("simsiam")
    params = {"encoder": {"w": jnp.ones(2)}, "projector": {"w": jnp.ones(2)}, "predictor": {"w": jnp.ones(2)}}
    gradients = jax.tree.map(jnp.ones_like, params)
    state, sizes = parts.tx.init(params), []
    for _ in range(parts.steps):
        with jax.numpy_dtype_promotion("standard"):
            updates, state = parts.tx.update(gradients, state, params)
        sizes.append({name: -float(updates[name]["w"][0]) for name in updates})
    assert sizes[-1]["encoder"] < 0.1 * sizes[0]["encoder"]
    assert sizes[-1]["predictor"] == pytest.approx(sizes[0]["predictor"], rel=0.01)


@pytest.mark.parametrize("name", ["layers", "dim", "bottleneck"])
def test_impossible_settings_are_refused_when_the_method_is_built(name):
    with pytest.raises(UserError, match=f"`{name}` must be above 0, but is 0"):
        methods.simsiam(networks.Tiny(), **{name: 0})
