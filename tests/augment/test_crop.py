"""Crop boxes against the moments of torchvision's, and resized crops against torchvision's pixels."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssl_jax import augment
from ssl_jax.augment import crop, resize
from ssl_jax.core import UserError
from ssl_jax.data.crops import Crop, _box

DRAWS = 20_000
METHODS = {"bilinear": "linear", "bicubic": "cubic"}


def boxes(image_size, scale, ratio=(3 / 4, 4 / 3)):
    uniforms = jax.random.uniform(jax.random.key(0), (DRAWS, crop.CROP_DRAWS))
    draw = jax.jit(jax.vmap(lambda u: crop.box_from_uniforms(u, image_size, scale=scale, ratio=ratio)))
    return np.asarray(draw(uniforms)).astype(np.float64)


@pytest.mark.parametrize("image_size", [(32, 32), (96, 96), (375, 500)])
@pytest.mark.parametrize("scale", [(0.08, 1.0), (0.2, 1.0), (0.05, 0.4)])
def test_moments_and_quantiles_of_boxes(fixture, image_size, scale):
    height, width = image_size
    data = fixture("rrc_stats")
    name = f"tv_{height}x{width}_{scale[0]}_{scale[1]}"
    top, left, h, w = boxes(image_size, scale).T
    area, log_ratio = h * w / (height * width), np.log(w / h)
    values = [area, log_ratio, top, left, h, w, (area == 1).astype(float)]
    for value, (mean, variance, low, high) in zip(values, data[f"{name}/moments"], strict=True):
        assert abs(value.mean() - mean) <= 5 * np.sqrt(variance / DRAWS + variance / 100_000)
        slack = 0.02 * (high - low)  # extremes of 20,000 draws against those of 100,000
        assert low - slack - 1 <= value.min()
        assert value.max() <= high + slack + 1
    pixel = 2 / min(image_size)  # boxes are whole pixels, so quantiles of small images jump
    got = np.quantile(area, data["quantile_levels"])
    np.testing.assert_allclose(got, data[f"{name}/quantiles_area"], atol=pixel)
    got = np.quantile(log_ratio, data["quantile_levels"])
    np.testing.assert_allclose(got, data[f"{name}/quantiles_log_ratio"], atol=pixel)
    room = (height - h)[h < height]
    got = np.quantile(top[h < height] / room, data["quantile_levels"])
    error = 5 * np.sqrt(0.25 / len(room))  # five standard errors of the share below a quantile
    np.testing.assert_allclose(got, data[f"{name}/quantiles_top_given_room"], atol=error + pixel / 2)
    assert np.all((top >= 0) & (left >= 0) & (top + h <= height) & (left + w <= width))


@pytest.mark.parametrize(
    ("image_size", "expected"), [((8, 100), (0, 44, 8, 11)), ((100, 8), (44, 0, 11, 8)), ((9, 10), (0, 0, 9, 10))]
)
def test_ten_misses_fall_back_to_the_centre(image_size, expected):
    ones = jnp.full((crop.CROP_DRAWS,), 0.5)
    box = crop.box_from_uniforms(ones, image_size, scale=(2.0, 2.0))  # twice the image never fits
    np.testing.assert_array_equal(box, expected)


def test_squares_by_a_share_of_the_shorter_side():
    """Host and accelerator turn the same uniforms into the same squares, anywhere in the image."""
    uniforms = np.random.default_rng(0).random((3000, crop.CROP_DRAWS), np.float32)
    for side in ((64 / 72, 64 / 72), (255 / 292, 255 / 292), (0.2, 0.6)):
        draw = jax.jit(jax.vmap(lambda u, side=side: crop.box_from_uniforms(u, (375, 500), side=side)))
        drawn = np.asarray(draw(uniforms))
        on_host = Crop(size=1, side=side)
        expected = np.array([_box(on_host, (375, 500), u) for u in uniforms.astype(float).tolist()])
        assert (np.abs(drawn - expected).max(axis=1) <= 1).all()  # of two roundings
        assert (drawn == expected).mean() > 0.999
        top, left, h, w = drawn.T
        assert (h == w).all()
        if side[0] == side[1]:
            edge = round(side[0] * 375)
            assert set(h) == {edge}
            assert (top.min(), top.max(), left.min(), left.max()) == (0, 375 - edge, 0, 500 - edge)


@functools.partial(jax.jit, static_argnums=(2, 3))
def three_ways(image, box, method, antialias):
    rows, columns = resize.box_taps(box, (32, 32), (16, 16), method=method, antialias=antialias)
    channels_last = lambda x: jnp.transpose(x, (1, 2, 0))  # noqa: E731
    return {
        "public": augment.crop_and_resize(image, box, (16, 16), method=method, antialias=antialias),
        "matmul": channels_last(resize.by_matmul(image, rows, columns)),
        "branch": channels_last(resize.by_branch(image, rows, columns, jnp.array(True)))[:, ::-1],
    }


@pytest.mark.parametrize("kind", ["smooth", "noise"])
def test_resized_crops_equal_torchvision(fixture, kind):
    data = fixture("aug_tensor")
    image = jnp.asarray(data[f"{kind}/image"])
    names = [name for name in data if name.startswith(f"{kind}/crop")]
    assert len(names) == 16
    for name in names:
        _, *box, method, antialias = name.split("_")
        for how, got in three_ways(image, jnp.array([int(n) for n in box]), METHODS[method], antialias == "aa").items():
            np.testing.assert_allclose(got, data[name], atol=1e-5, err_msg=f"{name} {how}")


def test_shrinking_much_and_growing_equal_jax_image_resize():
    image = jax.random.uniform(jax.random.key(0), (50, 33, 2))
    for size in ((7, 5), (64, 80)):
        got = jax.jit(augment.crop_and_resize, static_argnums=2)(image, crop.whole((50, 33)), size)
        np.testing.assert_allclose(got, jax.image.resize(image, (*size, 2), "linear"), atol=1e-5)


def test_random_crop_and_flip_depend_on_the_key():
    image = jax.random.uniform(jax.random.key(0), (12, 10, 3))
    keys = jax.random.split(jax.random.key(1), 6)
    crops = jax.jit(jax.vmap(lambda key: augment.random_resized_crop(key, image, size=(8, 8))))(keys)
    assert crops.shape == (6, 8, 8, 3)
    assert len({float(c.sum()) for c in crops}) == 6
    flips = jax.vmap(lambda key: augment.random_flip_left_right(key, image))(jax.random.split(jax.random.key(2), 400))
    flips = np.asarray(flips)
    flipped = np.all(flips == np.asarray(image)[None, :, ::-1], axis=(1, 2, 3))
    assert np.all(flipped | np.all(flips == np.asarray(image)[None], axis=(1, 2, 3)))
    assert 0.4 < flipped.mean() < 0.6


def test_unknown_interpolation():
    with pytest.raises(UserError, match="nearest"):
        augment.crop_and_resize(jnp.zeros((4, 4, 1)), crop.whole((4, 4)), (2, 2), method="nearest")
