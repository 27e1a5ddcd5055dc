import numpy as np
import pytest

from ssl_jax import data, nets
from ssl_jax.core import UserError
from ssl_jax.evaluation import curve, label_curve, labels_for, labels_saved

COUNTS = [1, 10, 100]
ENCODER = nets.ConvNet(widths=(4,))


def rows(tuned, scratch, counts=COUNTS):
    return [
        {"labels_per_class": n, "fine_tuned": {"accuracy": a}, "from_scratch": {"accuracy": b}}
        for n, a, b in zip(counts, tuned, scratch, strict=True)
    ]


@pytest.mark.parametrize(
    ("accuracy", "labels"),
    [(0.2, 1), (0.4, 10**0.5), (0.6, 10), (0.65, 10**1.5), (0.7, 100), (0.1, None), (0.71, None)],
)
def test_labels_for_an_accuracy_are_read_off_a_line_over_their_logarithm(accuracy, labels):
    found = labels_for(COUNTS, [0.2, 0.6, 0.7], accuracy)
    assert found == (labels if labels is None else pytest.approx(labels))


def test_a_curve_that_wavers_reaches_an_accuracy_where_it_first_does():
    assert labels_for([1, 2, 4, 8], [0.1, 0.5, 0.4, 0.6], 0.5) == pytest.approx(2)
    assert labels_for([1, 2, 4, 8], [0.1, 0.5, 0.4, 0.6], 0.55) == pytest.approx(4 * 2**0.75)


def test_how_many_times_fewer_labels_and_where_scratch_catches_up():
    found = labels_saved(rows([0.5, 0.7, 0.74], [0.3, 0.6, 0.8]))
    assert found["times_fewer"] == {
        1: pytest.approx(10 ** (2 / 3)),
        10: pytest.approx(10**0.5),
        100: pytest.approx(10 ** (1.7 - 2)),
    }
    assert found["crossing"] == pytest.approx(10 ** (1 + 0.1 / 0.16))


def test_what_a_curve_does_not_contain_is_none():
    found = labels_saved(rows([0.5, 0.9, 0.95], [0.3, 0.6, 0.8]))
    assert found["times_fewer"] == {1: pytest.approx(10 ** (2 / 3)), 10: None, 100: None}
    assert found["crossing"] is None
    below = labels_saved(rows([0.1, 0.2, 0.3], [0.3, 0.6, 0.8]))
    assert below == {"times_fewer": {1: None, 10: None, 100: pytest.approx(0.01)}, "crossing": 1.0}


def test_the_crossing_is_the_last_one():
    """From scratch is ahead at 1, behind at 10 and ahead again at 100."""
    assert labels_saved(rows([0.2, 0.6, 0.7], [0.3, 0.5, 0.8]))["crossing"] == pytest.approx(10**1.5)
    assert labels_saved(rows([0.2, 0.6, 0.7], [0.3, 0.5, 0.6]))["crossing"] is None
    assert labels_saved(rows([0.2, 0.6, 0.7], [0.1, 0.5, 0.7]))["crossing"] == pytest.approx(100)


def test_a_curve_is_few_labels_at_each_count_that_the_data_has(monkeypatch):
    seen = []

    def semi_supervised(*args, per_class, **kwargs):
        seen.append((args, per_class, kwargs))
        return {"labels": 10 * per_class}

    monkeypatch.setattr(curve, "semi_supervised", semi_supervised)
    train, test = data.load("digits", "train"), data.load("digits", "test")
    smallest = int(np.bincount(train.labels).min())
    found = label_curve(ENCODER, 1, 2, train, test, counts=(30, smallest + 1, 1), trials=2, seed=3)
    assert found == [{"labels_per_class": 1, "labels": 10}, {"labels_per_class": 30, "labels": 300}]
    assert [call[1:] for call in seen] == [(1, {"trials": 2, "seed": 3}), (30, {"trials": 2, "seed": 3})]
    assert seen[0][0] == (ENCODER, 1, 2, train, test)
    with pytest.raises(
        UserError, match=rf"smallest class has {smallest} examples, fewer than any of the counts \[500\]"
    ):
        label_curve(ENCODER, 1, 2, train, test, counts=[500])
    with pytest.raises(UserError, match="has no labels"):
        label_curve(ENCODER, 1, 2, data.from_arrays(train[np.arange(9)]["image"]), test)
