import jax
import jax.numpy as jnp
import networks
import numpy as np
import pytest
from values import assert_close

from ssl_jax import methods
from ssl_jax.core import UserError


def build(**arguments):
    return methods.barlow_twins(networks.Tiny(), **{"layers": 3, "hidden": 9, "dim": 5, **arguments})


@pytest.mark.parametrize("scale", [1.0, 0.025])
def test_loss_is_the_papers_with_statistics_per_view(scale):
    method, batch = build(redundancy=0.1, scale=scale), networks.batch()
    params, carry = networks.start(method)
    value, (after, metrics) = jax.jit(method.loss)(params, carry, batch, jax.random.key(1), networks.ZERO)
    pooled = [networks.encode(params["encoder"], batch["views"][:, view]) for view in range(2)]
    z1, z2 = (networks.head(params["projector"], x, (True, True, False)) for x in pooled)
    c = networks.standardized(z1).T @ networks.standardized(z2) / len(z1)
    on, off = ((1 - np.diag(c)) ** 2).sum(), (c**2).sum() - (np.diag(c) ** 2).sum()
    assert_close(value, scale * (on + 0.1 * off), 1e-4)
    assert_close(metrics["invariance"], on, 1e-4)
    assert_close(metrics["redundancy"], off, 1e-4)
    assert_close(metrics["embedding"], z1, 1e-5)
    assert_close(metrics["features"], pooled[0], 1e-5)
    assert jax.tree.structure(after) == jax.tree.structure(carry)


def test_the_projector_has_no_biases_but_those_of_its_norms():
    params, carry = jax.jit(build().init)(jax.random.key(0), networks.batch())
    norm = {"scale": (9,), "bias": (9,)}
    assert jax.tree.map(jnp.shape, params["projector"]) == {
        "dense0": {"kernel": (6, 9)},
        "norm0": norm,
        "dense1": {"kernel": (9, 9)},
        "norm1": norm,
        "dense2": {"kernel": (9, 5)},
    }
    assert carry.teacher is None
    assert carry.memory is None


def test_views_without_anything_in_common_raise_an_alarm():
    warn = build(dim=100).warn
    assert "nothing in common" in warn({"step": 200, "invariance": 95.0})
    assert warn({"step": 200, "invariance": 60.0}) is None
    assert warn({"step": 20, "invariance": 95.0}) is None
    assert warn({"step": 200}) is None


@pytest.mark.parametrize(
    ("name", "value"), [("layers", 0), ("hidden", 0), ("dim", 0), ("redundancy", 0.0), ("scale", 0.0)]
)
def test_impossible_settings_are_refused_when_the_method_is_built(name, value):
    with pytest.raises(UserError, match=f"`{name}` must be above 0, but is {value}"):
        build(**{name: value})
