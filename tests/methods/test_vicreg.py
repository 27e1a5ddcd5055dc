import jax
import jax.numpy as jnp
import networks
import numpy as np
import pytest
from values import assert_close

from ssl_jax import methods
from ssl_jax.core import UserError

WEIGHTS = {"invariance": 5.0, "variance": 3.0, "covariance": 2.0}


def build(**arguments):
    return methods.vicreg(networks.Tiny(), **{"layers": 3, "hidden": 9, "dim": 5, **WEIGHTS, **arguments})


def test_loss_is_the_weighted_sum_of_the_authors_terms():
    method, batch = build(), networks.batch()
    params, carry = networks.start(method)
    value, (after, metrics) = jax.jit(method.loss)(params, carry, batch, jax.random.key(1), networks.ZERO)
    pooled = [networks.encode(params["encoder"], batch["views"][:, view]) for view in range(2)]
    z = [networks.head(params["projector"], x, (True, True, False)) for x in pooled]
    covariances = [np.cov(x.T) for x in z]
    expected = {
        "invariance": np.mean((z[0] - z[1]) ** 2),
        "variance": np.mean([np.maximum(0, 1 - np.sqrt(np.diag(c) + 1e-4)) for c in covariances]),
        "covariance": sum((c**2).sum() - (np.diag(c) ** 2).sum() for c in covariances) / 5,
    }
    for name, term in expected.items():
        assert_close(metrics[name], term, 1e-4)
    assert_close(value, sum(WEIGHTS[name] * term for name, term in expected.items()), 1e-5)
    assert_close(metrics["embedding"], z[0], 1e-5)
    assert_close(metrics["features"], pooled[0], 1e-5)
    assert jax.tree.structure(after) == jax.tree.structure(carry)


def test_the_expander_has_biases_in_hidden_layers_only():
    params, carry = jax.jit(build().init)(jax.random.key(0), networks.batch())
    norm = {"scale": (9,), "bias": (9,)}
    assert jax.tree.map(jnp.shape, params["projector"]) == {
        "dense0": {"kernel": (6, 9), "bias": (9,)},
        "norm0": norm,
        "dense1": {"kernel": (9, 9), "bias": (9,)},
        "norm1": norm,
        "dense2": {"kernel": (9, 5)},
    }
    assert carry.teacher is None
    assert carry.memory is None


def test_a_hinge_that_stays_whole_raises_an_alarm():
    warn = build().warn
    assert "nearly alike" in warn({"step": 200, "variance": 0.97})
    assert warn({"step": 200, "variance": 0.3}) is None
    assert warn({"step": 20, "variance": 0.97}) is None
    assert warn({"step": 200}) is None


@pytest.mark.parametrize(
    ("name", "value"),
    [("layers", 0), ("hidden", 0), ("dim", 0), ("invariance", 0.0), ("variance", 0.0), ("covariance", 0.0)],
)
def test_impossible_settings_are_refused_when_the_method_is_built(name, value):
    with pytest.raises(UserError, match=f"`{name}` must be above 0, but is {value}"):
        build(**{name: value})
