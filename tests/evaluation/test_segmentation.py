import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.metrics import confusion_matrix, jaccard_score

from ssl_jax import data, nets
from ssl_jax.core import UserError
from ssl_jax.evaluation import (
    confusion,
    knn_segmentation,
    linear_segmentation,
    miou,
    pixel_accuracy,
    segmentation,
    segmentation_scores,
)
from ssl_jax.evaluation.segmentation import cell_shares, dense_features
from ssl_jax.nets import functional

CLASSES = 3


def blocks(n, seed, noise=0.2):
    """Maps of 4 x 4 whose features tell the class of each cell, and masks of 8 x 8."""
    rng = np.random.default_rng(seed)
    cells = rng.integers(0, CLASSES, (n, 4, 4))
    centres = np.asarray([[5, 0, 0, 1], [0, 5, 0, 1], [0, 0, 5, 1]], np.float32)
    maps = centres[cells] + noise * rng.normal(size=(n, 4, 4, 4))
    return maps.astype(np.float32), cells.repeat(2, axis=1).repeat(2, axis=2).astype(np.uint8)


def test_figures_are_scikit_learns():
    rng = np.random.default_rng(0)
    truth, predicted = rng.integers(0, 5, (2, 6, 7)), rng.integers(0, 4, (2, 6, 7))
    truth[truth == 3] = 255
    known = truth != 255
    counted = confusion(predicted, truth, 6)
    np.testing.assert_array_equal(counted, confusion_matrix(truth[known], predicted[known], labels=range(6)))
    expected = jaccard_score(truth[known], predicted[known], labels=[0, 1, 2, 3, 4], average="macro")
    assert miou(counted) == pytest.approx(expected)  # class 5 occurs nowhere
    assert pixel_accuracy(counted) == pytest.approx((truth[known] == predicted[known]).mean())


def test_by_hand():
    counted = np.asarray([[3, 1], [0, 4]])
    assert miou(counted) == pytest.approx((3 / 4 + 4 / 5) / 2)
    assert pixel_accuracy(counted) == 7 / 8
    with pytest.raises(UserError, match="no pixel"):
        miou(np.zeros((2, 2), np.int64))


def test_features_that_tell_the_class_are_read_out():
    train, test = blocks(32, 0), blocks(10, 1)
    linear = linear_segmentation(*train, *test, classes=CLASSES, epochs=30, batch_size=8, learning_rate=0.1)
    knn = knn_segmentation(*train, *test, classes=CLASSES, k=5, tile=4)
    # Bilinear enlargement may round the corners of cells, where the neighbours win.
    for found in (linear, knn):
        assert 0.8 < found["miou"] <= found["accuracy"] <= 1.0
    noise = np.random.default_rng(2).normal(size=test[0].shape).astype(np.float32)
    chance = knn_segmentation(*train, noise, test[1], classes=CLASSES, k=5)
    assert chance["miou"] < 0.4
    # Labels of the test set are for the score only.
    swapped = (2 - test[1]).astype(np.uint8)
    assert linear_segmentation(*train, test[0], swapped, classes=CLASSES, epochs=5)["miou"] < 0.4


def test_one_neighbour_on_the_training_set_finds_itself():
    """With masks as coarse as maps nothing is enlarged, so that the training set scores one."""
    maps, masks = blocks(6, 3, noise=1.0)
    coarse = masks[:, ::2, ::2]
    assert knn_segmentation(maps, coarse, maps, coarse, classes=CLASSES, k=1) == {"miou": 1.0, "accuracy": 1.0}


def test_shares_are_counted_in_the_images_of_the_bank_alone(monkeypatch):
    seen = []

    def counted(masks, *rest):
        seen.append(len(masks))
        return cell_shares(masks, *rest)

    monkeypatch.setattr(segmentation, "cell_shares", counted)
    maps = np.random.default_rng(0).normal(size=(6, 4, 4, 8)).astype(np.float32)
    masks = np.resize(np.arange(CLASSES, dtype=np.uint8), (6, 8, 8))
    knn_segmentation(maps, masks, maps, masks, classes=CLASSES, k=1, bank=3)
    assert 1 <= sum(seen) <= 3


