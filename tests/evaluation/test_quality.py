import jax.numpy as jnp
import numpy as np
import pytest

from ssl_jax.core import UserError
from ssl_jax.evaluation import (
    alignment,
    effective_rank,
    participation_ratio,
    rankme,
    representation_quality,
    uniformity,
)
from ssl_jax.monitors import collapse

RNG = np.random.default_rng(0)
X = (RNG.normal(size=(300, 12)) * np.geomspace(1, 0.02, 12) + 0.3).astype(np.float32)
Y = X + 0.1 * RNG.normal(size=X.shape).astype(np.float32)


def unit(x):
    return x.astype(np.float64) / np.linalg.norm(x.astype(np.float64), axis=1, keepdims=True)


def entropy_rank(share):
    share = share[share > 0]
    return np.exp(-np.sum(share * np.log(share)))


def test_alignment_and_uniformity_are_wang_and_isolas():
    a, b = unit(X), unit(Y)
    for alpha in (1.0, 2.0):
        assert alignment(X, Y, alpha=alpha) == pytest.approx(np.mean(np.linalg.norm(a - b, axis=1) ** alpha), rel=1e-5)
    assert alignment(X, 3 * X) == pytest.approx(0.0, abs=1e-12)
    assert alignment(X, -X) == pytest.approx(4.0)
    square = np.sum((a[:, None] - a[None]) ** 2, axis=2)[np.triu_indices(300, k=1)]
    for t in (2.0, 0.5):
        assert uniformity(X, t=t) == pytest.approx(np.log(np.mean(np.exp(-t * square))), abs=1e-5)


@pytest.mark.parametrize("t", [2.0, 10.0, 100.0])
def test_uniformity_of_distant_pairs_and_of_rows_of_zeros(t):
    """Sums beside which the pairs of a row with itself are large; a row of zeros is at distance 1 from all others."""
    x = np.random.default_rng(3).normal(size=(41, 128)).astype(np.float32)
    x[:4] = 0
    a = x.astype(np.float64) / np.maximum(np.linalg.norm(x.astype(np.float64), axis=1, keepdims=True), 1e-12)
    for rows, unit_rows in ((x, a), (x[4:], a[4:])):
        square = np.sum((unit_rows[:, None] - unit_rows[None]) ** 2, axis=2)[np.triu_indices(len(rows), k=1)]
        assert uniformity(rows, t=t) == pytest.approx(np.log(np.mean(np.exp(-t * square))), rel=1e-4)


def test_uniformity_in_tiles_and_of_a_sample(monkeypatch):
    whole = uniformity(X)
    part = uniformity(X, sample=100, seed=1)
    assert part == uniformity(X, sample=100, seed=1) != uniformity(X, sample=100, seed=2)
    assert part == pytest.approx(whole, abs=0.1)
    monkeypatch.setattr("ssl_jax.evaluation.quality.TILE", 70)
    assert uniformity(X, sample=None) == pytest.approx(whole, abs=1e-6)


def test_uniformity_of_extremes():
    assert uniformity(np.ones((20, 5), np.float32)) == pytest.approx(0.0, abs=1e-5)
    assert uniformity(np.asarray([[1, 0], [-1, 0]], np.float32)) == pytest.approx(-8.0, abs=1e-4)
    assert uniformity(RNG.normal(size=(400, 500)).astype(np.float32)) == pytest.approx(-4.0, abs=0.05)


@pytest.mark.parametrize("x", [X, X[:9]], ids=["tall", "wide"])
def test_ranks_are_their_definitions(x):
    values = np.linalg.svd(unit(x) - unit(x).mean(axis=0), compute_uv=False)
    values = values[values > 1e-6 * values[0]]
    assert effective_rank(x) == pytest.approx(entropy_rank(values / values.sum()), rel=1e-4)
    values = np.linalg.svd(x.astype(np.float64), compute_uv=False)
    assert rankme(x) == pytest.approx(entropy_rank(values / values.sum() + 1e-7), rel=1e-5)
    variances = np.linalg.svd(x - x.mean(axis=0, dtype=np.float64), compute_uv=False) ** 2
    assert participation_ratio(x) == pytest.approx(variances.sum() ** 2 / (variances**2).sum(), rel=1e-5)


def test_the_monitor_logs_the_same_of_a_batch():
    logged, found = collapse(jnp.asarray(X)), representation_quality(X)
    assert found["embedding_std"] == pytest.approx(float(logged["embedding_std"]), rel=1e-6)
    assert found["effective_rank"] == pytest.approx(float(logged["effective_rank"]), rel=1e-3)


def test_ranks_of_extremes():
    same = np.full((30, 6), 0.7, np.float32)
    assert effective_rank(same) == pytest.approx(1.0)
    assert rankme(same) == pytest.approx(1.0, abs=1e-4)
    assert participation_ratio(np.zeros((30, 6), np.float32)) == 1.0
    even = np.concatenate([np.eye(6), -np.eye(6)]).astype(np.float32)
    for rank in (effective_rank, rankme, participation_ratio):
        assert rank(even) == pytest.approx(6.0, rel=1e-4)
    line = np.outer(np.linspace(-1, 1, 30), np.ones(6)).astype(np.float32)
    assert effective_rank(line) == pytest.approx(1.0, abs=1e-3)


def test_all_in_one_with_and_without_views():
    found = representation_quality(X, (X, Y), sample=None)
    assert found["alignment"] == alignment(X, Y)
    assert found["uniformity"] == uniformity(X)
    assert found["rankme"] == rankme(X)
    assert set(found) - set(representation_quality(X)) == {"alignment"}


def test_bad_input():
    with pytest.raises(UserError, match=r"two views of the same images, but was given \(300, 12\) and \(299, 12\)"):
        representation_quality(X, (X, Y[1:]))
    with pytest.raises(UserError, match="there is one row"):
        uniformity(X[:1])
    for measure in (effective_rank, rankme, participation_ratio, uniformity, representation_quality):
        with pytest.raises(UserError, match="NaN or infinity"):
            measure(X * np.float32("nan"))
