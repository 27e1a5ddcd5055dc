import flax.linen as nn
import jax
import jax.numpy as jnp
import networks
import numpy as np
import pytest
from values import assert_close

from ssl_jax import augment, methods
from ssl_jax.core import UserError
from ssl_jax.methods.supervised import classify_with

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


def test_mixed_images_are_scored_against_mixed_labels():
    """By hand from the images that `augment.mix` makes: the cross-entropy with each of both labels, by their shares."""
    smoothing = 0.1
    method = methods.supervised(Pixels(), classes=3, label_smoothing=smoothing, mixup=1.0, cutmix=0.5)
    params, carry = jax.jit(method.init)(jax.random.key(1), batch())
    rng = jax.random.key(2)
    image, share = augment.mix(jax.random.fold_in(rng, 1), batch()["views"][:, 0], alpha=1.0, cutmix_probability=0.5)
    x = np.asarray(image, np.float64).reshape(6, -1)
    logits = x @ np.asarray(params["classifier"]["dense0"]["kernel"], np.float64)
    log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    labels, s = np.arange(6) % 3, np.asarray(share, np.float64)
    hard = -s * log_p[np.arange(6), labels] - (1 - s) * log_p[np.arange(6), np.roll(labels, -1)]
    expected = (1 - smoothing) * hard.mean() - smoothing * log_p.mean()
    value, _ = jax.jit(method.loss)(params, carry, batch(), rng, ZERO)
    assert 0.05 < s.mean() < 0.95
    assert_close(value, expected, 1e-6)


def test_frozen_statistics_stay_and_normalise():
    encoder = networks.Tiny()
    method = methods.supervised(encoder, classes=3, frozen_statistics=True)
    params, carry = jax.jit(method.init)(jax.random.key(1), batch())
    loss = jax.value_and_grad(method.loss, has_aux=True)
    (_, (after, _)), _ = loss(params, carry, batch(), jax.random.key(2), ZERO)
    jax.tree.map(np.testing.assert_array_equal, after.model_state, carry.model_state)
    # The statistics it came with are what normalises: mean 0 and variance 1 here, so the features are the products.
    (_, (_, metrics)), grads = loss(networks.shaken(params), carry, batch(), jax.random.key(2), ZERO)
    kernel = networks.shaken(params)["encoder"]["dense"]["kernel"]
    assert_close(metrics["features"], np.asarray(batch()["views"]).reshape(6, -1) @ np.asarray(kernel), 1e-4)
    assert np.abs(grads["encoder"]["dense"]["kernel"]).max() > 0
    usual = methods.supervised(encoder, classes=3)
    _, (moved, _) = usual.loss(params, carry, batch(), jax.random.key(2), ZERO)
    assert np.abs(moved.model_state["encoder"]["batch_stats"]["norm"]["mean"]).max() > 1e-3


def test_logits_in_evaluation_are_those_of_running_statistics():
    encoder = networks.Tiny()
    method = methods.supervised(encoder, classes=3)
    params, carry = jax.jit(method.init)(jax.random.key(1), batch())
    image = batch()["views"][:, 0]
    logits = classify_with(encoder, 3)(params, carry.model_state, image)
    pooled, _ = method.encode(params, carry, image)
    dense = params["classifier"]["dense0"]
    assert_close(logits, np.asarray(pooled) @ np.asarray(dense["kernel"]) + np.asarray(dense["bias"]), 1e-5)


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
        ({"classes": 3, "cutmix": -0.1}, r"`cutmix` must be in 0\.\.1, but is -0.1"),
        ({"classes": 3, "mixup": -1.0}, "`mixup` is the alpha of a beta distribution, 0 or above, but is -1.0"),
    ],
)
def test_impossible_settings_are_refused_when_the_method_is_built(arguments, message):
    with pytest.raises(UserError, match=message):
        methods.supervised(Pixels(), **arguments)
