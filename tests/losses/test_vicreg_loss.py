"""No stored values: public code disagrees about scales, so the formulas of the authors' code are derived anew."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from values import assert_close

from ssl_jax import losses


def numpy_terms(z1, z2):
    """Equations 1 to 5 entry by entry in float64, on the scale of facebookresearch/vicreg `main_vicreg.py`."""
    n, d = z1.shape
    variance, covariance = [], []
    for z in (z1, z2):
        c = np.cov(z.T)  # divides by n - 1
        variance.append(np.maximum(0, 1 - np.sqrt(np.diag(c) + 1e-4)).mean())
        covariance.append(sum(c[i, j] ** 2 for i in range(d) for j in range(d) if i != j) / d)
    invariance = sum(np.sum((z1[i] - z2[i]) ** 2) for i in range(n)) / (n * d)
    return {"invariance": invariance, "variance": np.mean(variance), "covariance": np.sum(covariance)}


@pytest.fixture(scope="module", params=[0.3, 0.9, 3.0])
def pair(request):
    """Two views whose deviations lie below 1, about it, and above it."""
    rng = np.random.default_rng(0)
    common = rng.normal(size=(20, 7)) @ rng.normal(size=(7, 7)) / np.sqrt(7)
    return [request.param * (common + 0.5 * rng.normal(size=(20, 7)) + i) for i in range(2)]


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 1e-5), (np.float64, 1e-12)])
def test_terms_are_the_formulas(pair, dtype, tolerance):
    expected = numpy_terms(*(z.astype(dtype).astype(np.float64) for z in pair))
    with jax.enable_x64(dtype == np.float64):
        z1, z2 = (jnp.asarray(z, dtype) for z in pair)
        found = losses.vicreg_terms(z1, z2)
        total = losses.vicreg(z1, z2, invariance=25.0, variance=10.0, covariance=2.0)
        assert {x.dtype for x in (*found.values(), total)} == {np.dtype(dtype)}
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=tolerance, atol=tolerance)
    weighted = 25 * expected["invariance"] + 10 * expected["variance"] + 2 * expected["covariance"]
    assert_close(total, weighted, tolerance)


def test_gradient_is_that_of_the_formulas(pair):
    """By finite differences of the numpy formulas."""
    weights = {"invariance": 25.0, "variance": 25.0, "covariance": 1.0}

    def numpy_loss(z1):
        terms = numpy_terms(z1, pair[1])
        return sum(weights[name] * terms[name] for name in weights)

    with jax.enable_x64(True):
        gradient = np.asarray(jax.grad(losses.vicreg)(jnp.asarray(pair[0]), jnp.asarray(pair[1])))
    for i, j in [(0, 0), (3, 5), (19, 6)]:
        step = np.zeros_like(pair[0])
        step[i, j] = 1e-6
        difference = (numpy_loss(pair[0] + step) - numpy_loss(pair[0] - step)) / 2e-6
        assert difference == pytest.approx(gradient[i, j], rel=1e-5, abs=1e-7)


def test_a_single_point_costs_the_whole_hinge_and_has_a_finite_gradient():
    z = jnp.full((5, 3), 0.7)
    terms = losses.vicreg_terms(z, z)
    assert_close(terms["variance"], 0.99, 1e-6)  # 1 - sqrt(1e-4)
    assert terms["invariance"] == 0
    assert terms["covariance"] < 1e-12
    assert np.isfinite(jax.grad(losses.vicreg)(z, z)).all()


def test_half_precision_is_computed_in_float32():
    z1, z2 = (jnp.asarray(np.random.default_rng(i).normal(size=(8, 4)), jnp.bfloat16) for i in range(2))
    value = losses.vicreg(z1, z2)
    assert value.dtype == jnp.float32
    assert_close(value, losses.vicreg(z1.astype(jnp.float32), z2.astype(jnp.float32)), 1e-7)
