"""Colour operations against torchvision's values, and what they do to images without colour."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssl_jax import augment
from ssl_jax.augment import color

FACTORS = jnp.array([1.3, 0.7, 1.5, -0.08], jnp.float32)  # of the fixture's two jitters


def order_of(letters):
    return jnp.array(["bcsh".index(letter) for letter in letters], jnp.int32)


def compute(image, what):
    operation, *numbers = what.split("_")
    if operation in ("brightness", "contrast", "saturation", "hue"):
        return getattr(augment, f"adjust_{operation}")(image, float(numbers[0]))
    return {
        "grayscale": lambda: augment.to_grey(image),
        "solarize": lambda: augment.solarize(image),
        "hflip": lambda: augment.flip_left_right(image),
        "normalize": lambda: augment.normalize(image, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        "jitter": lambda: augment.color_jitter(image, FACTORS, order_of(numbers[0])),
    }[operation]()


@pytest.mark.parametrize("kind", ["smooth", "noise"])
def test_equals_torchvision(fixture, kind):
    data = {key.split("/")[1]: value for key, value in fixture("aug_tensor").items() if key.startswith(kind)}
    image = jnp.asarray(data.pop("image"))
    names = [name for name in data if not name.startswith(("crop", "blur"))]
    assert len(names) == 22
    for name in names:
        np.testing.assert_allclose(compute(image, name), data[name], atol=1e-5, err_msg=name)


@pytest.mark.parametrize("channel_axis", [0, -1])
def test_both_jitters_equal_the_operations_in_sequence_for_every_order(channel_axis):
    image = jax.random.uniform(jax.random.key(0), (5, 4, 3))
    orders = jnp.array(list(itertools.permutations(range(4))), jnp.int32)
    adjust = [augment.adjust_brightness, augment.adjust_contrast, augment.adjust_saturation, augment.adjust_hue]
    adjust = [jax.jit(operation) for operation in adjust]
    expected = []
    for order in np.asarray(orders):
        x = image
        for i in order:
            x = adjust[i](x, FACTORS[i])
        expected.append(x)
    move = lambda x: jnp.moveaxis(x, -1, channel_axis)  # noqa: E731
    for jitter in (color.color_jitter, color.color_jitter_by_branch):
        jitter = functools.partial(jitter, move(image), FACTORS, channel_axis=channel_axis)
        got = jax.jit(jax.vmap(jitter))(orders)
        np.testing.assert_allclose(got, jax.vmap(move)(jnp.stack(expected)), atol=2e-6)


@pytest.mark.parametrize("channels", [1, 2, 4])
def test_without_three_channels_there_is_no_colour(channels):
    image = jax.random.uniform(jax.random.key(0), (6, 5, channels))
    for same in (augment.adjust_saturation(image, 0.2), augment.adjust_hue(image, 0.3), augment.to_grey(image)):
        np.testing.assert_array_equal(same, image)
    np.testing.assert_allclose(augment.adjust_brightness(image, 0.5), image / 2, atol=1e-6)
    expected = np.clip(0.5 * image + 0.5 * np.mean(image), 0, 1)
    np.testing.assert_allclose(augment.adjust_contrast(image, 0.5), expected, atol=1e-6)
    jittered = augment.random_color_jitter(
        jax.random.key(1), image, brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1
    )
    assert jittered.shape == image.shape
    assert float(jnp.abs(jittered - image).max()) > 1e-3


def test_brightness_may_be_added():
    """SimCLR v1's `random_brightness` in TensorFlow: a number between -strength and strength, added to all values."""
    image = jax.random.uniform(jax.random.key(0), (6, 5, 3))
    adjust = (
        lambda x, f: np.clip(x + (f - 1), 0, 1),
        augment.adjust_contrast,
        augment.adjust_saturation,
        augment.adjust_hue,
    )
    orders = jnp.array([[0, 1, 2, 3], [3, 2, 0, 1], [1, 3, 2, 0]], jnp.int32)
    for how in (color.color_jitter, color.color_jitter_by_branch):
        made = jax.jit(jax.vmap(functools.partial(how, additive=True), (None, None, 0)))(image, FACTORS, orders)
        for got, order in zip(made, orders.tolist(), strict=True):
            expected = image
            for i in order:
                expected = jnp.asarray(adjust[i](expected, FACTORS[i]))
            np.testing.assert_allclose(got, expected, atol=2e-6)
    np.testing.assert_allclose(augment.adjust_brightness(image, 1.3, additive=True), adjust[0](image, 1.3), atol=1e-6)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_dtype_is_kept(dtype):
    image = jax.random.uniform(jax.random.key(0), (6, 5, 3)).astype(dtype)
    factor = jnp.float32(0.5)
    for adjust in (
        augment.adjust_brightness,
        augment.adjust_contrast,
        augment.adjust_saturation,
        augment.adjust_hue,
        augment.solarize,
    ):
        assert jax.eval_shape(adjust, image, factor).dtype == dtype
    jitter = functools.partial(augment.random_color_jitter, brightness=0.5, contrast=0.5, hue=0.1)
    assert jax.eval_shape(jitter, jax.random.key(0), image).dtype == dtype


def test_factors_and_orders_are_uniform():
    uniforms = jax.random.uniform(jax.random.key(0), (20_000, color.JITTER_DRAWS))
    strengths = (0.8, 1.5, 0.0, 0.2)
    active = color.active_operations(strengths, 3)
    assert active == (0, 1, 3)
    factors, orders = jax.vmap(lambda u: color.jitter_from_uniforms(u, strengths, active))(uniforms)
    low, high = [0.2, 0.0, 1.0, -0.2], [1.8, 2.5, 1.0, 0.2]
    assert np.all(np.asarray(factors) >= np.array(low) - 1e-6)
    assert np.all(np.asarray(factors) <= np.array(high) + 1e-6)
    np.testing.assert_allclose(factors.mean(0), (np.array(low) + high) / 2, atol=0.02)
    _, counts = np.unique(np.asarray(orders), axis=0, return_counts=True)
    assert len(counts) == 6
    np.testing.assert_allclose(counts / 20_000, 1 / 6, atol=0.02)
