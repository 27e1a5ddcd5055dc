"""Visual words against the figures of OBoW's code (valeoai/obow, `BoWExtractor`) and of BoWNet's formulas."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssl_jax import UserError, clustering, memory
from ssl_jax.sharding import data_mesh, put


def channels_last(maps, dtype):
    return jnp.asarray(np.moveaxis(maps, 1, -1), dtype)


def codes_of(distances, inverse_temperature):
    """As the methods do it: soft with an inverse temperature, else hard."""
    if inverse_temperature is None:
        return clustering.hard_codes(distances)
    return clustering.soft_codes(distances, inverse_temperature)


def compare_targets(data, dtype, tolerance, *, inv_delta, pool, window):
    """Five steps in the authors' order: mean distance, vocabulary, then codes from the vocabulary before the update."""
    words, pointer = jnp.asarray(data["init/embedding"], dtype), jnp.zeros((), jnp.int32)
    mean = jnp.full((), 0.5, dtype)

    def bag(maps, words, mean):
        maps = clustering.drop_border(maps)
        distances = clustering.squared_distances(maps.reshape(len(maps), -1, maps.shape[-1]), words)
        nearest = jnp.mean(jnp.min(distances, axis=-1))
        return maps, distances, nearest

    def close(actual, expected):
        np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance)

    for step in range(1, 6):
        at = f"step{step}"
        if f"{at}/features" not in data:
            break
        maps, distances, nearest = bag(channels_last(data[f"{at}/features"], dtype), words, mean)
        mean = memory.ema(mean, nearest, 0.99)
        codes = codes_of(distances, None if inv_delta is None else inv_delta / mean)
        if f"{at}/codes" in data:
            expected = data[f"{at}/codes"]
            close(codes, expected.reshape(*expected.shape[:2], -1).swapaxes(1, 2))
        close(clustering.bag_of_words(codes, pool=pool), data[f"{at}/bow"])
        close(mean, data[f"{at}/min_distance_mean"][0])
        location = jnp.asarray(data[f"{at}/location"], jnp.int32)
        chosen = clustering.pick(clustering.local_averages(maps, window), location)
        words, pointer = memory.enqueue(words, pointer, chosen)
        close(words, data[f"{at}/embedding"])
        assert int(pointer) == data[f"{at}/ptr"][0]
    assert step >= 4
    _, distances, _ = bag(channels_last(data["eval/features"], dtype), words, mean)
    codes = codes_of(distances, None if inv_delta is None else inv_delta / mean)
    close(clustering.bag_of_words(codes, pool=pool), data["eval/bow"])


SETTINGS = {
    "obow_target_soft": {"inv_delta": 15, "pool": "max", "window": 3},
    "obow_target_hard": {"inv_delta": None, "pool": "average", "window": 1},
}


@pytest.mark.parametrize(("name", "tolerance"), [("obow_target_soft", 5e-5), ("obow_target_hard", 2e-5)])
def test_targets_and_vocabulary_equal_the_authors(fixture, name, tolerance):
    compare_targets(fixture(name), jnp.float32, tolerance, **SETTINGS[name])


@pytest.mark.parametrize("name", SETTINGS)
def test_targets_and_vocabulary_equal_the_authors_in_float64(fixture, name):
    with jax.enable_x64(True):
        compare_targets(fixture(name), jnp.float64, 1e-11, **SETTINGS[name])


def test_assignment_and_bags_equal_bownets_formulas(fixture):
    data = fixture("bownet")
    maps, words = channels_last(data["features"], jnp.float32), jnp.asarray(data["vocabulary"])
    features = maps.reshape(5, 36, 8)
    np.testing.assert_array_equal(clustering.nearest(features, words), data["assignment"])
    codes = clustering.hard_codes(clustering.squared_distances(features, words))
    np.testing.assert_allclose(clustering.bag_of_words(codes, pool="average"), data["histogram"], atol=1e-6)
    np.testing.assert_allclose(clustering.bag_of_words(codes), data["binary"], atol=1e-6)


def test_perplexities_equal_the_authors(fixture):
    data = fixture("obow_predictor")
    for level in range(2):
        image, batch = clustering.perplexities(jnp.asarray(data[f"target{level}"]))
        np.testing.assert_allclose(image, data["perplexity_image"][level], rtol=1e-5)
        np.testing.assert_allclose(batch, data["perplexity_batch"][level], rtol=1e-5)


