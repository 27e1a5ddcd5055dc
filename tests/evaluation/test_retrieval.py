import jax
import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from ssl_jax.core import UserError
from ssl_jax.evaluation import retrieval, retrieval_scores

RNG = np.random.default_rng(0)
LABELS, GALLERY_LABELS = RNG.integers(0, 6, 50).astype(np.int32), RNG.integers(0, 5, 140).astype(np.int32)
CENTRES = RNG.normal(size=(6, 8))
QUERY, GALLERY = (
    (CENTRES[y] + 2 * RNG.normal(size=(len(y), 8)) + 2).astype(np.float32) for y in (LABELS, GALLERY_LABELS)
)


def scores_of(query, bank, metric):
    query, bank = query.astype(np.float64), bank.astype(np.float64)
    if metric == "l2":
        return -np.linalg.norm(query[:, None] - bank[None], axis=2)
    unit = lambda x: x / np.linalg.norm(x, axis=1, keepdims=True)  # noqa: E731
    return unit(query) @ unit(bank).T


def by_definition(query, labels, bank, bank_labels, ks, metric, alone):
    rows = []
    for i, score in enumerate(scores_of(query, bank, metric)):
        others = np.delete(np.arange(len(bank)), i) if alone else np.arange(len(bank))
        same = bank_labels[others] == labels[i]
        if not same.any():
            continue
        hit = same[np.argsort(-score[others], kind="stable")]
        r = int(hit.sum())
        precision = np.cumsum(hit) / np.arange(1, len(hit) + 1)
        row = {"map": average_precision_score(same, score[others])}
        row |= {"map@r": sum(precision[j] for j in range(r) if hit[j]) / r, "r_precision": hit[:r].mean()}
        for k in ks:
            row |= {f"recall@{k}": float(hit[:k].any()), f"precision@{k}": hit[:k].mean()}
        rows.append(row)
    return {**{name: np.mean([row[name] for row in rows]) for name in rows[0]}, "queries": len(rows)}


@pytest.mark.parametrize("metric", ["cosine", "l2"])
@pytest.mark.parametrize("alone", [False, True])
@pytest.mark.parametrize("pairs", [2**24, 1000])  # 1000: tiles of a few queries, the last one filled up
def test_figures_are_their_definitions(monkeypatch, metric, alone, pairs):
    monkeypatch.setattr("ssl_jax.evaluation.retrieval.MAX_PAIRS", pairs)
    ks = (1, 4, 49)
    other = (None, None) if alone else (GALLERY, GALLERY_LABELS)
    found = retrieval_scores(QUERY, LABELS, *other, ks=ks, metric=metric)
    bank = (QUERY, LABELS) if alone else (GALLERY, GALLERY_LABELS)
    expected = by_definition(QUERY, LABELS, *bank, ks, metric, alone)
    assert found.keys() == expected.keys()
    assert found == pytest.approx(expected, abs=1e-6)


def test_queries_without_a_match_are_left_out():
    found = retrieval_scores(QUERY, LABELS, GALLERY, GALLERY_LABELS)
    assert found["queries"] == int((LABELS < 5).sum()) < 50


def test_perfect_and_equal_features():
    """Equal features rank by index: the row itself is left out, wherever it stands."""
    eye = np.repeat(np.eye(3, dtype=np.float32), 4, axis=0)
    perfect = retrieval_scores(eye, np.repeat(np.arange(3), 4).astype(np.int32), ks=(1, 3))
    assert all(perfect[name] == 1.0 for name in perfect if name != "queries")
    same, labels = np.ones((4, 2), np.float32), np.asarray([0, 1, 0, 1], np.int32)
    assert retrieval_scores(same, labels, ks=(1, 2))["map"] == pytest.approx(np.mean([1 / 2, 1 / 3, 1, 1 / 2]))


def test_both_ways_to_rank_are_one():
    """Ties, both zeros, infinities and NaN: to the bit."""
    rng = np.random.default_rng(0)
    score = rng.choice(np.float32([0.0, -0.0, 0.5, -0.5, np.inf, -np.inf, np.nan, -np.nan, 1e-42]), (7, 300))
    score[1] = np.sort(rng.normal(size=300))
    same = rng.random((7, 300)) < 0.3
    with jax.enable_x64(True):
        one, other = jax.jit(retrieval._packed)(score, same), jax.jit(retrieval._sorted)(score, same)
    assert one.dtype == other.dtype == np.float32
    np.testing.assert_array_equal(one, other)


def test_bad_input():
    for ks in ((0,), (50,), ()):
        with pytest.raises(UserError, match=r"needs 1 <= k <= 49 \(the rows to find\)"):
            retrieval_scores(QUERY, LABELS, ks=ks)
    with pytest.raises(UserError, match="Unknown metric 'dot'; choose one of cosine, l2"):
        retrieval_scores(QUERY, LABELS, metric="dot")
    with pytest.raises(UserError, match="give `gallery_labels`"):
        retrieval_scores(QUERY, LABELS, GALLERY)
    with pytest.raises(UserError, match="No query has another row of its class"):
        retrieval_scores(QUERY, np.arange(50, dtype=np.int32))
    with pytest.raises(UserError, match="NaN or infinity"):
        retrieval_scores(QUERY, LABELS, GALLERY * np.float32("inf"), GALLERY_LABELS)
