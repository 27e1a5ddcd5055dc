import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from ssl_jax.core import UserError
from ssl_jax.evaluation import few_shot_accuracy
from ssl_jax.evaluation.fewshot import draw_episodes

RNG = np.random.default_rng(0)
LABELS = np.repeat(np.arange(7), 30).astype(np.int32)
X = (0.6 * RNG.normal(size=(7, 10))[LABELS] + RNG.normal(size=(210, 10)) + 1).astype(np.float32)


def unit(x):
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def by_scikit_learn(method, *, ways, shots, queries, episodes, penalty=1.0, center=None):
    """Accuracy of each task, one after the other, in float64."""
    x, found = X.astype(np.float64), []
    if method == "centroid":
        x = x - (x.mean(axis=0) if center is None else center)
    x = unit(x)
    for task in draw_episodes(LABELS, ways=ways, size=shots + queries, episodes=episodes):
        support, query = x[task[:, :shots].ravel()], x[task[:, shots:].ravel()]
        y, v = np.repeat(np.arange(ways), shots), np.repeat(np.arange(ways), queries)
        means = np.stack([support[y == c].mean(axis=0) for c in range(ways)])
        if method == "centroid":
            predicted = np.linalg.norm(query[:, None] - means[None], axis=2).argmin(axis=1)
        elif method == "cosine":
            predicted = (query @ unit(means).T).argmax(axis=1)
        else:
            predicted = LogisticRegression(C=1 / penalty, tol=1e-10, max_iter=2000).fit(support, y).predict(query)
        found.append(np.mean(predicted == v))
    return np.asarray(found)


@pytest.mark.parametrize("method", ["centroid", "cosine", "logistic"])
@pytest.mark.parametrize(("ways", "shots"), [(5, 1), (3, 5)])
def test_accuracies_are_those_of_tasks_solved_one_by_one(method, ways, shots):
    setting = {"ways": ways, "shots": shots, "queries": 6, "episodes": 40}
    found = few_shot_accuracy(X, LABELS, method=method, **setting)
    expected = by_scikit_learn(method, **setting)
    assert found["accuracy"] == pytest.approx(expected.mean(), abs=1e-6)
    assert found["std"] == pytest.approx(expected.std(ddof=1), abs=1e-6)
    assert found["confidence"] == pytest.approx(1.96 * expected.std(ddof=1) / np.sqrt(40))
    assert {name: found[name] for name in setting} == setting


def test_logistic_regression_reaches_its_solution_at_a_low_penalty_too():
    setting = {"ways": 4, "shots": 10, "queries": 5, "episodes": 15, "penalty": 0.1}
    assert few_shot_accuracy(X, LABELS, method="logistic", **setting)["accuracy"] == pytest.approx(
        by_scikit_learn("logistic", **setting).mean(), abs=0.004
    )


def test_the_centre_may_be_that_of_other_classes():
    setting = {"ways": 5, "shots": 1, "queries": 6, "episodes": 40}
    center = np.linspace(-1, 3, 10)
    expected = by_scikit_learn("centroid", center=center, **setting).mean()
    assert few_shot_accuracy(X, LABELS, center=center, **setting)["accuracy"] == pytest.approx(expected, abs=1e-6)
    assert few_shot_accuracy(X, LABELS, **setting)["accuracy"] != pytest.approx(expected, abs=1e-3)


def test_tasks_are_balanced_without_repetition_and_of_the_classes_asked_for():
    tasks = draw_episodes(LABELS, ways=3, size=10, episodes=50, classes=(1, 4, 5, 6), seed=2)
    assert tasks.shape == (50, 3, 10)
    drawn = LABELS[tasks]
    assert (drawn == drawn[:, :, :1]).all()
    assert all(len(set(task[:, 0])) == 3 for task in drawn)
    assert set(drawn.ravel()) == {1, 4, 5, 6}
    assert all(len(set(task.ravel())) == 30 for task in tasks)
    np.testing.assert_array_equal(
        tasks[:20], draw_episodes(LABELS, ways=3, size=10, episodes=20, classes=(6, 5, 4, 1), seed=2)
    )
    assert (tasks != draw_episodes(LABELS, ways=3, size=10, episodes=50, classes=(1, 4, 5, 6), seed=3)).any()


def test_tiles_of_tasks_change_nothing(monkeypatch):
    setting = {"ways": 2, "shots": 1, "queries": 2, "episodes": 23}
    whole = few_shot_accuracy(X, LABELS, **setting)
    monkeypatch.setattr("ssl_jax.evaluation.fewshot.MAX_FEATURES", 2 * 3 * 10 * 4)
    assert few_shot_accuracy(X, LABELS, **setting) == whole


def test_novel_classes_and_one_task():
    one = few_shot_accuracy(X, LABELS, ways=2, classes=(0, 3), episodes=1)
    assert (one["std"], one["confidence"]) == (0.0, 0.0)
    assert 0 <= one["accuracy"] <= 1


def test_bad_input():
    with pytest.raises(UserError, match="Tasks of 8 classes can't be drawn from 7"):
        few_shot_accuracy(X, LABELS, ways=8)
    with pytest.raises(UserError, match="Class 0 has 30 examples, fewer than the 31 that a task takes"):
        few_shot_accuracy(X, LABELS, shots=16)
    with pytest.raises(UserError, match="Class 9 has 0 examples"):
        few_shot_accuracy(X, LABELS, ways=2, classes=(1, 9))
    with pytest.raises(UserError, match="Unknown few-shot method 'svm'; choose one of centroid, cosine, logistic"):
        few_shot_accuracy(X, LABELS, method="svm")
    with pytest.raises(UserError, match="`shots` must be above 0"):
        few_shot_accuracy(X, LABELS, shots=0)
    with pytest.raises(UserError, match="NaN or infinity"):
        few_shot_accuracy(X * np.float32("nan"), LABELS)
