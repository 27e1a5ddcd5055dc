"""KoLeo against plain numpy: DINOv2's formula with every pair of directions looked at."""

import jax
import jax.numpy as jnp
import numpy as np
from values import assert_close

from ssl_jax import losses


def by_hand(x):
    x = x / np.linalg.norm(x, axis=1, keepdims=True)
    distances = np.linalg.norm(x[:, None] - x[None] + 1e-8, axis=2)
    np.fill_diagonal(distances, np.inf)
    return -np.mean(np.log(distances.min(1) + 1e-8))


def test_value_and_gradient():
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        x = rng.normal(size=(9, 4))
        value, gradient = jax.value_and_grad(losses.koleo)(jnp.asarray(x))
        assert_close(value, by_hand(x), 1e-12)
        for direction in rng.normal(size=(3, *x.shape)):
            slope = (by_hand(x + 1e-6 * direction) - by_hand(x - 1e-6 * direction)) / 2e-6
            assert_close(np.sum(gradient * direction), slope, 1e-5)


def test_spread_points_have_the_smaller_loss():
    rng = np.random.default_rng(0)
    spread = jnp.asarray(rng.normal(size=(16, 8)), jnp.float32)
    assert losses.koleo(spread) < losses.koleo(spread * 0.1 + 1.0)


def test_equal_points_are_finite():
    value, gradient = jax.value_and_grad(losses.koleo)(jnp.ones((4, 3)))
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()


def test_norms_below_eps_count_as_eps_as_dinov2s():
    """`F.normalize(..., eps=1e-8)`: of a row of norm 5e-9 half a unit is left."""
    x = np.asarray([[3.0, 0.0], [-5e-9, 0.0]], np.float32)
    assert_close(losses.koleo(jnp.asarray(x)), -np.log(1.5), 1e-6)
