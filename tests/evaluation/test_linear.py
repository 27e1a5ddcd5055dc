import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from values import assert_close

from ssl_jax import data
from ssl_jax.core import UserError
from ssl_jax.evaluation import few_labels, fit_linear, linear, linear_probe
from ssl_jax.evaluation.linear import accuracies, standardize


def digits(*splits):
    """Raw pixels in 0..1 and labels."""
    sources = [data.load("digits", split) for split in splits]
    images = np.concatenate([source[np.arange(len(source))]["image"] for source in sources])
    return (images.reshape(len(images), -1) / 255).astype(np.float32), np.concatenate([s.labels for s in sources])


def fit_stored(fixture, batch_size):
    data = fixture("linear_probe")
    init = {"weight": jnp.asarray(data["init/weight"].T)[None], "bias": jnp.zeros((1, 10), jnp.float32)}
    labels = data["labels"].astype(np.int32)
    params, losses = fit_linear(
        data["features"], labels, [(0.1, 0.0)], classes=10, epochs=20, batch_size=batch_size, init=init
    )
    return data, params, losses


@pytest.mark.parametrize("batch_size", [120, 1024])
def test_twenty_steps_equal_torchs_with_dinos_arguments(fixture, batch_size):
    """SGD with momentum and a cosine per epoch; a batch of all rows is one step."""
    data, params, losses = fit_stored(fixture, batch_size)
    weight, bias = params["weight"][0], params["bias"][0]
    assert_close(losses[:, 0], data["losses"])
    assert_close(weight.T, data["final/weight"])
    assert_close(bias, data["final/bias"])
    assert_close(data["features"] @ np.asarray(weight) + np.asarray(bias), data["final/logits"])
    top1 = accuracies(params, data["features"], data["labels"].astype(np.int32))
    assert_close(100 * top1[0], data["final/top1"], 1e-6)


def test_settings_trained_together_equal_those_trained_alone():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(50, 6)).astype(np.float32), rng.integers(0, 3, 50).astype(np.int32)
    settings = [(0.1, 0.0), (0.3, 0.1), (0.01, 1.0)]
    together, losses = fit_linear(x, y, settings, classes=3, epochs=4, batch_size=20)
    assert losses.shape == (8, 3)  # two whole batches of 20 a pass
    for i, setting in enumerate(settings):
        alone, loss = fit_linear(x, y, [setting], classes=3, epochs=4, batch_size=20)
        assert_close(losses[:, i], loss[:, 0], 1e-6)
        for name in alone:
            assert_close(together[name][i], alone[name][0], 1e-5)


def test_a_penalty_is_torchs_weight_decay_on_weights_only():
    """One step from given weights, by hand: w - rate * (gradient + penalty * w), the bias without decay."""
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(20, 4)).astype(np.float32), rng.integers(0, 3, 20).astype(np.int32)
    w, b = rng.normal(size=(4, 3)).astype(np.float32), rng.normal(size=3).astype(np.float32)
    params, losses = fit_linear(
        x, y, [(0.5, 0.2)], classes=3, epochs=1, init={"weight": jnp.asarray(w)[None], "bias": jnp.asarray(b)[None]}
    )
    logits = x.astype(np.float64) @ w + b
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    assert_close(losses[0, 0], -np.log(p[np.arange(20), y]).mean())
    residual = (p - np.eye(3)[y]) / 20
    assert_close(params["weight"][0], w - 0.5 * (x.T @ residual + 0.2 * w))
    assert_close(params["bias"][0], b - 0.5 * residual.sum(axis=0))


