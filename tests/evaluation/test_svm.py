import numpy as np
import pytest
from sklearn.metrics import average_precision_score
from sklearn.model_selection import cross_val_score
from sklearn.svm import LinearSVC

from ssl_jax.core import UserError
from ssl_jax.evaluation import average_precision, linear_svm, low_shot_svm
from ssl_jax.evaluation.squared_hinge import fit_squared_hinge
from ssl_jax.evaluation.svm import COSTS, cross_validate, unit_rows

RNG = np.random.default_rng(0)
CENTRES = RNG.normal(size=(4, 12))
LABELS, TEST_LABELS = (RNG.integers(0, 4, n).astype(np.int32) for n in (160, 120))
X, U = ((0.5 * CENTRES[y] + RNG.normal(size=(len(y), 12))).astype(np.float32) for y in (LABELS, TEST_LABELS))
MANY, TEST_MANY = ((x @ CENTRES.T + RNG.normal(size=(len(x), 4)) > 1.5).astype(np.int32) for x in (X, U))


def liblinear(cost):
    return LinearSVC(C=cost, class_weight={1: 2, 0: 1}, dual=False, tol=1e-9, max_iter=10000)


def precision_at(scores, targets, method):
    """By the definition, at every threshold, in plain Python."""
    points = []
    for threshold in sorted(set(scores), reverse=True):
        found = [t for s, t in zip(scores, targets, strict=True) if s >= threshold]
        points.append((sum(found), sum(found) / len(found)))
    total, ap, before = sum(targets), 0.0, 0
    if method == "11-point":
        return sum(max(p for h, p in points if 10 * h >= r * total) for r in range(11)) / 11
    for i, (hits, precision) in enumerate(points):
        best = max(p for _, p in points[i:]) if method == "area" else precision
        ap, before = ap + (hits - before) / total * best, hits
    return ap


@pytest.mark.parametrize("method", ["area", "11-point", "step"])
@pytest.mark.parametrize("levels", [3, 1000])  # with many equal scores, and with hardly any
def test_average_precision_is_its_definition(method, levels):
    rng = np.random.default_rng(levels)
    for n in (1, 2, 10, 80):
        targets = rng.integers(0, 2, n)
        targets[rng.integers(n)] = 1
        scores = rng.integers(0, levels, n) / levels
        value = average_precision(scores, targets, method=method)
        assert value == pytest.approx(precision_at(scores.tolist(), targets.tolist(), method))
        if method == "step":
            assert value == pytest.approx(average_precision_score(targets, scores))
        order = rng.permutation(n)
        assert value == pytest.approx(average_precision(scores[order], targets[order], method=method))


def test_average_precision_by_hand():
    """Hit, miss, hit: precision 1 up to a recall of 1/2, then 2/3."""
    scores, targets = np.asarray([3.0, 2.0, 1.0]), np.asarray([1, 0, 1])
    assert average_precision(scores, targets) == pytest.approx(5 / 6)
    assert average_precision(scores, targets, method="11-point") == pytest.approx((6 * 1 + 5 * 2 / 3) / 11)
    assert average_precision(scores, targets > 0) == pytest.approx(5 / 6)
    assert average_precision(np.zeros(4), np.asarray([1, 0, 0, 0])) == 0.25


@pytest.mark.parametrize("cost", [2.0**-19, 0.1, 10.0, 100.0])
def test_the_solutions_are_liblinears(cost):
    x, sign = unit_rows(X), np.where(MANY > 0, 1.0, -1.0).astype(np.float32)
    weight = (cost * np.where(MANY > 0, 2.0, 1.0)).astype(np.float32)
    weight[:20] = 0  # rows that are left out
    found = np.asarray(fit_squared_hinge(x, sign, weight, np.zeros((13, 4), np.float32)))
    for c in range(4):
        svc = liblinear(cost).fit(x[20:], MANY[20:, c])
        expected = np.append(svc.coef_[0], svc.intercept_)
        np.testing.assert_allclose(found[:, c], expected, atol=2e-4 * np.abs(expected).max())


def test_cross_validation_is_scikit_learns():
    x, costs = unit_rows(X), (10.0, 0.01, 1.0)
    table = cross_validate(x, MANY, costs=costs)
    for row, cost in zip(table, costs, strict=True):
        for c in range(4):
            kwargs = {"cv": 3, "scoring": "average_precision"}
            assert row[c] == pytest.approx(cross_val_score(liblinear(cost), x, MANY[:, c], **kwargs).mean(), abs=1e-3)


def test_multi_label_is_the_protocol_put_together_of_scikit_learn():
    found = linear_svm(X, MANY, U, TEST_MANY, method="11-point")
    for c, cost in enumerate(found["costs"]):
        assert cost in COSTS
        svc = liblinear(cost).fit(unit_rows(X), MANY[:, c])
        ap = average_precision(svc.decision_function(unit_rows(U)), TEST_MANY[:, c], method="11-point")
        assert found["average_precision"][c] == pytest.approx(ap, abs=2e-3)
    assert found["map"] == pytest.approx(np.mean(found["average_precision"]))
    assert found["map"] > TEST_MANY.mean() + 0.2


