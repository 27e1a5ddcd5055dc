import jax
import jax.numpy as jnp
import networks
import numpy as np
import pytest
from values import assert_close

from ssl_jax import experiment, methods
from ssl_jax.configs import memory_bank as config
from ssl_jax.core import UserError
from ssl_jax.data import from_arrays
from ssl_jax.losses import forms

EXAMPLES, KEY = 30, jax.random.key(1)


def build(**arguments):
    sizes = {"examples": EXAMPLES, "dim": 5, "noise": 8, "temperature": 0.3}
    return methods.memory_bank(networks.Tiny(), **{**sizes, **arguments})


def some(views, ids=(3, 29, 0, 7, 11, 12)):
    """A batch of the rows `ids` of the data."""
    return {**networks.batch(examples=len(ids), views=views), "id": jnp.asarray(ids, jnp.int32)}


def numpy_features(params, batch):
    """Unit features `[b v d]`, with statistics over all views."""
    views = np.asarray(batch["views"])
    pooled = networks.encode(params["encoder"], views.reshape(-1, *views.shape[2:]))
    return networks.unit(networks.head(params["projector"], pooled, (False,))).reshape(*views.shape[:2], -1)


@pytest.mark.parametrize("views", [1, 2])
def test_softmax_over_all_slots(views):
    """Equation 2, and a slot that moves half way to the mean feature of its image."""
    method, batch = build(noise=None, momentum=0.5), some(views)
    params, carry = networks.start(method, views=views)
    slots = np.asarray(carry.memory["slots"], np.float64)
    value, (after, metrics) = jax.jit(method.loss)(params, carry, batch, jax.random.key(1), networks.ZERO)
    features, ids, terms = numpy_features(params, batch), np.asarray(batch["id"]), []
    for row, own in zip(features, ids, strict=True):
        for feature in row:
            scores = slots @ feature / 0.3
            terms.append(np.log(np.exp(scores).sum()) - scores[own])
    assert_close(value, np.mean(terms), 1e-5)
    assert_close(metrics["own_similarity"], np.einsum("bvd,bd->bv", features, slots[ids]).mean(), 1e-5)
    assert_close(metrics["embedding"], features[:, 0], 1e-5)
    assert sorted(after.memory) == ["slots"]
    slots[ids] = networks.unit(0.5 * slots[ids] + 0.5 * features.mean(axis=1))
    assert_close(after.memory["slots"], slots, 1e-5)


def test_the_softmax_in_tiles_is_the_same(monkeypatch):
    """Value and gradient over 600 slots, in tiles of 256."""
    method, batch = build(noise=None, examples=600), some(1)
    params, carry = networks.start(method, views=1)
    both = lambda: jax.jit(jax.value_and_grad(lambda p: method.loss(p, carry, batch, KEY, networks.ZERO)[0]))  # noqa: E731
    assert "f32[6,600]" in both().lower(params).as_text("hlo")
    expected = both()(params)
    monkeypatch.setattr(forms, "DENSE_LOGITS", 6 * 600 - 1)
    monkeypatch.setattr(forms, "TILE_SCORES", 1)
    assert "f32[6,600]" not in both().lower(params).as_text("hlo")
    for one, other in zip(*map(jax.tree.leaves, (both()(params), expected)), strict=True):
        assert_close(one, other, 1e-5)


def test_noise_contrastive_loss_and_its_constant():
    """Equations 4 to 7; Z is the first batch's estimate from then on."""
    method, batch = build(), some(1)
    params, carry = networks.start(method, views=1)
    loss, rng, known = jax.jit(method.loss), jax.random.key(1), None
    for _ in range(3):
        slots = np.asarray(carry.memory["slots"], np.float64)
        value, (carry, _) = loss(params, carry, batch, rng, networks.ZERO)
        drawn = jax.random.randint(jax.random.split(rng)[1], (6, 8), 0, EXAMPLES)
        features = numpy_features(params, batch)[:, 0]
        own = np.exp(np.sum(slots[np.asarray(batch["id"])] * features, axis=1) / 0.3)
        noise = np.exp(np.einsum("bmd,bd->bm", slots[np.asarray(drawn)], features) / 0.3)
        if known is None:
            known = EXAMPLES * np.mean(np.concatenate([own[:, None], noise], axis=1))
        posterior = lambda p, z=known: (p / z) / (p / z + 8 / EXAMPLES)  # noqa: E731
        expected = np.mean(-np.log(posterior(own)) - np.log(1 - posterior(noise)).sum(axis=1))
        assert_close(value, expected, 1e-5)
        np.testing.assert_allclose(np.exp(carry.memory["log_normalizer"]), known, rtol=1e-5)
        batch, rng = some(1, ids=(5, 8, 3, 1, 2, 29)), jax.random.fold_in(rng, 0)


