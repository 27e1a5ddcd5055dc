"""What is drawn over pictures: heat of attention, patches that are kept, windows of words."""

import numpy as np
import pytest

from ssl_jax.report import attention, words


def lightness(x):
    return x.astype(float) @ [0.299, 0.587, 0.114]


@pytest.mark.parametrize("level", [0, 255])
def test_heat_is_lightest_where_the_weight_is_greatest(level):
    """On black and on white ground alike, in even squares."""
    maps = np.array([[[0.0, 0.1, 0.2], [0.3, 0.4, np.nan]]])
    image = np.full((1, 4, 6, 1), level, np.uint8)
    found = lightness(attention.heat(image, maps)[0])
    squares = found[::2, ::2]
    np.testing.assert_array_equal(found, np.repeat(np.repeat(squares, 2, axis=0), 2, axis=1))
    np.testing.assert_array_equal(squares[1, 2], squares[0, 0])  # what is not finite counts nothing
    assert (np.diff(squares.reshape(-1)[:5]) > 15).all()
    assert attention.heat(image, np.zeros((1, 2, 2))).std(axis=(1, 2)).max() == 0


@pytest.mark.parametrize("channels", [1, 3])
def test_kept_patches_show_the_image_and_others_are_greyed(channels):
    image = np.random.default_rng(0).integers(0, 256, (2, 4, 4, channels), dtype=np.uint8)
    kept = np.array([[[True, False], [False, True]], [[False, False], [False, False]]])
    found = attention.marked(image, kept)
    np.testing.assert_array_equal(found[0, :2, :2], np.broadcast_to(image[0, :2, :2], (2, 2, 3)))
    np.testing.assert_array_equal(found[0, 2:, 2:], np.broadcast_to(image[0, 2:, 2:], (2, 2, 3)))
    assert np.abs(found[1].astype(int) - 128).max() <= 26
    assert np.ptp(found[1], axis=-1).max() == 0


@pytest.mark.parametrize(
    ("grid", "size"), [((7, 7), (28, 28)), ((2, 3), (32, 48)), ((1, 1), (8, 8)), ((5, 5), (28, 32))]
)
def test_windows_lie_inside_and_hold_their_place(grid, size):
    sizes = set()
    for row in range(grid[0]):
        for column in range(grid[1]):
            top, left, height, width = words.window(row, column, grid, size)
            sizes.add((height, width))
            assert top >= 0
            assert left >= 0
            assert top + height <= size[0]
            assert left + width <= size[1]
            assert top <= row * size[0] / grid[0] + 0.5
            assert top + height >= (row + 1) * size[0] / grid[0] - 0.5
            assert left <= column * size[1] / grid[1] + 0.5
            assert left + width >= (column + 1) * size[1] / grid[1] - 0.5
    assert len(sizes) == 1
