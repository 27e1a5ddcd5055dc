"""Sinkhorn-Knopp codes and SwAV's loss against lightly's, whose codes agree with the authors'."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from values import assert_close

from ssl_jax import losses
from ssl_jax.sharding import data_mesh, put

SETTINGS = [(3, 0.05), (1, 0.05), (10, 0.05), (3, 0.5), (3, 0.02)]


@pytest.mark.parametrize(("wide", "tolerance"), [(False, 1e-5), (True, 1e-12)])
def test_codes(fixture, wide, tolerance):
    data = fixture("swav")
    with jax.enable_x64(wide):
        scores = jnp.asarray(data["scores0"], np.float64 if wide else np.float32)
        for iterations, epsilon in SETTINGS:
            codes = losses.sinkhorn(scores, epsilon=epsilon, iterations=iterations)
            assert_close(codes, data[f"sinkhorn_i{iterations}_e{epsilon}"], tolerance)


def stacked(data, name, count):
    return jnp.asarray(np.stack([data[f"{name}{i}"] for i in range(count)], axis=1))


@pytest.mark.parametrize(("name", "count"), [("multicrop", 5), ("two", 2)])
def test_swapped_prediction(fixture, name, count):
    data = fixture("swav")
    scores = stacked(data, "scores", count)
    codes = jnp.stack([losses.sinkhorn(scores[:, i]) for i in range(2)], axis=1)
    value, gradient = jax.value_and_grad(lambda s: losses.cross_view_entropy(codes, s))(scores)
    assert_close(value, data[f"loss_{name}"])
    for i in range(count):
        if f"loss_{name}_grad{i}" in data:
            assert_close(gradient[:, i], data[f"loss_{name}_grad{i}"])


@pytest.mark.parametrize("unused", [0, 7])
def test_codes_beside_a_queue(fixture, unused):
    """The queue's scores take part and get no codes; entries that are masked do not."""
    data = fixture("swav")
    scores, queue = stacked(data, "scores", 2), stacked(data, "queue_scores", 2)
    together = jnp.concatenate([scores, queue, jnp.full((unused, 2, 10), 3.0)])
    where = jnp.arange(len(together)) < len(together) - unused
    codes = jnp.stack([losses.sinkhorn(together[:, i], where=where)[:12] for i in range(2)], axis=1)
    value, gradient = jax.value_and_grad(lambda s: losses.cross_view_entropy(codes, s))(scores)
    assert_close(value, data["loss_queue"])
    assert_close(gradient[:, 0], data["loss_queue_grad0"])


def test_tiny_epsilon_is_finite_and_hard():
    scores = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (12, 10)), jnp.float32)
    codes = losses.sinkhorn(scores, epsilon=1e-3, iterations=50)
    assert np.isfinite(codes).all()
    assert np.mean(np.max(codes, axis=1)) > 0.8
    np.testing.assert_allclose(codes.sum(1), 1, rtol=1e-5)


def test_clusters_are_used_alike():
    scores = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (40, 8)), jnp.float32) + jnp.arange(8.0)[None]
    codes = losses.sinkhorn(scores, epsilon=0.5, iterations=200)
    np.testing.assert_allclose(codes.sum(0), 5, rtol=1e-3)
    assert np.argmax(jnp.sum(jax.nn.softmax(scores / 0.5), axis=0)) == 7


def test_none_that_counts_is_a_softmax():
    scores = jnp.asarray(np.random.default_rng(0).normal(size=(6, 4)), jnp.float32)
    assert_close(losses.sinkhorn(scores, where=jnp.zeros(6, bool)), jax.nn.softmax(scores / 0.05), 1e-5)


def test_batch_over_devices(fixture):
    scores = np.tile(fixture("swav")["scores0"], (2, 1)) + np.arange(24, dtype=np.float32)[:, None] / 50
    sharded = put({"scores": scores}, data_mesh())["scores"]
    assert_close(jax.jit(losses.sinkhorn)(sharded), losses.sinkhorn(jnp.asarray(scores)), 1e-5)
