"""Multi-crop: sizes and order of the views, the papers' probabilities, and sizes that small images take."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssl_jax import augment
from ssl_jax.augment import multicrop
from ssl_jax.core import UserError


def images(b, size, channels=1):
    return jnp.asarray(np.random.default_rng(0).integers(0, 256, (b, size, size, channels)), jnp.uint8)


def keys(b):
    return jax.random.split(jax.random.key(1), b)


def pairs_of(monkeypatch, make, size, **arguments):
    """The `(View, size)` pairs that a recipe consists of."""
    found = []
    monkeypatch.setattr(multicrop, "views", lambda pairs, **kwargs: found.extend(pairs) or print)
    make(size, **arguments)
    return found


@pytest.mark.parametrize(
    ("make", "number", "size", "small"),
    [(augment.dino, 3, 28, 14), (augment.swav, 2, 28, 14), (augment.dino, 2, 8, 4)],
)
def test_views_are_a_tuple_with_the_large_ones_first(make, number, size, small):
    made = jax.jit(make(size, local_views=number))(keys(3), images(3, size))
    assert [x.shape for x in made] == [(3, 2, size, size, 1), (3, number, small, small, 1)]
    for x in made:
        assert not np.array_equal(x[:, 0], x[:, 1])


def test_without_small_views_there_is_one_array():
    made = jax.jit(augment.dino(16, local_views=0, global_scale=(0.14, 1.0)))(keys(2), images(2, 16))
    assert [x.shape for x in made] == [(2, 2, 16, 16, 1)]


def test_any_number_of_sizes():
    recipe = [(augment.View(), 12), (augment.View(flip=0.5), 8), (augment.View(), 6), (augment.View(), 8)]
    made = jax.jit(augment.views(recipe))(keys(2), images(2, 16))
    assert [x.shape[1:3] for x in made] == [(1, 12), (2, 8), (1, 6)]


@pytest.mark.parametrize(("size", "small"), [(224, 96), (160, 64), (96, 48), (64, 32), (32, 16), (28, 14), (8, 4)])
def test_small_views_adapt_to_the_size(size, small):
    assert augment.local_size(size) == small


def test_dino_has_asymmetric_blur_and_solarization(monkeypatch):
    pairs = pairs_of(monkeypatch, augment.dino, 224)
    assert [size for _, size in pairs] == [224] * 2 + [96] * 8
    views = [view for view, _ in pairs]
    assert [v.blur_prob for v in views] == [1.0, 0.1] + [0.5] * 8
    assert [v.solarize_prob for v in views] == [0.0, 0.2] + [0.0] * 8
    assert [v.crop_scale for v in views] == [(0.4, 1.0)] * 2 + [(0.05, 0.4)] * 8
    assert {(v.method, v.flip, v.jitter, v.jitter_prob, v.grey_prob) for v in views} == {
        ("cubic", 0.5, (0.4, 0.4, 0.2, 0.1), 0.8, 0.2)
    }


def test_swav_has_colours_of_simclr_and_smaller_crops(monkeypatch):
    pairs = pairs_of(monkeypatch, augment.swav, 224)
    assert [size for _, size in pairs] == [224] * 2 + [96] * 6
    views = [view for view, _ in pairs]
    assert [v.crop_scale for v in views] == [(0.14, 1.0)] * 2 + [(0.05, 0.14)] * 6
    assert {(v.method, v.flip, v.jitter, v.jitter_prob, v.grey_prob, v.blur_prob) for v in views} == {
        ("linear", 0.5, (0.8, 0.8, 0.8, 0.2), 0.8, 0.2, 0.5)
    }


def test_fields_can_be_replaced_in_all_views(monkeypatch):
    for make in (augment.dino, augment.swav):
        views = [v for v, _ in pairs_of(monkeypatch, make, 28, blur=False, strength=0.5, erase_prob=0.25, flip=0.0)]
        assert {(v.blur_prob, v.erase_prob, v.flip) for v in views} == {(0.0, 0.25, 0.0)}
        assert {v.jitter[3] for v in views} == {0.05 if make is augment.dino else 0.1}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"local_views": -1}, "can't be -1"),
        ({"local_size": 28}, "28 pixels must be smaller than the large ones of 28"),
        ({"blurr": 1.0}, "no field 'blurr'"),
    ],
)
def test_recipes_that_cannot_be(arguments, message):
    with pytest.raises(UserError, match=message):
        augment.dino(28, **arguments)


@pytest.mark.parametrize("make", [augment.dino, augment.swav])
@pytest.mark.parametrize("name", ["crop_scale", "crop_side"])
def test_one_crop_for_large_and_small_views_is_refused(make, name):
    with pytest.raises(UserError, match=f"so {name}=.0.5, 1.0. has no meaning; give global_scale and local_scale"):
        make(28, **{name: (0.5, 1.0)})