def test_equal_words_give_the_first_and_an_unknown_pool_is_refused():
    words = jnp.asarray([[2.0, 0], [1, 1], [1, 1]])
    assert clustering.nearest(jnp.asarray([[1.0, 1.0]]), words)[0] == 1
    with pytest.raises(UserError, match='"max" or "average", not \'sum\''):
        clustering.bag_of_words(jnp.ones((1, 2, 3)), pool="sum")


def test_small_maps_keep_something():
    for n, left in [(1, 1), (2, 2), (3, 1), (7, 5)]:
        maps = jnp.arange(n * n * 2, dtype=jnp.float32).reshape(1, n, n, 2)
        assert clustering.drop_border(maps).shape == (1, left, left, 2)
    averages = clustering.local_averages(maps[:, :2, :2])
    np.testing.assert_allclose(averages[:, 0], maps[:, :2, :2].mean((1, 2)))
    np.testing.assert_allclose(clustering.local_averages(maps, None)[:, 0], maps.mean((1, 2)), rtol=1e-6)
    assert clustering.local_averages(maps).shape == (1, 25, 2)


def blobs(count, each, seed=0):
    """Well separated clouds of points, far from the origin."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(count, 5)) * 10 + 100
    points = centres[:, None] + rng.normal(size=(count, each, 5)) * 0.1
    return centres, rng.permutation(points.reshape(-1, 5)).astype(np.float32)


def lloyd(x, centres):
    """One of Lloyd's iterations in numpy, without empty clusters."""
    assigned = np.argmin(((x[:, None] - centres[None]) ** 2).sum(-1), axis=1)
    assert len(np.unique(assigned)) == len(centres)
    return np.stack([x[assigned == k].mean(0) for k in range(len(centres))])


def test_kmeans_finds_clouds_whatever_the_tile_and_the_devices():
    centres, x = blobs(6, 40)
    found = clustering.kmeans(jax.random.key(0), jnp.asarray(x), 6)
    apart = np.linalg.norm(found[:, None] - centres[None], axis=-1)
    assert sorted(apart.argmin(1)) == list(range(6))
    assert apart.min(1).max() < 0.1
    np.testing.assert_allclose(found, lloyd(x, np.asarray(found)), rtol=1e-5)  # a fixed point
    np.testing.assert_array_equal(found, clustering.kmeans(jax.random.key(0), jnp.asarray(x), 6))
    tiled = clustering.kmeans(jax.random.key(0), jnp.asarray(x), 6, tile=37)
    np.testing.assert_allclose(found, tiled, rtol=1e-6)
    sharded = clustering.kmeans(jax.random.key(0), put({"x": x}, data_mesh())["x"], 6, tile=64)
    np.testing.assert_allclose(found, sharded, rtol=1e-6)


def test_every_cluster_of_kmeans_has_members():
    """Many clusters for few points: some become empty on the way and are placed anew."""
    x = jnp.asarray(np.random.default_rng(1).normal(size=(60, 2)), jnp.float32)
    for seed in range(3):
        words = clustering.kmeans(jax.random.key(seed), x, 40)
        assert len(np.unique(clustering.nearest(x, words))) == 40
    np.testing.assert_allclose(np.sort(clustering.kmeans(jax.random.key(0), x, 60), 0), np.sort(x, 0), atol=1e-6)


def test_empty_clusters_move_to_the_farthest_features():
    """All starts at one point, as if drawn from features that are equal: the others are then found all the same."""
    x = jnp.asarray([[0.0], [0], [0], [0], [5], [9]])
    words = clustering._kmeans(jax.random.key(0), x, 3, 3, 4)
    np.testing.assert_allclose(np.sort(words[:, 0]), [0, 5, 9], atol=1e-6)
    same = clustering.kmeans(jax.random.key(0), jnp.ones((5, 2)), 3)
    np.testing.assert_allclose(same, jnp.ones((3, 2)))


@pytest.mark.parametrize(
    ("n", "count", "fields", "message"),
    [
        (4, 5, {}, "can't find 5 words among 4 features"),
        (4, 0, {}, "at least one cluster"),
        (4, 2, {"iterations": 0}, "one iteration"),
    ],
)
def test_kmeans_refuses_what_it_cannot_do(n, count, fields, message):
    with pytest.raises(UserError, match=message):
        clustering.kmeans(jax.random.key(0), jnp.ones((n, 2)), count, **fields)
