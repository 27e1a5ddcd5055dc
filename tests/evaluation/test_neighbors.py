import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier, NearestNeighbors

from ssl_jax.core import UserError
from ssl_jax.evaluation import knn_accuracy, knn_predict, nearest

RNG = np.random.default_rng(0)
TRAIN, TEST = (RNG.normal(size=(n, 12)).astype(np.float32) + np.float32(3) for n in (701, 90))
LABELS = RNG.integers(0, 5, 701).astype(np.int32)
TILES = [(1000, 65536), (17, 100), (64, 3)]


def unit(x):
    return x.astype(np.float64) / np.linalg.norm(x.astype(np.float64), axis=1, keepdims=True)


@pytest.mark.parametrize(("tile", "bank_tile"), TILES)
@pytest.mark.parametrize("k", [1, 30])
def test_neighbours_are_those_of_scikit_learn(k, tile, bank_tile):
    distance, index = NearestNeighbors(n_neighbors=k, algorithm="brute").fit(TRAIN).kneighbors(TEST)
    found = nearest(TRAIN, TEST, k, "l2", tile=tile, bank_tile=bank_tile)
    np.testing.assert_array_equal(found[1], index)
    np.testing.assert_allclose(found[0], distance, rtol=1e-5)
    distance, index = NearestNeighbors(n_neighbors=k, algorithm="brute").fit(unit(TRAIN)).kneighbors(unit(TEST))
    similarity, found_index = nearest(TRAIN, TEST, k, tile=tile, bank_tile=bank_tile)
    np.testing.assert_array_equal(found_index, index)
    np.testing.assert_allclose(similarity, 1 - distance**2 / 2, atol=1e-12)


def test_all_rows_can_be_neighbours():
    _, index = NearestNeighbors(n_neighbors=701, algorithm="brute").fit(TRAIN).kneighbors(TEST)
    np.testing.assert_array_equal(nearest(TRAIN, TEST, 701, "l2", bank_tile=400)[1], index)


@pytest.mark.parametrize(("tile", "bank_tile"), TILES)
@pytest.mark.parametrize("metric", ["cosine", "l2"])
def test_of_equal_rows_the_lowest_index_comes_first(metric, tile, bank_tile):
    """Every row is there 16 times, and they come together in the order of their indices."""
    train = np.tile(TRAIN[:30], (16, 1))
    value, index = nearest(train, TEST, 32, metric, tile=tile, bank_tile=bank_tile)
    first = nearest(TRAIN[:30], TEST, 2, metric)[1]
    copies = np.arange(16) * 30
    expected = np.concatenate([first[:, :1] + copies[None], first[:, 1:] + copies[None]], axis=1)
    np.testing.assert_array_equal(index, expected)
    assert (np.diff(value, axis=1) * (1 if metric == "l2" else -1) >= 0).all()


def test_a_collapsed_encoder_has_neighbours_too():
    same = np.ones((50, 4), np.float32)
    for metric, value in (("cosine", 1.0), ("l2", 0.0)):
        found = nearest(same, same[:3], 5, metric)
        np.testing.assert_allclose(found[0], value, atol=1e-12)
        np.testing.assert_array_equal(found[1], np.tile(np.arange(5), (3, 1)))
    assert (nearest(np.zeros_like(same), same, 3)[0] == 0).all()


def test_close_neighbours_far_from_the_origin_are_told_apart():
    """Float32's products of such rows round by more than their distances are."""
    train = np.zeros((200, 3), np.float32) + np.float32(1000)
    train[:, 0] += np.random.default_rng(0).permutation(200).astype(np.float32) / 128
    test = train[:20] + np.float32(1 / 512)
    _, index = NearestNeighbors(n_neighbors=4, algorithm="brute").fit(train.astype(np.float64)).kneighbors(test)
    np.testing.assert_array_equal(nearest(train, test, 4, "l2")[1][:, 0], np.arange(20))
    np.testing.assert_array_equal(nearest(train, test, 4, "l2")[1], index)


@pytest.mark.parametrize("votes", ["weighted", "uniform"])
@pytest.mark.parametrize(("tile", "bank_tile"), TILES)
def test_votes_by_distance_are_scikit_learns(votes, tile, bank_tile):
    ks = (1, 4, 15, 200)
    predicted = knn_predict(TRAIN, LABELS, TEST, ks=ks, metric="l2", votes=votes, tile=tile, bank_tile=bank_tile)
    weights = {"weighted": "distance", "uniform": "uniform"}[votes]
    for k, row in zip(ks, predicted, strict=True):
        classifier = KNeighborsClassifier(k, weights=weights, algorithm="brute").fit(TRAIN, LABELS)
        np.testing.assert_array_equal(row, classifier.predict(TEST))


def test_uniform_votes_by_cosine_are_scikit_learns_and_others_than_weighted_ones():
    predicted = {v: knn_predict(TRAIN, LABELS, TEST, ks=(30,), votes=v)[0] for v in ("uniform", "weighted")}
    classifier = KNeighborsClassifier(30, algorithm="brute").fit(unit(TRAIN), LABELS)
    np.testing.assert_array_equal(predicted["uniform"], classifier.predict(unit(TEST)))
    assert (predicted["uniform"] != predicted["weighted"]).any()


def test_a_streamed_bank_changes_no_vote():
    whole = knn_predict(TRAIN, LABELS, TEST, ks=(1, 20, 150))
    for tile, bank_tile in TILES:
        parts = knn_predict(TRAIN, LABELS, TEST, ks=(1, 20, 150), tile=tile, bank_tile=bank_tile)
        np.testing.assert_array_equal(whole, parts)


def test_a_training_row_is_its_own_neighbour():
    assert knn_accuracy(TRAIN, LABELS, TRAIN, LABELS, ks=(1, 9), metric="l2")[1] == 1.0
    assert knn_accuracy(TRAIN, LABELS, TRAIN, LABELS, ks=(9,), metric="l2", votes="weighted")[9] == 1.0


def test_bad_input():
    with pytest.raises(UserError, match="Unknown metric 'dot'; choose one of cosine, l2"):
        nearest(TRAIN, TEST, 3, "dot")
    with pytest.raises(UserError, match="Unknown kind of votes 'soft'; choose one of weighted, uniform"):
        knn_predict(TRAIN, LABELS, TEST, votes="soft")
    for k in (0, 702):
        with pytest.raises(UserError, match=r"1 <= k <= 701 .*given k = \["):
            nearest(TRAIN, TEST, k)
    with pytest.raises(UserError, match=r"given k = \[\]"):
        knn_predict(TRAIN, LABELS, TEST, ks=())
    with pytest.raises(UserError, match="NaN or infinity"):
        nearest(TRAIN, TEST * np.float32("inf"), 3)
    with pytest.raises(UserError, match="`bank_tile` must be above 0"):
        nearest(TRAIN, TEST, 3, bank_tile=0)