def test_standardised_features_have_mean_zero_and_deviation_one_and_constants_vanish():
    rng = np.random.default_rng(2)
    train = (rng.normal(size=(5000, 4)) * [1.0, 50.0, 0.01, 1.0] + [0.0, 1e3, 5.0, 0.0]).astype(np.float32)
    train[:, 3] = 0.1  # sums of 0.1 in float32 drift: its mean is not 0.1
    test = train[:7] + np.float32(1)
    out, other = standardize(train, test)
    assert out.dtype == other.dtype == np.float32
    np.testing.assert_allclose(out[:, :3].mean(axis=0, dtype=np.float64), 0.0, atol=1e-3)
    np.testing.assert_allclose(out[:, :3].std(axis=0, dtype=np.float64), 1.0, atol=1e-4)
    np.testing.assert_array_equal(out[:, 3], 0.0)
    np.testing.assert_array_equal(other[:, 3], 0.0)
    mean, std = (f(train[:, :2].astype(np.float64), axis=0) for f in (np.mean, np.std))
    np.testing.assert_allclose(other[:, :2], (test[:, :2] - mean) / std, rtol=1e-3, atol=1e-3)
    np.testing.assert_array_equal(standardize(np.full((6, 3), 3.0, np.float32))[0], 0.0)


def test_the_probe_is_as_good_as_logistic_regression_at_its_best_penalty():
    """Raw pixels of digits, mean of three splits: within 0.3 points, though the penalty there is chosen on the test."""
    images, labels = digits("train", "test")
    orders = [np.arange(1797), *(np.random.default_rng(i).permutation(1797) for i in (1, 2))]
    probe, reference = [], []
    for order in orders:
        a, b = order[:1260], order[1260:]
        probe.append(linear_probe(images[a], labels[a], images[b], labels[b])["accuracy"])
        scale = StandardScaler().fit(images[a])
        x, test = scale.transform(images[a]), scale.transform(images[b])
        scores = [LogisticRegression(C=c, max_iter=3000).fit(x, labels[a]).score(test, labels[b]) for c in (0.1, 1, 10)]
        reference.append(scores)
    best = np.mean(reference, axis=0).max()
    assert best > 0.96
    assert np.mean(probe) > best - 0.003


def test_few_rows_of_many_features_get_penalties_that_suit_them():
    """300 digits through a random layer of 256, mean of two draws: chosen once on 30 rows it was two points below."""
    pixels, labels = digits("train", "test")
    weight = np.random.default_rng(0).normal(size=(pixels.shape[1], 256)) / 8
    images = np.maximum((pixels - 0.3) @ weight, 0).astype(np.float32)
    probe, reference = [], []
    for draw in range(2):
        order = np.random.default_rng(draw).permutation(len(images))
        a, b = order[:300], order[300:]
        probe.append(linear_probe(images[a], labels[a], images[b], labels[b])["accuracy"])
        x, test = linear.standardize(images[a], images[b])
        costs = (0.01, 0.1, 1)
        reference.append(
            [LogisticRegression(C=c, max_iter=1000).fit(x, labels[a]).score(test, labels[b]) for c in costs]
        )
    best = np.mean(reference, axis=0).max()
    assert best > 0.94
    assert np.mean(probe) > best - 0.003


@pytest.mark.parametrize(
    ("n", "held_out", "count", "size"),
    [
        (60_000, 0.1, 1, 6000),
        (10_000, 0.1, 1, 1000),
        (9_990, 0.1, 2, 999),
        (300, 0.1, 5, 60),
        (2, 0.1, 2, 1),
        (9, 0.9, 1, 8),
    ],
)
def test_rows_to_choose_on(n, held_out, count, size):
    """One tenth of a large set; of a small one as many different tenths as make a thousand rows, or all."""
    parts = linear.held_out_parts(n, held_out, 0)
    assert [len(chosen) for _, chosen in parts] == count * [size]
    assert len(set(np.concatenate([chosen for _, chosen in parts]))) == count * size
    for rest, chosen in parts:
        np.testing.assert_array_equal(np.sort(np.concatenate([rest, chosen])), np.arange(n))


def test_of_settings_that_few_rows_cannot_tell_apart_the_most_certain_is_chosen():
    accuracy, cross_entropy = np.array([0.90, 0.895, 0.85, 0.90]), np.array([0.5, 0.3, 0.1, np.nan])
    assert linear.most_certain_of_the_best(accuracy, cross_entropy, 1000) == 1
    assert linear.most_certain_of_the_best(accuracy, cross_entropy, 10**6) == 0
    assert linear.most_certain_of_the_best(accuracy, cross_entropy, 20) == 2


