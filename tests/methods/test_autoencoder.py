"""Autoencoders against plain numpy; there is no public reference code of one."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from values import assert_close

from ssl_jax import losses, methods
from ssl_jax.augment.holes import central_hole, random_holes
from ssl_jax.core import UserError
from ssl_jax.nets import BatchNorm

STEP = jnp.zeros((), jnp.int32)


class Flat(nn.Module):
    """The pixels themselves as features."""

    def __call__(self, image, train):
        return image.reshape(len(image), -1)


class Normed(nn.Module):
    """Normalised pixels as features."""

    @nn.compact
    def __call__(self, image, train):
        return BatchNorm()(image.reshape(len(image), -1), train)


def batch(count, views=1, side=8, channels=1):
    values = np.random.default_rng(0).normal(size=(count, views, side, side, channels))
    return {"views": jnp.asarray(values, jnp.float32)}


def test_linear_autoencoder_equals_numpy():
    """No halving and a code: dense layers, the decoder's normalisation and its last convolution, and the error."""
    method = methods.autoencoder(Flat(), bottleneck=3, width=2, halvings=0)
    given = batch(6, side=4)
    params, carry = jax.jit(method.init)(jax.random.key(0), given)
    value, (_, metrics) = jax.jit(method.loss)(params, carry, given, jax.random.key(1), STEP)
    p = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
    image = np.asarray(given["views"][:, 0], np.float64)
    z = image.reshape(6, -1) @ p["code"]["dense0"]["kernel"] + p["code"]["dense0"]["bias"]
    assert_close(metrics["embedding"], z)
    x = (z @ p["decoder"]["dense"]["kernel"]).reshape(6, 4, 4, 2)
    x = (x - x.mean((0, 1, 2))) / np.sqrt(x.var((0, 1, 2)) + 1e-5)
    x = np.pad(
        np.maximum(x * p["decoder"]["norm"]["scale"] + p["decoder"]["norm"]["bias"], 0),
        ((0, 0), (1, 1), (1, 1), (0, 0)),
    )
    kernel = p["decoder"]["image"]["kernel"]
    made = sum(x[:, i : i + 4, j : j + 4] @ kernel[i, j] for i in range(3) for j in range(3)) + p["decoder"]["bias"]
    assert_close(value, np.mean((made - image) ** 2))
    assert_close(metrics["mean_image_loss"], np.mean((image.mean(0) - image) ** 2))


@pytest.mark.parametrize(("kind", "power"), [("mse", 2), ("l1", 1)])
def test_errors_inside_and_outside_of_a_hole(kind, power):
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=(2, 5, 6, 7, 3))
    hole = rng.random((5, 6, 7)) < 0.3
    error = losses.pixel_error(jnp.asarray(a, jnp.float32), jnp.asarray(b, jnp.float32), kind)
    each = (np.abs(a - b) ** power).mean(-1)
    assert_close(error, each)
    for weight in (1.0, 0.7, 0.0):
        got = losses.inside_and_outside(error, jnp.asarray(hole), weight)
        assert_close(got, weight * each[hole].mean() + (1 - weight) * each[~hole].mean())
    assert np.isfinite(losses.inside_and_outside(error, jnp.ones((5, 6, 7), bool), 1.0))  # nothing outside


def test_the_second_view_goes_in_and_the_first_is_the_target():
    """Of two views the gradient of the features' layer sees the perturbed one, and the error the clean one."""
    method = methods.autoencoder(Flat(), bottleneck=4, width=2, halvings=1)
    given = batch(6, views=2)
    params, carry = jax.jit(method.init)(jax.random.key(0), given)
    loss = jax.jit(method.loss)
    value, (_, metrics) = loss(params, carry, given, jax.random.key(1), STEP)
    np.testing.assert_array_equal(metrics["features"], given["views"][:, 1].reshape(6, -1))
    other = {"views": given["views"].at[:, 0].add(1.0)}
    moved, (_, after) = loss(params, carry, other, jax.random.key(1), STEP)
    np.testing.assert_array_equal(after["features"], metrics["features"])
    assert moved != value


@pytest.mark.parametrize(("views", "arguments"), [(2, {}), (1, {"hole": "central"}), (1, {})])
def test_running_statistics_are_of_clean_images(views, arguments):
    method = methods.autoencoder(Normed(), bottleneck=4, width=2, halvings=1, **arguments)
    given = batch(6, views)
    params, carry = jax.jit(method.init)(jax.random.key(0), given)
    _, (after, _) = jax.jit(method.loss)(params, carry, given, jax.random.key(1), STEP)
    mean = after.model_state["encoder"]["batch_stats"]["BatchNorm_0"]["mean"]
    np.testing.assert_allclose(mean, 0.1 * given["views"][:, 0].reshape(6, -1).mean(0), atol=1e-6)


