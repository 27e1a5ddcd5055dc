import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier, NearestNeighbors

from ssl_jax import data
from ssl_jax.core import UserError
from ssl_jax.evaluation import knn_accuracy, knn_predict

KS = (1, 3, 20, 57)


def digits(split):
    source = data.load("digits", split)
    images = source[np.arange(len(source))]["image"]
    return images.reshape(len(images), -1).astype(np.float32), source.labels


def scikit_vote(train, labels, test, k, temperature):
    """Neighbours of scikit-learn on unit rows, votes of numpy, all in float64."""
    unit = lambda x: x.astype(np.float64) / np.linalg.norm(x.astype(np.float64), axis=1, keepdims=True)  # noqa: E731
    distance, index = NearestNeighbors(n_neighbors=k, algorithm="brute").fit(unit(train)).kneighbors(unit(test))
    similarity = 1 - distance**2 / 2
    votes = np.zeros((len(test), labels.max() + 1))
    np.add.at(votes, (np.arange(len(test))[:, None], labels[index]), np.exp(similarity / temperature))
    return votes.argmax(axis=1)


@pytest.mark.parametrize("temperature", [0.07, 0.02])
def test_predictions_equal_scikit_learns_neighbours_and_a_weighted_vote(temperature):
    (train, labels), (test, _) = digits("train"), digits("test")
    for tile in (1000, 100, 537):  # 537 test rows: one tile and a bit, several and a bit, exactly one
        predicted = knn_predict(train, labels, test, ks=KS, temperature=temperature, tile=tile)
        assert predicted.shape == (len(KS), len(test))
        for k, row in zip(KS, predicted, strict=True):
            np.testing.assert_array_equal(row, scikit_vote(train, labels, test, k, temperature))


def test_random_features_with_many_classes_and_tiles_that_do_not_divide():
    rng = np.random.default_rng(0)
    train, test = rng.normal(size=(300, 6)).astype(np.float32), rng.normal(size=(101, 6)).astype(np.float32)
    labels = rng.integers(0, 40, 300).astype(np.int32)
    predicted = knn_predict(train, labels, test, ks=(200, 5), temperature=0.1, tile=17)
    for k, row in zip((200, 5), predicted, strict=True):
        np.testing.assert_array_equal(row, scikit_vote(train, labels, test, k, 0.1))


def test_weights_decide_where_counts_would_not():
    """One neighbour at cosine 1 outvotes two at 0.8 only at a low temperature; at a very low one nothing overflows."""
    train = np.asarray([[1, 0], [0.8, 0.6], [0.8, -0.6]], np.float32)
    labels, test = np.asarray([1, 0, 0], np.int32), np.asarray([[5, 0]], np.float32)
    for temperature, expected in ((1.0, 0), (0.07, 1), (0.001, 1)):
        assert knn_predict(train, labels, test, ks=(3,), temperature=temperature)[0, 0] == expected
    many = np.tile(train[1:], (50, 1))
    mixed = np.concatenate([train[:1], many]), np.concatenate([[1], np.zeros(100)]).astype(np.int32)
    assert knn_predict(*mixed, test, ks=(101,), temperature=0.001)[0, 0] == 1


def test_by_distance_rows_in_the_very_place_have_all_of_the_votes():
    """As scikit-learn's `weights="distance"`, also where no distance is above 0, as in a collapse."""
    train, labels = np.asarray([[1, 0], [-1, 0], [0, 0], [0, 1], [0, -1]], np.float32), np.asarray([0, 0, 3, 0, 0])
    for x in (train, np.ones_like(train)):
        for k in (1, 3, 5):
            theirs = KNeighborsClassifier(k, weights="distance").fit(x, labels)
            found = knn_predict(x, labels, x[2:3], ks=(k,), metric="l2")
            np.testing.assert_array_equal(found[0], theirs.predict(x[2:3]))


def test_a_row_in_the_very_place_outvotes_many_that_are_near():
    """Nearer than float32's products of rows far from the mean can tell."""
    here = np.eye(8, dtype=np.float32)[:1]
    near = here + np.float32(0.01) * np.eye(8, dtype=np.float32)[np.arange(19) % 7 + 1]
    train, labels = np.concatenate([here, near, -np.repeat(here, 20, axis=0)]), np.repeat([0, 1, 2], [1, 19, 20])
    assert KNeighborsClassifier(20, weights="distance").fit(train, labels).predict(here) == 0
    assert knn_predict(train, labels, here, ks=(20,), metric="l2") == 0


@pytest.mark.parametrize(("rows", "said"), [(np.s_[:, None], r"have the shape \[4, 1\]"), (np.s_[:1], "but 1 labels")])
def test_labels_to_score_by_are_one_for_each_row(rows, said):
    x, y = np.eye(4, dtype=np.float32), np.arange(4, dtype=np.int32)
    with pytest.raises(UserError, match=said):
        knn_accuracy(x, y, x, y[rows], ks=(1,))


def test_accuracy_is_the_share_of_hits():
    train, labels = np.eye(4, dtype=np.float32), np.arange(4, dtype=np.int32)
    found = knn_accuracy(train, labels, train, np.asarray([0, 1, 2, 0], np.int32), ks=(1, 2))
    assert found == {1: 0.75, 2: 0.75}


@pytest.mark.parametrize("ks", [(0,), (5,), (1, 5)])
def test_a_k_out_of_range_is_an_error(ks):
    x, y = np.eye(4, dtype=np.float32), np.arange(4, dtype=np.int32)
    with pytest.raises(UserError, match=r"1 <= k <= 4 .*given k = \["):
        knn_predict(x, y, x, ks=ks)


def test_features_and_temperature_are_checked():
    x, y = np.eye(4, dtype=np.float32), np.arange(4, dtype=np.int32)
    with pytest.raises(UserError, match="NaN or infinity"):
        knn_predict(x, y, x * np.float32("nan"), ks=(1,))
    with pytest.raises(UserError, match="a split is empty"):
        knn_predict(x, y, x[:0], ks=(1,))
    with pytest.raises(UserError, match="`temperature` must be above 0"):
        knn_predict(x, y, x, ks=(1,), temperature=0.0)
