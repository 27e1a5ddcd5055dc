import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssl_jax import augment, data
from ssl_jax.core import UserError
from ssl_jax.evaluation import Recipe, linear_probe_augmented, linear_probe_preset, to_float
from ssl_jax.evaluation.presets import fit_recipe

TRAIN, TEST = data.load("digits", "train[:600]"), data.load("digits", "test")
PIXELS = jax.jit(lambda image: 8 * image.reshape(len(image), -1))
CROPS = augment.single(8, crop_scale=(0.6, 1.0))
WHOLE = augment.clean(8)


def test_a_preset_on_views_that_change_nothing_is_nearly_that_on_cached_features():
    """The order of rows is another one, so the accuracies are close and not equal."""
    images = lambda source: 8 * (source[np.arange(len(source))]["image"] / 255).reshape(len(source), -1)  # noqa: E731
    x, u = (images(source).astype(np.float32) for source in (TRAIN, TEST))
    recipe = Recipe(rate=1.0, batch_size=128, epochs=8)
    cached = linear_probe_preset(x, TRAIN.labels, u, TEST.labels, preset=recipe)
    fresh = linear_probe_augmented(PIXELS, TRAIN, TEST, views=WHOLE, preset=recipe)
    assert fresh["accuracy"] == pytest.approx(cached["accuracy"], abs=0.02)
    assert (fresh["preset"], fresh["batch_size"], fresh["epochs"]) == ("own", 128, 8)


def test_one_batch_of_all_rows_is_the_cached_probe_exactly():
    """With one step a pass the order can't matter; 160 rows are a multiple of the 8 devices."""
    few = data.from_arrays(TRAIN[np.arange(160)]["image"], TRAIN.labels[:160])
    recipe = Recipe(rate=1.0, batch_size=160, epochs=6)
    x = np.asarray(PIXELS(to_float(jnp.asarray(few.images))))
    params = fit_recipe(x, few.labels, recipe, classes=10)
    u = np.asarray(PIXELS(to_float(jnp.asarray(TEST[np.arange(len(TEST))]["image"]))))
    expected = np.mean((u @ np.asarray(params["weight"]) + np.asarray(params["bias"])).argmax(axis=1) == TEST.labels)
    found = linear_probe_augmented(PIXELS, few, TEST, views=WHOLE, preset=recipe)
    assert found["accuracy"] == pytest.approx(expected, abs=1e-6)


def test_the_sweep_is_its_settings_alone_and_chooses_without_the_test_set():
    def sweep(rates, test=TEST):
        kwargs = {"penalties": (0.01,), "epochs": 4, "batch_size": 100, "seed": 3}
        return linear_probe_augmented(PIXELS, TRAIN, test, views=CROPS, rates=rates, **kwargs)

    alone, found = [sweep((1e-4,)), sweep((30.0,))], sweep((30.0, 1e-4))
    assert alone[0]["held_out_accuracy"] != alone[1]["held_out_accuracy"]
    best = max(alone, key=lambda one: one["held_out_accuracy"])
    assert found.keys() == best.keys()
    assert all(found[name] == pytest.approx(best[name], abs=1e-6) for name in found)
    assert found["accuracy"] > 0.6
    assert found["batch_size"] == 96  # a multiple of the 8 devices
    other = sweep((30.0, 1e-4), data.from_arrays(TEST[np.arange(len(TEST))]["image"], 9 - TEST.labels))
    assert {**found, "accuracy": None} == {**other, "accuracy": None}
    assert other["accuracy"] < 0.2


def test_held_out_rows_teach_nothing_to_what_is_chosen_by_them():
    """Their labels are wrong: a classifier that had learned from them would know some."""
    images, labels = TRAIN[np.arange(200)]["image"], TRAIN.labels[:200].copy()
    held = np.random.default_rng(0).permutation(200)[:100]
    labels[held] = (labels[held] + 5) % 10
    train = data.from_arrays(images, labels)
    found = linear_probe_augmented(
        PIXELS, train, TEST, views=WHOLE, rates=(0.3,), penalties=(0.0,), held_out=0.5, epochs=30, batch_size=40
    )
    assert found["held_out_accuracy"] < 0.15


def test_views_are_fresh_in_each_epoch_and_no_test_image_is_augmented():
    seen, shapes = [], []

    def encode(image):
        shapes.append(image.shape)
        seen.append(np.asarray(jnp.sort(jnp.sum(image, axis=(1, 2, 3)))))
        return PIXELS(image)

    few = data.from_arrays(TRAIN[np.arange(40)]["image"], TRAIN.labels[:40])
    linear_probe_augmented(encode, few, few, views=CROPS, preset=Recipe(rate=0.1, batch_size=40, epochs=2))
    first, epoch0, epoch1, last = seen  # the training set as it is, two epochs, the test set
    np.testing.assert_array_equal(first, last)
    assert np.abs(epoch0 - epoch1).max() > 0.1
    assert np.abs(epoch0 - first).max() > 0.1


def test_bad_input():
    plain = data.from_arrays(TEST[np.arange(10)]["image"])
    with pytest.raises(UserError, match="has no labels"):
        linear_probe_augmented(PIXELS, plain, TEST, views=CROPS)
    with pytest.raises(UserError, match="Unknown preset"):
        linear_probe_augmented(PIXELS, TRAIN, TEST, views=CROPS, preset="none")
    with pytest.raises(UserError, match="`held_out` is the share"):
        linear_probe_augmented(PIXELS, TRAIN, TEST, views=CROPS, held_out=1.0)
    with pytest.raises(UserError, match="rates above 0"):
        linear_probe_augmented(PIXELS, TRAIN, TEST, views=CROPS, rates=())
    with pytest.raises(UserError, match="NaN or infinity"):
        linear_probe_augmented(lambda image: PIXELS(image) / 0.0, TRAIN, TEST, views=CROPS)