def test_noise_estimates_the_softmaxs_gradient():
    """With many draws and Z = the true sum, noise contrast follows the gradient of the exact softmax."""
    batch = some(1)
    gradients = []
    for noise in (None, 4000):
        method = build(noise=noise)
        params, carry = networks.start(method, views=1)
        if noise:
            features = numpy_features(params, batch)[:, 0]
            sums = np.exp(features @ np.asarray(carry.memory["slots"], np.float64).T / 0.3).sum(axis=1)
            constant = jnp.asarray(np.log(sums.mean()), jnp.float32)
            carry = carry.replace(memory={**carry.memory, "log_normalizer": constant})
        gradient = jax.jit(
            jax.grad(lambda p, m=method, c=carry: m.loss(p, c, batch, jax.random.key(1), networks.ZERO)[0])
        )
        gradients.append(np.asarray(gradient(params)["projector"]["dense0"]["kernel"]).ravel())
    cosine = gradients[0] @ gradients[1] / np.linalg.norm(gradients[0]) / np.linalg.norm(gradients[1])
    assert cosine > 0.95


def test_of_an_image_that_comes_twice_the_last_feature_stays():
    method, batch = build(noise=None), some(1, ids=(4, 9, 4, 2, 9, 4))
    params, carry = networks.start(method, views=1)
    _, (after, _) = jax.jit(method.loss)(params, carry, batch, jax.random.key(1), networks.ZERO)
    slots, features = np.asarray(carry.memory["slots"], np.float64), numpy_features(params, batch)[:, 0]
    expected = slots.copy()
    for row, own in enumerate(np.asarray(batch["id"])):
        expected[own] = networks.unit((slots[own] + features[row])[None] / 2)[0]
    assert_close(after.memory["slots"], expected, 1e-5)


@pytest.mark.parametrize("noise", [None, 8])
def test_no_gradient_reaches_the_slots(noise):
    method, batch = build(noise=noise), some(1)
    params, carry = networks.start(method, views=1)

    def loss(params, slots):
        full = carry.replace(memory={**carry.memory, "slots": slots})
        value, (after, _) = method.loss(params, full, batch, jax.random.key(1), networks.ZERO)
        return value, after.memory

    arguments = (params, carry.memory["slots"])
    own, slots = jax.jit(jax.grad(lambda *a: loss(*a)[0], argnums=(0, 1)))(*arguments)
    assert all(np.any(leaf) for leaf in jax.tree.leaves(own) if leaf.ndim > 1)
    assert not np.any(slots)
    stored = jax.jit(jax.grad(lambda *a: sum(jnp.sum(x**3) for x in jax.tree.leaves(loss(*a)[1]))))(*arguments)
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(stored))


def test_the_number_of_slots_is_the_datas():
    source = from_arrays(np.zeros((130, 8, 8, 1), np.uint8))
    method = experiment.build_method(config.get_config("test"), source, steps=10)
    _, carry = jax.eval_shape(method.init, jax.random.key(0), {"views": jnp.zeros((2, 1, 8, 8, 1))})
    assert carry.memory["slots"].shape == (130, 16)


def test_a_softmax_that_stays_at_chance_raises_an_alarm():
    warn = build(noise=None).warn
    assert "a guess among 30" in warn({"step": 500.0, "loss": float(np.log(30))})
    assert warn({"step": 500.0, "loss": 2.0}) is None
    assert build().warn({"step": 500.0, "loss": float(np.log(30))}) is None


def test_a_batch_without_ids_is_an_error():
    method = build()
    params, carry = networks.start(method, views=1)
    with pytest.raises(UserError, match='holds no "id"'):
        method.loss(params, carry, {"views": some(1)["views"]}, jax.random.key(0), networks.ZERO)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"examples": 0}, "`examples` must be above 0, but is 0"),
        ({"dim": 0}, "`dim` must be above 0"),
        ({"noise": 0}, "`noise` must be above 0"),
        ({"temperature": 0.0}, "`temperature` must be above 0"),
        ({"momentum": 1.5}, r"momentum in 0\.\.1, but was given 1.5"),
    ],
)
def test_impossible_settings_are_refused_when_the_method_is_built(arguments, message):
    with pytest.raises(UserError, match=message):
        build(**arguments)