def test_the_probe_is_the_same_each_time_and_uses_only_what_it_says():
    (x, y), (u, v) = digits("train"), digits("test")
    x, y = x[:300], y[:300]
    first = linear_probe(x, y, u, v, seed=1)
    assert first == linear_probe(x, y, u, v, seed=1)
    other = linear_probe(x, y, u, 9 - v, seed=1)  # test labels are for the score, not for the choice
    assert {**first, "accuracy": None} == {**other, "accuracy": None}
    assert other["accuracy"] < 0.2 < first["accuracy"]


@pytest.mark.parametrize(
    "make",
    [
        lambda x: x * 0,
        lambda x: x * 0 + 1e30,
        lambda x: x * np.float32(1e30),
        lambda x: x * np.float32(1e-30),
        lambda x: np.repeat(x[:, :1], 5, axis=1),
        lambda x: x[:, :1],
    ],
)
def test_the_probe_never_returns_nan(make):
    (x, y), (u, v) = digits("train"), digits("test")
    x, y, u, v = make(x[:60]).astype(np.float32), y[:60], make(u[:40]).astype(np.float32), v[:40]
    found = linear_probe(x, y, u, v, rates=(0.1, 1e4), epochs=2)
    assert all(np.isfinite(value) for value in found.values())
    assert 0 <= found["accuracy"] <= 1
    assert np.isfinite(few_labels(x, y, u, v, per_class=1, trials=2, steps=5)).all()


def test_features_are_checked():
    x, y = np.eye(4, dtype=np.float32), np.arange(4, dtype=np.int32)
    for bad in (np.nan, np.inf):
        wrong = np.where(np.eye(4) > 0, np.float32(bad), np.float32(0)).astype(np.float32)
        for train, test in ((wrong, x), (x, wrong)):
            with pytest.raises(UserError, match="NaN or infinity"):
                linear_probe(train, y, test, y)
            with pytest.raises(UserError, match="NaN or infinity"):
                few_labels(train, y, test, y, per_class=1)
    with pytest.raises(UserError, match="at least two training examples"):
        linear_probe(x[:1], y[:1], x, y)
    with pytest.raises(UserError, match="a split is empty"):
        linear_probe(x, y, x[:0], y[:0])


def test_few_labels_are_deterministic_balanced_and_better_with_more():
    (x, y), (u, v) = digits("train"), digits("test")
    draw = lambda count, **kwargs: few_labels(x, y, u, v, per_class=count, **kwargs)  # noqa: E731
    first = draw(1, trials=3)
    assert len(first) == len(set(first)) == 3  # a draw of its own per trial
    assert first == draw(1, trials=3)
    assert first[:2] == draw(1, trials=2)  # trials do not depend on how many there are
    assert first != draw(1, trials=3, seed=1)
    assert np.mean(first) < np.mean(draw(10, trials=3)) < np.mean(draw(60, trials=3))


def test_few_labels_are_drawn_alike_for_all_features():
    """The same features in another order, scale and place are another table with the same accuracies."""
    (x, y), (u, v) = digits("train"), digits("test")
    move = lambda features: 8 * features[:, ::-1] - 1  # noqa: E731
    first, second = (few_labels(a, y, b, v, per_class=3, trials=4) for a, b in ((x, u), (move(x), move(u))))
    np.testing.assert_allclose(first, second, atol=0.004)  # two of 537 images may round to the other side
    assert max(first) - min(first) > 0.01


def test_more_labels_than_a_class_has_is_an_error_that_names_it():
    x, y = np.ones((5, 2), np.float32), np.asarray([0, 0, 0, 1, 1], np.int32)
    with pytest.raises(UserError, match="Class 1 has 2 training examples, fewer than the 3 asked for"):
        few_labels(x, y, x, y, per_class=3)
    with pytest.raises(UserError, match="`per_class` must be above 0"):
        few_labels(x, y, x, y, per_class=0)
