import jax
import jax.numpy as jnp
import numpy as np
from skimage import color

from ssl_jax.color_space import lab_to_srgb, lightness, srgb_to_lab


def colours(n=500):
    """Random ones, the corners of the cube, greys, and the neighbourhood of the curves' joints."""
    rng = np.random.default_rng(0)
    corners = np.stack(np.meshgrid(*[[0.0, 1.0]] * 3), -1).reshape(-1, 3)
    greys = np.repeat(np.concatenate([np.linspace(0, 1, 20), [0.0404, 0.0405, 0.08, 0.1]])[:, None], 3, axis=1)
    return np.concatenate([rng.random((n, 3)), corners, greys, 0.1 * rng.random((n, 3))])


def test_lab_is_that_of_scikit_image():
    rgb = colours()
    lab = jax.jit(srgb_to_lab)(jnp.asarray(rgb, jnp.float32))
    assert lab.dtype == jnp.float32
    np.testing.assert_allclose(lab, color.rgb2lab(rgb), atol=1e-4)
    back = lab_to_srgb(jnp.asarray(color.rgb2lab(rgb), jnp.float32))
    np.testing.assert_allclose(back, color.lab2rgb(color.rgb2lab(rgb)), atol=1e-4)


def test_known_colours():
    """Bruce Lindbloom's values for sRGB's primaries under D65, to their rounding."""
    rgb = jnp.asarray([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 1], [0, 0, 0]], jnp.float32)
    known = [[53.24, 80.09, 67.20], [87.73, -86.18, 83.18], [32.30, 79.19, -107.86], [100, 0, 0], [0, 0, 0]]
    np.testing.assert_allclose(srgb_to_lab(rgb), known, atol=0.02)


def test_there_and_back_in_both_precisions():
    rgb = colours()
    back = jax.jit(jax.vmap(lambda x: lab_to_srgb(srgb_to_lab(x))))(jnp.asarray(rgb, jnp.float32))
    np.testing.assert_allclose(back, rgb, atol=2e-5)
    with jax.enable_x64(True):
        lab = srgb_to_lab(jnp.asarray(rgb, jnp.float64))
        assert lab.dtype == jnp.float64
        np.testing.assert_allclose(lab, color.rgb2lab(rgb), atol=1e-9)
        np.testing.assert_allclose(lab_to_srgb(lab), color.lab2rgb(np.asarray(lab)), atol=1e-6)
    assert srgb_to_lab(jnp.ones((2, 3), jnp.bfloat16)).dtype == jnp.float32


def test_colours_out_of_gamut_are_clipped():
    made = lab_to_srgb(jnp.asarray([[50.0, 120.0, 120.0], [150.0, 0.0, 0.0], [-20.0, 0.0, 0.0]], jnp.float32))
    assert np.isfinite(made).all()
    assert made.min() >= 0
    assert made.max() <= 1
    np.testing.assert_array_equal(srgb_to_lab(jnp.asarray([[2.0, 2, 2]])), srgb_to_lab(jnp.asarray([[1.0, 1, 1]])))


def test_gradients_are_finite_everywhere():
    for x in (0.0, 0.0404, 0.0405, 0.5, 1.0):
        gradient = jax.grad(lambda rgb: srgb_to_lab(rgb).sum() + lab_to_srgb(srgb_to_lab(rgb)).sum())(jnp.full(3, x))
        assert np.isfinite(gradient).all()


def test_lightness_is_between_minus_one_and_one():
    x = lightness(jnp.asarray([[[0.0, 0, 0], [1, 1, 1], [1, 0, 0]]], jnp.float32))
    np.testing.assert_allclose(x[0, :, 0], [-1, 1, (53.24 - 50) / 50], atol=1e-3)
