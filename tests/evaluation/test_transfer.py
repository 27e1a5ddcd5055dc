import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from values import assert_close

from ssl_jax import data, nets
from ssl_jax.core import UserError
from ssl_jax.evaluation import FineTuning, fine_tune, transfer
from ssl_jax.evaluation.transfer import fitted
from ssl_jax.nets import functional

ENCODER = nets.ConvNet(widths=(4, 8), pool=(1,))
RECIPE = FineTuning(steps=3, batch_size=32, head="zero")


@pytest.fixture(scope="module")
def pretrained():
    image = jax.random.uniform(jax.random.key(7), (32, 8, 8, 1))
    return jax.jit(lambda: functional.init(ENCODER, jax.random.key(5), image))()


@pytest.fixture(scope="module")
def digits():
    return data.load("digits", "train[:200]"), data.load("digits", "test[:100]")


@pytest.fixture(scope="module")
def coloured():
    """Two colours as classes, 12 x 10 pixels in colour."""
    labels = np.arange(60) % 2
    images = np.where(labels[:, None, None, None] == 1, 200, 40) + np.random.default_rng(0).integers(
        0, 9, (60, 12, 10, 3)
    )
    make = lambda rows: data.from_arrays(images[rows].astype(np.uint8), labels[rows], ["dark", "light"], name="colours")  # noqa: E731
    return make(slice(40)), make(slice(40, 60))


@pytest.fixture
def probed(monkeypatch):
    """What the linear probe was given; each has its number as accuracy."""
    seen = []

    def linear_probe(*arrays, seed):
        seen.append((*arrays, seed))
        return {"accuracy": len(seen) / 10}

    monkeypatch.setattr(importlib.import_module("ssl_jax.evaluation.transfer"), "linear_probe", linear_probe)
    return seen


def test_every_set_has_its_row_and_a_bad_one_only_its_sentence(pretrained, digits, coloured, probed):
    unlabelled = data.from_arrays(digits[0][np.arange(9)]["image"], name="mine")
    sets = [digits, "no_such_data", coloured, (unlabelled, unlabelled), "folder:/no/such/folder"]
    found = transfer(ENCODER, *pretrained, sets, size=8, channels=1, recipe=RECIPE, seed=1)
    names = ["digits train[:200]", "no_such_data", "colours", "mine", "folder:/no/such/folder"]
    assert [row["data"] for row in found] == names
    assert [row.get("classes") for row in found] == [10, None, 2, None, None]
    assert "there is no data 'no_such_data'" in found[1]["error"]
    assert "mine has no labels" in found[3]["error"]
    assert found[4].keys() == {"data", "error"}
    tuned = fine_tune(ENCODER, *pretrained, *digits, recipe=RECIPE, seed=1)
    assert found[0]["finetune"] == {"accuracy": tuned.accuracy, "ema_accuracy": None, "steps": 3}
    assert [row["linear"]["accuracy"] for row in (found[0], found[2])] == [0.1, 0.2]
    (features, labels, test, test_labels, seed), second = probed
    image = jnp.asarray(digits[0][np.arange(200)]["image"], jnp.float32) / 255
    assert_close(features, functional.encode(ENCODER, *pretrained, image, train=False)[0], 1e-5)
    np.testing.assert_array_equal(labels, digits[0].labels)
    np.testing.assert_array_equal(test_labels, digits[1].labels)
    assert (test.shape, seed, second[0].shape) == ((100, 8), 1, (40, 8))


def test_images_are_brought_to_the_encoders_size_and_channels(coloured, digits):
    grey = fitted(coloured[0], size=8, channels=1)
    images = grey[np.arange(40)]["image"]
    assert images.shape == (40, 8, 8, 1)
    np.testing.assert_array_equal(grey.labels, coloured[0].labels)
    colours = coloured[0][np.arange(40)]["image"].astype(np.float64)
    luma = colours @ [0.299, 0.587, 0.114]
    np.testing.assert_allclose(images.mean(axis=(1, 2, 3)), luma.mean(axis=(1, 2)), atol=2)
    assert fitted(digits[0], size=8, channels=1) is digits[0]
    tripled = fitted(digits[0], size=8, channels=3)[np.arange(3)]["image"]
    np.testing.assert_array_equal(tripled, np.repeat(digits[0][np.arange(3)]["image"], 3, axis=3))


def test_protocols_may_be_chosen_and_are_checked(pretrained, digits, probed):
    found = transfer(ENCODER, *pretrained, [digits], size=8, channels=1, protocols=["linear"])
    assert "linear" in found[0]
    assert "finetune" not in found[0]
    with pytest.raises(UserError, match="no protocol 'knn' in a transfer; there is linear, finetune"):
        transfer(ENCODER, *pretrained, [digits], size=8, channels=1, protocols=["knn"])


def test_from_scratch_the_parameters_are_for_the_probe_alone(pretrained, digits, probed):
    """An untrained encoder's features are probed, and random weights are trained in place of its tuning."""
    [found] = transfer(ENCODER, *pretrained, [digits], size=8, channels=1, recipe=RECIPE, scratch=RECIPE, seed=1)
    alone = fine_tune(ENCODER, None, None, *digits, recipe=RECIPE, seed=1)
    assert found["finetune"]["accuracy"] == alone.accuracy
    image = jnp.asarray(digits[0][np.arange(200)]["image"], jnp.float32) / 255
    assert_close(probed[0][0], functional.encode(ENCODER, *pretrained, image, train=False)[0], 1e-5)


def test_an_encoder_that_does_not_fit_fails_at_once(pretrained, digits):
    with pytest.raises(UserError, match=r"stage1_conv/kernel is \[3, 3, 1, 4\], where the encoder has \[3, 3, 3, 4\]"):
        transfer(ENCODER, *pretrained, [digits], size=8, channels=3)
