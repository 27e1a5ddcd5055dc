"""Block-wise masks: shares, shapes, and one key per image."""

import jax
import numpy as np
import pytest

from ssl_jax import augment
from ssl_jax.core import UserError


def draw(number, grid, **arguments):
    make = jax.jit(jax.vmap(lambda key: augment.block_mask(key, grid, **arguments)))
    return np.asarray(make(jax.random.split(jax.random.key(0), number)))


def test_half_of_the_images_have_a_tenth_to_a_half_hidden():
    masks = draw(2000, (14, 14))
    share = masks.mean((1, 2))
    hidden = share[share > 0]
    assert len(hidden) / len(share) == pytest.approx(0.5, abs=0.04)
    assert hidden.mean() == pytest.approx(0.3, abs=0.02)
    assert 0.05 < hidden.min() < 0.1 < 0.45 < hidden.max() <= 0.5


def test_hidden_patches_lie_together():
    """Most have a hidden neighbour to the right, unlike patches drawn one by one, of which the share itself has."""
    masks = draw(500, (14, 14), probability=1.0)
    beside = (masks[:, :, :-1] & masks[:, :, 1:]).sum() / masks[:, :, :-1].sum()
    assert beside > 0.6
    assert masks.mean() < 0.35


def test_no_row_or_column_of_blocks_spans_a_tiny_image():
    masks = draw(500, (4, 4), probability=1.0, ratio=(0.2, 0.25))
    assert set(masks.sum((1, 2))) <= {1, 2, 3, 4}
    assert (masks.sum((1, 2)) > 0).all()


@pytest.mark.parametrize(("arguments", "any_hidden"), [({"probability": 0.0}, False), ({"ratio": (0.0, 0.0)}, False)])
def test_nothing_hidden(arguments, any_hidden):
    assert draw(20, (6, 4), **arguments).any() == any_hidden


def test_mask_depends_on_the_key_alone():
    keys = jax.random.split(jax.random.key(0), 6)
    make = jax.vmap(lambda key: augment.block_mask(key, (6, 6), probability=1.0))
    np.testing.assert_array_equal(make(keys)[::-1], make(keys[::-1]))
    np.testing.assert_array_equal(make(keys)[2], augment.block_mask(keys[2], (6, 6), probability=1.0))
    assert len({m.tobytes() for m in np.asarray(make(keys))}) == 6


@pytest.mark.parametrize("arguments", [{"ratio": (0.5, 0.1)}, {"ratio": (-0.1, 0.5)}, {"probability": 2.0}])
def test_masks_that_cannot_be(arguments):
    with pytest.raises(UserError, match="Masks need ratios and a probability"):
        augment.block_mask(jax.random.key(0), (4, 4), **arguments)
