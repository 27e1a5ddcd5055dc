"""Cross-entropy against its formula, and accuracy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads
from values import assert_close

from ssl_jax import losses


def arrays(dtype=np.float32, n=7, k=5):
    rng = np.random.default_rng(0)
    return jnp.asarray(3 * rng.normal(size=(n, k)), dtype), jnp.asarray(rng.integers(0, k, n), jnp.int32)


def by_hand(logits, labels, smoothing):
    """The sum over classes, row by row in float64."""
    logits, values = np.asarray(logits, np.float64), []
    for row, label in zip(logits, labels, strict=True):
        log_p = row - np.log(np.exp(row).sum())
        target = np.full(len(row), smoothing / len(row))
        target[label] += 1 - smoothing
        values.append(-(target * log_p).sum())
    return np.mean(values)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
def test_value_equals_the_formula(smoothing):
    logits, labels = arrays()
    value = losses.cross_entropy(logits, labels, smoothing=smoothing)
    assert value.dtype == jnp.float32
    assert_close(value, by_hand(logits, labels, smoothing), 1e-6)
    with jax.enable_x64(True):
        logits, labels = arrays(np.float64)
        assert_close(
            losses.cross_entropy(logits, labels, smoothing=smoothing), by_hand(logits, labels, smoothing), 1e-12
        )
        check_grads(
            lambda x: losses.cross_entropy(jnp.asarray(x), labels, smoothing=smoothing), (logits,), 1, modes=["rev"]
        )


def test_a_guess_costs_the_logarithm_of_the_classes_and_large_logits_nothing():
    labels = jnp.asarray([0, 2], jnp.int32)
    assert losses.cross_entropy(jnp.zeros((2, 8)), labels) == pytest.approx(np.log(8))
    assert losses.cross_entropy(1e4 * jax.nn.one_hot(labels, 8), labels) == 0


def test_half_precision_is_widened():
    logits, labels = arrays()
    value = losses.cross_entropy(logits.astype(jnp.bfloat16), labels)
    assert value.dtype == jnp.float32
    assert_close(value, by_hand(logits.astype(jnp.bfloat16).astype(jnp.float32), labels, 0.0), 1e-6)


def test_accuracy_counts_the_first_of_equal_logits():
    logits = jnp.asarray([[1.0, 1.0], [0.0, 2.0], [3.0, 0.0], [0.0, 1.0]])
    assert losses.accuracy(logits, jnp.asarray([0, 1, 0, 0], jnp.int32)) == 0.75
    assert losses.accuracy(logits, jnp.asarray([1, 1, 0, 0], jnp.int32)) == 0.5