def test_labels_give_an_accuracy_and_one_cost():
    found = linear_svm(X, LABELS, U, TEST_LABELS, costs=(0.01, 1.0, 10.0))
    assert len(set(found["costs"])) == 1
    scores = [
        liblinear(found["costs"][0]).fit(unit_rows(X), c == LABELS).decision_function(unit_rows(U)) for c in range(4)
    ]
    assert found["accuracy"] == pytest.approx(np.mean(np.argmax(scores, axis=0) == TEST_LABELS), abs=0.01)
    other = linear_svm(X, LABELS, U, 3 - TEST_LABELS, costs=(0.01, 1.0, 10.0))  # the test set chooses nothing
    assert other["costs"] == found["costs"]


def test_examples_to_ignore_neither_train_nor_count():
    """Whatever features they have: here absurd ones."""
    odd, odd_targets = np.full((30, 12), 5.0, np.float32), np.full((30, 4), -1, np.int32)
    more = np.concatenate([X, odd]), np.concatenate([MANY, odd_targets])
    test = np.concatenate([U, odd]), np.concatenate([TEST_MANY, odd_targets])
    first, second = linear_svm(X, MANY, U, TEST_MANY, costs=(1.0, 10.0)), linear_svm(*more, *test, costs=(1.0, 10.0))
    assert first["costs"] == second["costs"]
    np.testing.assert_allclose(first["average_precision"], second["average_precision"], atol=2e-3)


@pytest.mark.parametrize(("y", "v", "metric"), [(LABELS, TEST_LABELS, "accuracy"), (MANY, TEST_MANY, "map")])
def test_low_shot_is_deterministic_and_better_with_more(y, v, metric):
    found = low_shot_svm(X, y, U, v, shots=(1, 16), trials=4)
    assert found == low_shot_svm(X, y, U, v, shots=(1, 16), trials=4)
    assert found[1]["metric"] == metric
    assert found[1]["mean"] < found[16]["mean"]
    assert found[16]["values"][:2] == pytest.approx(low_shot_svm(X, y, U, v, shots=(16,), trials=2)[16]["values"])
    assert found[1]["mean"] == pytest.approx(np.mean(found[1]["values"]))
    assert found[1]["std"] == pytest.approx(np.std(found[1]["values"], ddof=1))
    assert found != low_shot_svm(X, y, U, v, shots=(1, 16), trials=4, seed=1)
    assert low_shot_svm(X, y, U, v, shots=(2,), trials=1)[2]["std"] is None
    assert low_shot_svm(X, y, U, v, shots=()) == {}


def test_all_shots_of_balanced_labels_are_the_svm_itself():
    rows = np.concatenate([np.flatnonzero(c == LABELS)[:20] for c in range(4)])
    one = linear_svm(X[rows], LABELS[rows], U, TEST_LABELS, costs=(1.0,))
    assert low_shot_svm(X[rows], LABELS[rows], U, TEST_LABELS, shots=(20,), trials=1)[20]["mean"] == one["accuracy"]


def test_bad_input():
    with pytest.raises(UserError, match="Class 0 has 1 examples, too few for 3 folds"):
        linear_svm(X, np.where(np.arange(160) == 7, 0, 1 + LABELS % 3).astype(np.int32), U, TEST_LABELS)
    with pytest.raises(UserError, match="Class 2 has no positive example to score"):
        linear_svm(X, MANY, U, TEST_MANY * np.asarray([[1, 1, 0, 1]], np.int32), costs=(1.0,))
    with pytest.raises(UserError, match=r"are 1, 0 or -1 \(ignore\), but hold \[0, 2\]"):
        linear_svm(X, 2 * MANY, U, TEST_MANY, costs=(1.0,))
    with pytest.raises(UserError, match="must be of one kind"):
        linear_svm(X, MANY, U, TEST_LABELS)
    with pytest.raises(UserError, match="`cost 1` must be above 0"):
        linear_svm(X, MANY, U, TEST_MANY, costs=(1.0, 0.0))
    with pytest.raises(UserError, match="NaN or infinity"):
        linear_svm(X * np.float32("nan"), MANY, U, TEST_MANY)
    with pytest.raises(UserError, match="fewer than the 150 asked for"):
        low_shot_svm(X, MANY, U, TEST_MANY, shots=(150,))
    with pytest.raises(UserError, match="fewer than the 90 asked for"):
        low_shot_svm(X, LABELS, U, TEST_LABELS, shots=(90,))
    with pytest.raises(UserError, match="Unknown average precision 'best'; choose one of area, 11-point, step"):
        average_precision(np.ones(3), np.ones(3, int), method="best")
    with pytest.raises(UserError, match="at least one positive"):
        average_precision(np.ones(3), np.zeros(3, int))
    with pytest.raises(UserError, match=r"Targets are 0 or 1, but hold \[-1"):
        average_precision(np.ones(3), np.asarray([1, 0, -1]))
    with pytest.raises(UserError, match="rank nothing"):
        average_precision(np.asarray([1.0, np.nan]), np.asarray([1, 0]))