def test_weights_decay_and_the_bias_does_not():
    """Of constant features nothing but the bias tells the classes; a decay that throws it about gives another one."""
    maps, masks = np.ones((4, 2, 2, 3), np.float32), np.zeros((4, 4, 4), np.uint8)
    masks[:, 0, 0] = 1
    for decay in (0.0, 600.0):
        found = linear_segmentation(maps, masks, maps, masks, classes=2, epochs=2, batch_size=4, weight_decay=decay)
        assert found["accuracy"] == 15 / 16


def test_void_pixels_teach_nothing():
    """Half of the training pixels void are enough; half of them wrong are not."""
    (maps, masks), test = blocks(32, 0), blocks(6, 1)
    void, wrong = masks.copy(), masks.copy()
    void[:, :4], wrong[:, :4] = 255, (masks[:, :4] + 1) % 3
    fit = functools.partial(linear_segmentation, classes=CLASSES, epochs=30, learning_rate=0.1)
    assert fit(maps, void, *test)["miou"] > 0.8
    assert fit(maps, wrong, *test)["miou"] < 0.7


def test_shares_of_cells():
    masks = np.asarray([[[0, 0, 1, 1], [0, 2, 1, 255]]], np.uint8)
    np.testing.assert_allclose(cell_shares(masks, (1, 2), 3)[0, 0], [[0.75, 0, 0.25], [0, 0.75, 0]])
    thirds = cell_shares(np.asarray([[[0, 1, 1, 0]]], np.uint8), (1, 3), 2)[0, 0]  # cells of 4/3 pixels
    np.testing.assert_allclose(thirds, [[0.75, 0.25], [0, 1], [0.75, 0.25]], atol=1e-6)


@pytest.fixture(scope="module")
def trunk():
    encoder = nets.ConvNet(widths=(4, 8), pool=(1,))
    return encoder, *jax.jit(lambda: functional.init(encoder, jax.random.key(0), jnp.zeros((2, 32, 32, 1))))()


def test_a_source_and_an_encoder(trunk):
    train = data.load("collage:fashion_mnist", "train[:24]", image_size=32, channels=1)
    test = data.load("collage:fashion_mnist", "test[:9]", image_size=32, channels=1)
    found = segmentation_scores(*trunk, train, test, linear={"epochs": 2}, knn={"k": 3})
    assert set(found) == {"linear_miou", "linear_accuracy", "knn_miou", "knn_accuracy"}
    assert all(0 < value < 1 for value in found.values())
    features, masks = dense_features(*trunk, test, layer="stage1", batch_size=4)
    assert features.shape == (9, 32, 32, 4)
    np.testing.assert_array_equal(masks, test.extras["mask"])
    with pytest.raises(UserError, match="no feature map 'stage9'; there is stage1, stage2"):
        dense_features(*trunk, test, layer="stage9")
    with pytest.raises(UserError, match="has no masks"):
        dense_features(*trunk, data.load("digits", "test[:8]"))
    with pytest.raises(UserError, match="masks of the same classes"):
        segmentation_scores(*trunk, train, data.load("digits", "test[:8]"))


def test_bad_input():
    maps, masks = blocks(4, 0)
    for run in (linear_segmentation, knn_segmentation):
        with pytest.raises(UserError, match="4 maps and 3 masks"):
            run(maps, masks[:3], maps, masks, classes=CLASSES)
        with pytest.raises(UserError, match="NaN or infinity"):
            run(maps, masks, maps * np.float32("inf"), masks, classes=CLASSES)
        with pytest.raises(UserError, match="the class 2, but there are 2"):
            run(maps, masks, maps, masks, classes=2)
        with pytest.raises(UserError, match="8 x 8 for training and 4 x 4 for testing"):
            run(maps, masks, maps, masks[:, ::2, ::2], classes=CLASSES)
    with pytest.raises(UserError, match="k <= 64, the places in its bank, but was given k = 65"):
        knn_segmentation(maps, masks, maps, masks, classes=CLASSES, k=65)
