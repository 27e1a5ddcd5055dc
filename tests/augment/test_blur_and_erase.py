"""Gaussian blur against torchvision's values; random erasing by its definition."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssl_jax import augment
from ssl_jax.augment import blur, erase
from ssl_jax.core import UserError


@pytest.mark.parametrize("kind", ["smooth", "noise"])
def test_blur_equals_torchvision(fixture, kind):
    data = fixture("aug_tensor")
    image = jnp.asarray(data[f"{kind}/image"])
    names = [name for name in data if name.startswith(f"{kind}/blur")]
    assert len(names) == 5
    for name in names:
        taps, sigma = (float(part[1:]) for part in name.split("_")[1:])
        got = augment.gaussian_blur(image, sigma, taps=int(taps))
        np.testing.assert_allclose(got, data[name], atol=1e-5, err_msg=name)
        weights = blur.gaussian_weights(jnp.float32(sigma), int(taps))
        planes = blur.by_matmul(jnp.transpose(image, (2, 0, 1)), weights)
        np.testing.assert_allclose(jnp.transpose(planes, (1, 2, 0)), data[name], atol=1e-5, err_msg=name)


def test_blur_of_width_zero_changes_nothing():
    image = jax.random.uniform(jax.random.key(0), (3, 9, 8))
    np.testing.assert_array_equal(blur.by_shifts(image, blur.gaussian_weights(jnp.float32(0), 5)), image)


def test_random_blur_and_kernel_sizes():
    image = jax.random.uniform(jax.random.key(0), (9, 8, 3)).astype(jnp.bfloat16)
    assert augment.random_gaussian_blur(jax.random.key(0), image, taps=3).dtype == jnp.bfloat16
    assert [blur.kernel_size(n) for n in (28, 32, 96, 224)] == [3, 3, 9, 23]


@pytest.mark.parametrize("taps", [4, 19])
def test_a_kernel_that_does_not_fit(taps):
    with pytest.raises(UserError, match=f"{taps} taps"):
        augment.gaussian_blur(jnp.zeros((9, 9, 1)), 1.0, taps=taps)


def test_erased_rectangles_have_the_areas_and_ratios_asked_for():
    uniforms = jax.random.uniform(jax.random.key(0), (5000, erase.ERASE_DRAWS))
    draw = jax.vmap(lambda u: erase.rectangle_from_uniforms(u, (200, 160)))
    top, left, h, w = np.asarray(draw(uniforms)).T
    assert np.all((top >= 0) & (left >= 0) & (top + h <= 200) & (left + w <= 160) & (h < 200) & (w < 160))
    area = h * w / (200 * 160)
    assert 0.018 < area.min() < 0.03
    assert 0.32 < area.max() < 0.34
    np.testing.assert_allclose(area.mean(), (0.02 + 0.33) / 2, atol=0.01)
    assert 0.28 < (h / w).min() < 0.32
    assert 3.1 < (h / w).max() < 3.5
    np.testing.assert_allclose(np.median(top / (200 - h)), 0.5, atol=0.03)


def test_a_rectangle_that_never_fits_erases_nothing():
    rectangle = erase.rectangle_from_uniforms(jnp.full((22,), 0.5), (8, 8), scale=(2.0, 2.0))
    image = jnp.ones((8, 8, 1))
    np.testing.assert_array_equal(erase.erase(image, rectangle), image)


def test_erase_sets_one_rectangle_on_either_layout():
    image = jax.random.uniform(jax.random.key(0), (6, 5, 3)) + 1
    rectangle = jnp.array([1.0, 2.0, 3.0, 2.0])
    expected = np.array(image)
    expected[1:4, 2:4] = 0.25
    np.testing.assert_array_equal(erase.erase(image, rectangle, value=0.25), expected)
    planes = erase.erase(jnp.transpose(image, (2, 0, 1)), rectangle, value=0.25, channel_axis=0)
    np.testing.assert_array_equal(jnp.transpose(planes, (1, 2, 0)), expected)
    erased = augment.random_erasing(jax.random.key(1), image, value=0.5)
    assert set(np.unique(np.asarray(erased)[np.asarray(erased != image)])) == {0.5}
