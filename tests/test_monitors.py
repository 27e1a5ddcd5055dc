import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssl_jax.memory import enqueue
from ssl_jax.monitors import collapse, init_probe, queue, update_probe


def measure(embedding):
    return {name: float(value) for name, value in collapse(jnp.asarray(embedding, jnp.float32)).items()}


def exact_rank(embedding):
    """Exponential of the entropy of the singular values, from numpy's SVD in float64."""
    z = embedding / np.linalg.norm(embedding, axis=1, keepdims=True)
    singular = np.linalg.svd(z - z.mean(axis=0), compute_uv=False)
    share = singular / singular.sum()
    share = share[share > 1e-9]
    return np.exp(-(share * np.log(share)).sum())


@pytest.mark.parametrize(("n", "d"), [(512, 16), (64, 64), (32, 128)])
def test_directions_spread_evenly_have_deviation_one_and_full_rank(n, d):
    z = np.random.default_rng(0).normal(size=(n, d))
    found = measure(100 * z)
    assert found["embedding_std"] == pytest.approx(1.0, abs=0.05)
    assert found["effective_rank"] == pytest.approx(exact_rank(z), rel=1e-3)
    assert found["effective_rank"] > 0.7 * min(n - 1, d)


@pytest.mark.parametrize("row", [np.ones(32), np.random.default_rng(1).normal(size=32), np.zeros(32)])
def test_equal_embeddings_have_deviation_zero_and_rank_one(row):
    found = measure(np.tile(row, (64, 1)))
    assert found["embedding_std"] == pytest.approx(0.0, abs=1e-5)
    assert found["effective_rank"] == pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize("rank", [1, 2, 5])
@pytest.mark.parametrize(("n", "d"), [(128, 32), (64, 512), (512, 256)])
def test_embeddings_in_a_subspace_have_its_rank(rank, n, d):
    """Rounding in the many other directions must not count (they would add 0.4 to the rank of 1 at 512 features)."""
    rng = np.random.default_rng(2)
    z = rng.normal(size=(n, rank)) @ rng.normal(size=(rank, d))
    found = measure(z)
    assert found["effective_rank"] == pytest.approx(exact_rank(z), rel=2e-3)
    assert 0.7 * rank < found["effective_rank"] <= rank + 0.01


def test_half_precision_embeddings_are_measured_in_float32():
    z = jnp.asarray(np.random.default_rng(3).normal(size=(64, 8)), jnp.bfloat16)
    assert all(value.dtype == jnp.float32 for value in collapse(z).values())


def train_probe(features, labels, steps=60, batch=32, seed=0):
    probe = init_probe(features.shape[1], int(labels.max()) + 1)
    rng = np.random.default_rng(seed)
    for _ in range(steps):
        rows = rng.integers(0, len(features), batch)
        probe = update_probe(probe, jnp.asarray(features[rows]), jnp.asarray(labels[rows]))
    return probe


def two_classes(n=400, d=8):
    rng = np.random.default_rng(4)
    labels = rng.integers(0, 2, n).astype(np.int32)
    features = rng.normal(size=(n, d)) + 3.0 * (2 * labels[:, None] - 1)
    return features.astype(np.float32), labels


def test_the_probe_learns_what_a_line_separates_at_any_scale():
    features, labels = two_classes()
    for scale, shift in ((1.0, 0.0), (1e3, 0.0), (1e-2, 0.0), (1.0, 50.0)):
        assert train_probe(scale * features + np.float32(shift), labels).accuracy > 0.9


def test_the_probe_is_at_chance_without_signal_and_forgets_its_start():
    features, labels = two_classes()
    shuffled = np.random.default_rng(5).permutation(labels)
    assert train_probe(features, shuffled, steps=200).accuracy == pytest.approx(0.5, abs=0.12)


@pytest.mark.parametrize("value", [0.0, 7.0, 1e-30, 1e15])
def test_constant_features_leave_the_probe_finite(value):
    features, labels = np.full((64, 4), value, np.float32), np.arange(64, dtype=np.int32) % 4
    probe = train_probe(features, labels)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(probe))


def test_the_probe_keeps_tree_shapes_and_dtypes():
    probe = init_probe(4, 3)
    after = update_probe(probe, jnp.ones((2, 4), jnp.bfloat16), jnp.zeros(2, jnp.int32))
    describe = lambda tree: jax.tree.map(lambda x: (x.shape, x.dtype, x.weak_type), tree)  # noqa: E731
    assert describe(probe) == describe(after)
    assert after.count == 1


@pytest.mark.parametrize("batch", [1, 4, 7, 10, 25])
def test_queue_is_as_old_and_as_full_as_its_entries_say(batch):
    """Entries that hold the step that wrote them, against what is told of the queue."""
    entries, pointer = jnp.full((10, 1), -1.0), jnp.zeros((), jnp.int32)
    for step in range(13):
        memory = {"queue": {"level": entries}, "pointer": pointer, "distance": jnp.zeros(3)}
        written = np.asarray(entries)[np.asarray(entries) >= 0]
        told = queue(memory, batch_size=batch, steps=step)
        assert told == {
            "queue_filled": pytest.approx(len(written) / 10),
            "queue_age": step - written.min() if step else 0,
        }
        entries, pointer = enqueue(entries, pointer, jnp.full((batch, 1), float(step)))


def test_nothing_is_told_of_what_is_no_queue_or_fills_in_another_way():
    assert queue(None, batch_size=4, steps=1) == queue({"center": jnp.zeros(3)}, batch_size=4, steps=1) == {}
    memory = {"queue": jnp.zeros((10, 2)), "pointer": jnp.asarray(8, jnp.int32)}  # two a picture
    assert queue(memory, batch_size=4, steps=1) == {}
    assert queue(memory, batch_size=8, steps=1) == {"queue_filled": 0.8, "queue_age": 1.0}
