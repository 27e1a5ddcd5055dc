"""Cross-entropy and divergence of soft targets, against numpy."""

import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax import losses


def test_values_and_gradients_equal_numpy():
    rng = np.random.default_rng(0)
    logits, target = rng.normal(size=(4, 6)) * 30, rng.dirichlet(np.ones(6), 4)
    target[:, 0] = 0
    target /= target.sum(1, keepdims=True)
    log_p = logits - logits.max(1, keepdims=True)
    log_p -= np.log(np.exp(log_p).sum(1, keepdims=True))
    cross = -(target * log_p).sum(1).mean()
    entropy = -(target * np.log(np.where(target > 0, target, 1))).sum(1).mean()
    x, y = jnp.asarray(logits, jnp.float32), jnp.asarray(target, jnp.float32)
    for function, expected in ((losses.soft_cross_entropy, cross), (losses.kl_divergence, cross - entropy)):
        value, gradient = jax.value_and_grad(function)(x, y)
        np.testing.assert_allclose(value, expected, rtol=1e-5)
        np.testing.assert_allclose(gradient, (np.exp(log_p) - target) / 4, atol=1e-6)
    assert losses.kl_divergence(jnp.log(y[:, 1:]), y[:, 1:]) < 1e-6
    assert losses.kl_divergence(x.astype(jnp.bfloat16), y).dtype == jnp.float32
