"""Tiles and rotations: the pixels that they should be, of any grid, never from outside the image."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssl_jax.core import UserError
from ssl_jax.nets import ViT
from ssl_jax.pretext import check_tiles, rotations, standardize, tiles


def places(b, height, width):
    """Images whose two channels are a pixel's row and column."""
    grid = np.stack(np.meshgrid(np.arange(height), np.arange(width), indexing="ij"), axis=-1)
    return jnp.asarray(np.broadcast_to(grid, (b, height, width, 2)), jnp.float32)


def keys(b, seed=0):
    return jax.random.split(jax.random.key(seed), b)


@pytest.mark.parametrize(
    ("side", "grid", "size", "gap", "first"),
    [(9, 3, 3, 0, 0), (12, 3, 3, 1, 0), (28, 6, 8, -4, 0), (10, 2, 3, 2, 1), (7, 1, 3, 5, 2), (260, 6, 80, -44, 0)],
)
def test_tiles_without_jitter_lie_on_a_grid_in_the_middle(side, grid, size, gap, first):
    cut = tiles(places(2, side, side), grid=grid, size=size, gap=gap)
    assert cut.shape == (2, grid * grid, size, size, 2)
    corners = cut[0, :, 0, 0].reshape(grid, grid, 2)
    steps = first + np.arange(grid) * (size + gap)
    np.testing.assert_array_equal(corners, np.stack(np.meshgrid(steps, steps, indexing="ij"), axis=-1))
    np.testing.assert_array_equal(cut[1] - cut[1, :, :1, :1], np.broadcast_to(places(1, size, size), cut[1].shape))


@pytest.mark.parametrize(("gap", "jitter"), [(2, 2), (0, 3), (-1, 2), (3, 1)])
def test_jitter_fills_the_cells_and_never_leaves_them(gap, jitter):
    grid, size = 3, 4
    side = 2 * (size + gap) + size + jitter
    cut = jax.jit(lambda image, k: tiles(image, grid=grid, size=size, gap=gap, jitter=jitter, keys=k))(
        places(200, side, side), keys(200)
    )
    np.testing.assert_array_equal(cut - cut[:, :, :1, :1], np.broadcast_to(places(1, size, size), cut.shape))
    corners = np.asarray(cut[:, :, 0, 0]).reshape(200, grid, grid, 2)
    cells = np.arange(grid) * (size + gap)
    offsets = corners - np.stack(np.meshgrid(cells, cells, indexing="ij"), axis=-1)
    assert set(np.unique(offsets)) == set(range(jitter + 1))
    assert len(np.unique(offsets.reshape(200, -1), axis=0)) > 100  # each tile is moved on its own
    middle = tiles(places(1, side, side), grid=grid, size=size, gap=gap, jitter=jitter)
    np.testing.assert_array_equal(middle[0, 0, 0, 0], jitter // 2)


def test_an_examples_tiles_depend_on_its_key_alone():
    image = places(5, 20, 20)
    cut = tiles(image, grid=2, size=5, jitter=4, keys=keys(5))
    alone = tiles(image[3:4], grid=2, size=5, jitter=4, keys=keys(5)[3:4])
    np.testing.assert_array_equal(cut[3], alone[0])


def test_images_need_not_be_square_and_may_be_bytes():
    image = places(1, 10, 16).astype(jnp.uint8)
    cut = tiles(image, grid=2, size=4)
    assert cut.dtype == jnp.uint8
    np.testing.assert_array_equal(cut[0, 0, 0, 0], [1, 4])


def test_a_grid_larger_than_the_image_is_an_error_that_names_both():
    match = r"3 x 3 tiles of 64 pixels \(gap 21, jitter 21\) takes 255 x 255 pixels, but the images have 254 x 300"
    with pytest.raises(UserError, match=match):
        tiles(places(1, 254, 300), grid=3, size=64, gap=21, jitter=21)
    assert tiles(places(1, 255, 255), grid=3, size=64, gap=21, jitter=21).shape == (1, 9, 64, 64, 2)


@pytest.mark.parametrize("wrong", [{"grid": 0}, {"size": 0}, {"gap": -4}, {"jitter": -1}])
def test_a_grid_without_sense_is_an_error(wrong):
    with pytest.raises(UserError, match="Tiles need a grid, a size and a size plus gap of at least 1"):
        check_tiles(**{"grid": 3, "size": 4, **wrong})


def test_tiles_that_a_transformer_cannot_divide_are_an_error():
    with pytest.raises(UserError, match="Tiles of 20 pixels do not divide into the encoder's patches of 8 pixels"):
        check_tiles(grid=3, size=20, encoder=ViT(patch=8))
    check_tiles(grid=3, size=16, encoder=ViT(patch=8))


def test_standardized_tiles_have_no_brightness_contrast_or_colour():
    x = np.random.default_rng(0).normal(size=(2, 3, 4, 5, 3))
    shifted = x * np.array([2.0, 0.5, 3.0]) + np.array([1.0, -2.0, 0.0])
    got = np.asarray(standardize(jnp.asarray(x, jnp.float32)))
    expected = (x - x.mean((2, 3), keepdims=True)) / np.sqrt(x.var((2, 3), keepdims=True) + 1e-5)
    np.testing.assert_allclose(got, expected, atol=1e-5)
    np.testing.assert_allclose(standardize(jnp.asarray(shifted, jnp.float32)), got, atol=1e-3)


def test_a_flat_tile_becomes_zero():
    np.testing.assert_allclose(standardize(jnp.full((1, 1, 8, 8, 1), 0.3)), 0, atol=1e-4)


def test_rotations_are_numpys_and_come_after_the_batch():
    image = jnp.asarray(np.random.default_rng(0).integers(0, 256, (3, 5, 5, 2)), jnp.uint8)
    turned = rotations(image)
    assert turned.shape == (3, 4, 5, 5, 2)
    for k in range(4):
        np.testing.assert_array_equal(turned[:, k], np.rot90(image, k, axes=(1, 2)))


def test_rotations_of_images_that_are_not_square_are_an_error():
    with pytest.raises(UserError, match="Rotations need square images, but these are 4 x 6"):
        rotations(jnp.zeros((1, 4, 6, 3)))