@pytest.mark.parametrize("hole", ["central", "random"])
def test_what_is_in_the_hole_is_not_seen_and_alone_is_scored(hole):
    method = methods.autoencoder(Flat(), bottleneck=4, width=2, halvings=1, hole=hole)
    given, key = batch(6), jax.random.key(1)
    params, carry = jax.jit(method.init)(jax.random.key(0), given)
    gradient = jax.jit(jax.grad(lambda views: method.loss(params, carry, {"views": views}, key, STEP)[0]))
    shown = jax.jit(method.loss)(params, carry, given, key, STEP)[1][1]["features"].reshape(6, 8, 8)
    hidden = np.asarray(shown) == 0
    assert 0.05 < hidden.mean() <= 20 / 64  # at most five blocks of 2 x 2
    if hole == "central":
        np.testing.assert_array_equal(hidden, np.broadcast_to(central_hole((8, 8)), hidden.shape))
    else:
        assert len({row.tobytes() for row in hidden}) > 3  # each image has holes of its own
        again = jax.jit(method.loss)(params, carry, given, jax.random.key(2), STEP)[1][1]["features"]
        assert np.any((np.asarray(again) == 0) != hidden.reshape(6, -1))
    # The target's gradient is 2 (target - made) / count in the hole; outside, pixels act through the encoder only.
    value = lambda views: method.loss(params, carry, {"views": views}, key, STEP)[0]  # noqa: E731
    changed = given["views"].at[:, 0, ..., 0].add(jnp.asarray(hidden, jnp.float32))
    assert value(changed) != value(given["views"])
    assert np.abs(np.asarray(gradient(given["views"]))[:, 0, ..., 0][hidden]).min() > 0


def test_central_hole_is_centred():
    hole = central_hole((8, 12), 0.25)
    assert hole.sum() == 4 * 6
    np.testing.assert_array_equal(hole, hole[::-1, ::-1])
    assert central_hole((2, 2), 0.99).sum() == 1  # something is always left


def test_random_holes_are_squares_of_one_size_anywhere():
    made = jax.jit(jax.vmap(lambda key: random_holes(key, (16, 16), 0.25, blocks=1)))(
        jax.random.split(jax.random.key(0), 400)
    )
    assert set(np.asarray(made).sum((1, 2)).tolist()) == {64}
    assert np.asarray(made).any(0).all()
    several = jax.jit(jax.vmap(lambda key: random_holes(key, (20, 20), 0.25)))(jax.random.split(jax.random.key(1), 50))
    sizes = np.asarray(several).sum((1, 2))
    assert sizes.max() <= 5 * 16
    assert sizes.min() >= 16


def test_pictures_show_what_went_in_and_what_came_out():
    for arguments, views, names in (
        ({}, 1, ["image", "reconstruction"]),
        ({}, 2, ["image", "input", "reconstruction"]),
        ({"hole": "random"}, 1, ["image", "input", "reconstruction"]),
    ):
        method = methods.autoencoder(Flat(), bottleneck=4, width=2, halvings=1, **arguments)
        given = batch(3, views, channels=3)
        params, carry = jax.jit(method.init)(jax.random.key(0), given)
        made = jax.jit(method.pictures)(params, carry, given, jax.random.key(1))
        assert sorted(made) == names
        assert {x.shape for x in made.values()} == {(3, 8, 8, 3)}
        np.testing.assert_array_equal(made["image"], given["views"][:, 0])


def test_warns_of_a_dead_code():
    warn = methods.autoencoder(Flat()).warn
    assert "mean image" in warn({"loss": 0.99, "mean_image_loss": 1.0, "step": 300})
    assert warn({"loss": 0.5, "mean_image_loss": 1.0, "step": 300}) is None
    assert warn({"loss": 0.99, "mean_image_loss": 1.0, "step": 20}) is None
    assert warn({"step": 300}) is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"bottleneck": 0}, "`bottleneck` must be above 0"),
        ({"hole": "left"}, '"central" or "random", not \'left\''),
        ({"error": "huber"}, '"mse" or "l1"'),
        ({"hole_share": 1.0}, "`hole_share`"),
        ({"hole_weight": 1.5}, "`hole_weight`"),
        ({"halvings": -1}, "`halvings`"),
    ],
)
def test_impossible_settings_are_refused_when_the_method_is_built(arguments, message):
    with pytest.raises(UserError, match=message):
        methods.autoencoder(Flat(), **arguments)


def test_three_views_are_refused():
    with pytest.raises(UserError, match="one view, or a clean and a perturbed one, not 3"):
        methods.autoencoder(Flat()).init(jax.random.key(0), batch(2, views=3))
