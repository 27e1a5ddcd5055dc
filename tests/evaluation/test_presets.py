import dataclasses

import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sklearn.linear_model import LogisticRegression
from values import assert_close

from ssl_jax import data
from ssl_jax.checks import check_labels
from ssl_jax.core import UserError
from ssl_jax.evaluation import PROBES, linear_probe_preset
from ssl_jax.evaluation.presets import fit_recipe, rate_schedule


def digits(split, count=None):
    source = data.load("digits", split)
    images = source[np.arange(len(source))]["image"]
    return (images.reshape(len(images), -1) / 255).astype(np.float32)[:count], source.labels[:count]


def softmax(z):
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def by_hand(x, y, rates, *, weight, batch, nesterov=False, lars=False, seed=0):
    """Torch's SGD with momentum 0.9 (and the trust ratio of LARS on the weights) in float64, one rate per step."""
    w, b = weight.astype(np.float64), np.zeros(weight.shape[1])
    vw, vb, step = np.zeros_like(w), np.zeros_like(b), 0
    for epoch in range(len(rates) // (len(x) // batch)):
        order = np.random.default_rng((seed, epoch)).permutation(len(x))
        for i in range(len(x) // batch):
            rows = order[i * batch : (i + 1) * batch]
            residual = (softmax(x[rows] @ w + b) - np.eye(len(b))[y[rows]]) / batch
            gw, gb, rate = x[rows].T @ residual, residual.sum(axis=0), rates[step]
            if lars:  # apex' LARC scales the gradient that SGD is given
                gw = 1e-3 * np.linalg.norm(w) / np.linalg.norm(gw) * gw
            vw, vb = 0.9 * vw + gw, 0.9 * vb + gb
            w = w - rate * (gw + 0.9 * vw if nesterov else vw)
            b = b - rate * (gb + 0.9 * vb if nesterov else vb)
            step += 1
    return w, b


@pytest.mark.parametrize("name", sorted(PROBES))
def test_a_preset_is_its_papers_optimizer_and_schedule(name):
    """In float64 by hand on few rows, the schedule as the authors' code has it, but over 10 epochs of 3 steps."""
    rng = np.random.default_rng(1)
    x, y = (0.2 * rng.normal(size=(60, 5))).astype(np.float32), rng.integers(0, 3, 60).astype(np.int32)
    recipe = dataclasses.replace(PROBES[name], batch_size=20)
    epoch, step = np.repeat(np.arange(10), 3), np.arange(30)
    cosine = lambda share: 0.5 * (1 + np.cos(np.pi * share))  # noqa: E731
    rates = {
        "moco": 30 * 0.1 ** (1.0 * (epoch >= 6) + (epoch >= 8)),
        "simsiam": 0.1 * 20 / 256 * cosine(epoch / 10),
        "dino": 0.001 * 20 / 256 * cosine(epoch / 10),
        "byol": 0.2 * 20 / 256 * cosine(step / 30),
        "simclr": 0.1 * 20 / 256 * cosine(step / 30),
        "obow": 10 * cosine(epoch / 10),
    }[name]
    weight = recipe.init_std * np.random.default_rng(0).normal(size=(5, 3))
    nesterov = name in ("byol", "simclr")
    w, b = by_hand(x, y, rates, weight=weight, batch=20, nesterov=nesterov, lars=name == "simsiam")
    params = fit_recipe(x, y, recipe, classes=3, epochs=10)
    assert_close(params["weight"], w, 1e-4)
    assert_close(params["bias"], b, 1e-4)


def test_published_numbers():
    assert {n: (r.rate, r.batch_size, r.epochs) for n, r in PROBES.items()} == {
        "moco": (30.0, 256, 100),
        "simsiam": (0.1, 4096, 90),
        "dino": (0.001, 1024, 100),
        "byol": (0.2, 1024, 80),
        "simclr": (0.1, 4096, 90),
        "obow": (10.0, 1024, 100),
    }
    for name, peak in (("moco", 30.0), ("simsiam", 1.6), ("dino", 0.004), ("byol", 0.8), ("simclr", 1.6), ("obow", 10)):
        recipe = PROBES[name]
        rate = rate_schedule(recipe, batch_size=recipe.batch_size, steps_per_epoch=7, epochs=recipe.epochs)
        assert float(rate(jnp.zeros((), jnp.int32))) == pytest.approx(peak)


@pytest.mark.parametrize(("name", "scale"), [("moco", 0.3), ("obow", 0.3), ("byol", 8.0), ("simclr", 4.0)])
def test_presets_score_near_logistic_regression(name, scale):
    """Pixels of digits on two scales: the rates of MoCo and OBoW are for features whose norm is about 1."""
    (x, y), (u, v) = digits("train"), digits("test")
    best = max(LogisticRegression(C=c, max_iter=2000).fit(x, y).score(u, v) for c in (0.1, 1, 10))
    found = linear_probe_preset(scale * x, y, scale * u, v, preset=name)
    assert found["accuracy"] > best - 0.02
    assert found == linear_probe_preset(scale * x, y, scale * u, v, preset=name)
    assert (found["preset"], found["epochs"]) == (name, PROBES[name].epochs)
    assert found["batch_size"] == min(PROBES[name].batch_size, len(x))


def test_unknown_presets_and_divergence_are_errors():
    x, y = digits("test", 60)
    with pytest.raises(UserError, match=r"Unknown preset 'mocov9' .* moco, simsiam, dino, byol, simclr, obow"):
        linear_probe_preset(x, y, x, y, preset="mocov9")
    with pytest.raises(UserError, match="'moco' diverged: its learning rate is too high"):
        linear_probe_preset(x * np.float32(1e20), y, x, y, preset="moco", epochs=5)
    with pytest.raises(UserError, match="NaN or infinity"):
        linear_probe_preset(x * np.float32("nan"), y, x, y, preset="moco")
    with pytest.raises(UserError, match="60 rows of features but 59 labels"):  # shapes are checked only in tests
        check_labels(x, y[1:])
    with pytest.raises(UserError, match="numbered from 0, but a label is -1"):
        linear_probe_preset(x, y - 1, x, y, preset="moco")
    with pytest.raises(UserError, match="`epochs` must be above 0"):
        linear_probe_preset(x, y, x, y, preset="moco", epochs=0)


def test_the_optimizers_step_is_optaxs():
    """A guard on what the hand-made reference assumes: optax's trace is torch's momentum."""
    tx = optax.sgd(1.0, momentum=0.9, nesterov=True)
    state, total = tx.init(np.zeros(1, np.float32)), []
    for g in (1.0, 2.0):
        update, state = tx.update(np.asarray([g], np.float32), state)
        total.append(-float(update[0]))
    assert total == pytest.approx([1 + 0.9 * 1, 2 + 0.9 * 2.9])
