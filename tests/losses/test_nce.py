import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssl_jax import losses


def numpy_nce(own, noise, z, n):
    """Equations 5 to 7 with probabilities, in float64; lemniscate.pytorch's `NCECriterion` but for its epsilon."""
    m = noise.shape[1]
    posterior = lambda logits: (np.exp(logits) / z) / (np.exp(logits) / z + m / n)  # noqa: E731
    return np.mean(-np.log(posterior(own)) - np.log(1 - posterior(noise)).sum(axis=1))


@pytest.fixture(scope="module")
def logits():
    rng = np.random.default_rng(0)
    return rng.uniform(-3, 3, 6), rng.uniform(-3, 3, (6, 9))


@pytest.mark.parametrize(("dtype", "rtol"), [(np.float32, 1e-5), (np.float64, 1e-12)])
def test_value_and_gradient_are_those_of_the_probabilities(logits, dtype, rtol):
    own, noise = logits
    expected, step = numpy_nce(own, noise, 500.0, 40), np.eye(6)[2] * 1e-6
    slope = (numpy_nce(own + step, noise, 500.0, 40) - numpy_nce(own - step, noise, 500.0, 40)) / 2e-6
    with jax.enable_x64(dtype == np.float64):
        function = lambda own: losses.nce(  # noqa: E731
            own, jnp.asarray(noise, dtype), log_normalizer=jnp.log(jnp.asarray(500.0, dtype)), classes=40
        )
        value, gradient = jax.value_and_grad(function)(jnp.asarray(own, dtype))
        assert value.dtype == dtype
        np.testing.assert_allclose(value, expected, rtol=rtol)
        np.testing.assert_allclose(gradient[2], slope, rtol=1e-4)


def test_a_model_that_guesses_has_the_loss_of_a_guess():
    """With P = 1 / n everywhere, the own class is data with probability 1 / (m + 1)."""
    m = 7
    value = losses.nce(jnp.zeros(3), jnp.zeros((3, m)), log_normalizer=jnp.log(jnp.asarray(50.0)), classes=50)
    np.testing.assert_allclose(value, np.log(m + 1) + m * np.log(1 + 1 / m), rtol=1e-6)


def test_logits_whose_exponentials_overflow_are_fine():
    own, noise = jnp.asarray([-200.0, 200.0]), jnp.full((2, 3), 200.0)
    value, gradient = jax.value_and_grad(losses.nce)(own, noise, log_normalizer=jnp.asarray(10.0), classes=9)
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()
