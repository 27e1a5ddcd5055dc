import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from values import assert_close

from ssl_jax import methods
from ssl_jax.core import UserError

ZERO = jnp.zeros((), jnp.int32)


class Pixels(nn.Module):
    """All pixels as features."""

    def __call__(self, image, train):
        return image.reshape(len(image), -1), {"image": image}


def batch(b=6, classes=3):
    views = jax.random.normal(jax.random.key(0), (b, 1, 3, 3, 2))
    return {"views": views, "label": jnp.arange(b, dtype=jnp.int32) % classes}


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_loss_is_the_cross_entropy_with_smoothed_labels(smoothing):
    method = methods.supervised(Pixels(), classes=3, label_smoothing=smoothing)
    params, carry = jax.jit(method.init)(jax.random.key(1), batch())
    x = np.asarray(batch()["views"], np.float64).reshape(6, -1)
    logits = x @ np.asarray(params["classifier"]["dense0"]["kernel"], np.float64)
    log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    labels = np.arange(6) % 3
    target = (1 - smoothing) * np.eye(3)[labels] + smoothing / 3
    value, (_, metrics) = jax.jit(method.loss)(params, carry, batch(), jax.random.key(2), ZERO)
    assert_close(value, -(target * log_p).sum(1).mean(), 1e-6)
    assert metrics["train_accuracy"] == pytest.approx((logits.argmax(1) == labels).mean())
    assert method.labels


def test_missing_labels_are_an_error():
    method = methods.supervised(Pixels(), classes=3)
    params, carry = method.init(jax.random.key(0), batch())
    with pytest.raises(UserError, match='learns from labels, but the batch holds no "label"'):
        method.loss(params, carry, {"views": batch()["views"]}, jax.random.key(0), ZERO)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "needs the number of classes"),
        ({"classes": 0}, "`classes` must be above 0, but is 0"),
        ({"classes": 3, "label_smoothing": 1.5}, r"`label_smoothing` must be in 0\.\.1, but is 1.5"),
        ({"classes": 3, "label_smoothing": float("nan")}, r"`label_smoothing` must be in 0\.\.1"),
    ],
)
def test_impossible_settings_are_refused_when_the_method_is_built(arguments, message):
    with pytest.raises(UserError, match=message):
        methods.supervised(Pixels(), **arguments)
