"""A patch's own augmentation, and the recipe of a single view."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssl_jax import augment
from ssl_jax.core import UserError

OFF = {"flip": 0.0, "jitter_prob": 0.0, "grey_prob": 0.0, "drop_prob": 0.0}


def patches(n, channels=3):
    return jnp.asarray(np.random.default_rng(0).uniform(size=(n, 6, 6, channels)), jnp.float32)


def augmented(n=64, channels=3, **probabilities):
    change = lambda key, x: augment.random_patch(key, x, **{**OFF, **probabilities})  # noqa: E731
    return np.asarray(jax.jit(jax.vmap(change))(jax.random.split(jax.random.key(1), n), patches(n, channels)))


def test_without_any_part_a_patch_stays_as_it_is():
    np.testing.assert_array_equal(augmented(), patches(64))


def test_parts_with_probability_one_always_happen():
    original = np.asarray(patches(64))
    np.testing.assert_array_equal(augmented(flip=1.0), original[:, :, ::-1])
    np.testing.assert_allclose(augmented(grey_prob=1.0), jax.vmap(augment.to_grey)(patches(64)), atol=1e-6)
    assert (np.abs(augmented(jitter_prob=1.0) - original).max((1, 2, 3)) > 0.01).mean() > 0.9


def test_dropping_keeps_one_of_three_colours_and_each_has_its_turn():
    changed, original = augmented(drop_prob=1.0), np.asarray(patches(64))
    kept = changed.any((1, 2))
    assert (kept.sum(1) == 1).all()
    assert set(np.argmax(kept, axis=1)) == {0, 1, 2}
    for patch, before, colours in zip(changed, original, kept, strict=True):
        np.testing.assert_array_equal(patch[..., colours], before[..., colours])


def test_parts_happen_as_often_as_they_should_and_values_stay_in_range():
    changed = augmented(n=400, jitter_prob=0.8, grey_prob=0.25, drop_prob=0.25)
    assert changed.min() >= 0
    assert changed.max() <= 1
    dropped = ((changed != 0).any((1, 2)).sum(1) == 1).mean()
    assert 0.17 < dropped < 0.33


def test_without_colours_there_is_brightness_and_contrast_only():
    np.testing.assert_array_equal(augmented(channels=1, grey_prob=1.0, drop_prob=1.0), patches(64, 1))
    assert not np.array_equal(augmented(channels=1, jitter_prob=1.0), patches(64, 1))


def test_single_is_one_view_with_the_fields_given():
    image = jnp.asarray(np.random.default_rng(0).integers(0, 256, (4, 12, 12, 3)), jnp.uint8)
    keys = jax.random.split(jax.random.key(0), 4)
    made = jax.jit(augment.single(8, crop_scale=(0.5, 1.0), grey_prob=1.0))(keys, image)
    assert made.shape == (4, 1, 8, 8, 3)
    np.testing.assert_allclose(made[..., 0], made[..., 1], atol=1e-6)
    expected = jax.jit(augment.views([augment.View(crop_scale=(0.5, 1.0), grey_prob=1.0)], size=8))(keys, image)
    np.testing.assert_array_equal(made, expected)
    with pytest.raises(UserError, match="View has no field 'scale'"):
        augment.single(8, scale=(0.5, 1.0))


def test_a_crop_of_all_but_a_pixel_cuts_and_does_not_resize():
    image = jnp.asarray(np.random.default_rng(0).integers(0, 256, (8, 16, 16, 1)), jnp.uint8)
    make = jax.jit(augment.single(15, crop_side=(15 / 16, 15 / 16)))
    made = np.asarray(make(jax.random.split(jax.random.key(0), 8), image))[:, 0]
    whole = np.asarray(image, np.float32) / 255
    for got, source in zip(made, whole, strict=True):
        cuts = [source[y : y + 15, x : x + 15] for y in (0, 1) for x in (0, 1)]
        assert min(np.abs(got - cut).max() for cut in cuts) < 1e-6
