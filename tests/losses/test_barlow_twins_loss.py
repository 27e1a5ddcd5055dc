import jax
import jax.numpy as jnp
import numpy as np
import pytest
from values import assert_close

from ssl_jax import losses


def compare(data, prefix, weight, dtype, tolerance):
    z1, z2 = (jnp.asarray(data[f"{prefix}/{name}"], dtype) for name in ("z1", "z2"))
    function = lambda z1, z2: losses.barlow_twins(z1, z2, redundancy=weight)[0]  # noqa: E731
    value, gradients = jax.jit(jax.value_and_grad(function, argnums=(0, 1)))(z1, z2)
    assert value.dtype == dtype
    assert_close(value, data[f"{prefix}/lambda{weight}/loss"], tolerance)
    assert_close(gradients[0], data[f"{prefix}/lambda{weight}/grad_z1"], tolerance)
    assert_close(gradients[1], data[f"{prefix}/lambda{weight}/grad_z2"], tolerance)


@pytest.mark.parametrize("weight", [0.005, 0.0051])
@pytest.mark.parametrize("prefix", ["b16", "b64"])
def test_values_and_gradients_equal_lightlys(fixture, prefix, weight):
    compare(fixture("barlow"), prefix, weight, jnp.float32, 1e-5)


@pytest.mark.parametrize("prefix", ["b16", "b64"])
def test_values_and_gradients_equal_lightlys_in_float64(fixture, prefix):
    with jax.enable_x64(True):
        compare(fixture("barlow"), prefix, 0.0051, jnp.float64, 1e-12)


@pytest.mark.parametrize("prefix", ["b16", "b64"])
def test_views_are_standardised_one_by_one(fixture, prefix):
    """Scale and shift of one view change nothing; under statistics of both views together, VISSL's, they do."""
    data = fixture("barlow")
    z1, z2 = (jnp.asarray(data[f"{prefix}/{name}"]) for name in ("z1", "z2"))
    value, _ = losses.barlow_twins(z1, z2, redundancy=0.005)
    assert abs(value / data[f"{prefix}/joint_loss"] - 1) > 0.1
    moved, _ = losses.barlow_twins(100 * z1 + 7, z2, redundancy=0.005)
    assert_close(moved, value, 1e-3)  # the epsilon in the variance is all that feels the scale


def test_terms_are_the_sums_on_and_off_the_diagonal():
    rng = np.random.default_rng(0)
    z1, z2 = (rng.normal(size=(40, 6)).astype(np.float32) for _ in range(2))
    unit = [(z - z.mean(0)) / z.std(0) for z in (z1, z2)]
    c = unit[0].T @ unit[1] / 40
    value, terms = losses.barlow_twins(jnp.asarray(z1), jnp.asarray(z2), redundancy=0.1)
    on = ((1 - np.diag(c)) ** 2).sum()
    off = (c**2).sum() - (np.diag(c) ** 2).sum()
    assert_close(losses.cross_correlation(jnp.asarray(z1), jnp.asarray(z2)), c, 1e-4)
    assert_close(terms["invariance"], on, 1e-4)
    assert_close(terms["redundancy"], off, 1e-4)
    assert_close(value, on + 0.1 * off, 1e-4)


def test_equal_uncorrelated_views_have_no_loss_and_constant_ones_have_one_for_each_coordinate():
    signs = jnp.asarray([[1.0, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]])
    assert losses.barlow_twins(signs, signs)[0] < 1e-8
    value, gradient = jax.value_and_grad(lambda z: losses.barlow_twins(z, z)[0])(jnp.ones((4, 3)))
    assert value == 3.0
    assert np.isfinite(gradient).all()


def test_half_precision_is_computed_in_float32():
    z1, z2 = (jnp.asarray(np.random.default_rng(i).normal(size=(8, 4)), jnp.bfloat16) for i in range(2))
    value, _ = losses.barlow_twins(z1, z2)
    assert value.dtype == jnp.float32
    assert_close(value, losses.barlow_twins(z1.astype(jnp.float32), z2.astype(jnp.float32))[0], 1e-7)
