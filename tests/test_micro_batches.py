"""Batches in parts: the whole batch's loss and gradient, memory of a part, the same on any number of devices."""

import functools
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import recipes
from networks import ZERO, Tiny
from values import assert_close

from ssl_jax import gradient_accumulation, gradient_caching, init_state, make_train_step, methods, nets
from ssl_jax.core import UserError
from ssl_jax.experiment import build
from ssl_jax.nets import functional
from ssl_jax.nets.parts import Parts, encoding_in_parts
from ssl_jax.sharding import data_mesh, put

KEY = jax.random.key(3)


class Apart(nn.Module):
    """An encoder in which no example sees another."""

    dtype: jnp.dtype = jnp.float64

    @nn.compact
    def __call__(self, image, train):
        x = nn.Dense(6, dtype=self.dtype)(image.mean((1, 2)))
        return nets.ImageNorm(dtype=self.dtype)(x), {"dense": x}


WHOLE = {
    "simclr": (lambda: methods.simclr(Apart(), dim=4), 2),
    "byol": (lambda: methods.byol(Apart(), hidden=8, dim=4), 2),
    "moco": (lambda: methods.moco(Apart(), dim=4, queue_size=20), 2),
    "dino": (lambda: methods.dino(Apart(), prototypes=6, hidden=8, bottleneck=4), (2, 3)),
    "mae": (lambda: methods.mae(nets.ViT(2, 8, 1, 2, dtype=jnp.float64), dim=8, depth=1, heads=2), 1),
}


def batch_of(views, examples=12, dtype=np.float64):
    rng = np.random.default_rng(0)
    draw = lambda v, size: jnp.asarray(rng.normal(size=(examples, v, size, size, 3)), dtype)  # noqa: E731
    made = draw(views, 4) if isinstance(views, int) else tuple(draw(v, s) for v, s in zip(views, (4, 2), strict=True))
    return {"views": made, "id": jnp.arange(examples, dtype=jnp.int32)}


def widen(tree):
    """Floats in float64, but for running statistics, which stay in float32 whatever the dtype."""

    def leaf(path, x):
        wide = jnp.issubdtype(x.dtype, jnp.floating) and "batch_stats" not in jax.tree_util.keystr(path)
        return x.astype(jnp.float64) if wide else x

    return jax.tree.map_with_path(leaf, tree)


def assert_trees_close(a, b, tolerance):
    """By leaf; what is zero but for rounding is compared with the largest entry of all."""
    largest = max(float(np.abs(x).max()) for x in jax.tree.leaves(b)) if jax.tree.leaves(b) else 0.0
    for (path, x), y in zip(jax.tree.leaves_with_path(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, rtol=0, atol=tolerance * largest, err_msg=jax.tree_util.keystr(path))


def differentiated(method):
    """`(params, carry, batch) -> ((loss, (carry, metrics)), gradient)`."""
    run = lambda *args: jax.value_and_grad(method.loss, has_aux=True)(*args, KEY, ZERO)  # noqa: E731
    return jax.jit(run)


@pytest.mark.parametrize("name", WHOLE)
def test_cached_gradients_are_those_of_the_whole_batch(name):
    """Loss, gradient, metrics (features in the batch's order) and what is remembered."""
    make, views = WHOLE[name]
    with jax.enable_x64(True):
        method, batch = make(), batch_of(views)
        params, carry = widen(jax.jit(method.init)(KEY, batch))
        expected = differentiated(method)(params, carry, batch)
        found = differentiated(gradient_caching(method, 3))(params, carry, batch)
        ((value, (after, metrics)), gradient), ((known, (then, seen)), slope) = found, expected
        assert_trees_close((value, metrics, gradient), (known, seen, slope), 1e-12)
        assert_trees_close(after, then, 1e-6)


def test_with_batch_norm_the_encoder_sees_each_part_by_itself():
    """Part j has every third example from the j-th on with both views; the running statistics take the mean."""
    image = batch_of(2, dtype=np.float32)["views"].reshape(-1, 4, 4, 3)
    params, state = functional.init(Tiny(), KEY, image)
    with encoding_in_parts(Parts(3, 12)):
        pooled, _, after = functional.encode(Tiny(), params, state, image, train=True)
        still = functional.encode(Tiny(), params, state, image, train=False)[2]
    assert still is state
    pairs, alone = image.reshape(12, 2, 4, 4, 3), []
    for part in range(3):
        rows = pairs[part::3].reshape(-1, 4, 4, 3)
        features, _, statistics = functional.encode(Tiny(), params, state, rows, train=True)
        assert_close(pooled.reshape(12, 2, -1)[part::3], features.reshape(4, 2, -1), 1e-6)
        alone.append(statistics)
    assert_trees_close(after, jax.tree.map(lambda *x: sum(x) / 3, *alone), 1e-6)


@pytest.mark.parametrize("wrap", [gradient_caching, gradient_accumulation])
def test_one_device_or_eight_and_every_device_works_on_its_own_rows(wrap):
    """With a batch norm in the encoder; nothing of the images is sent, gathered or exchanged."""
    method, found = wrap(methods.simclr(Tiny(), dim=4), 3, **({"forced": True} if wrap != gradient_caching else {})), []
    for devices in (1, 8):
        mesh = data_mesh(jax.devices()[:devices])
        batch = put(jax.tree.map(np.asarray, batch_of(2, examples=48, dtype=np.float32)), mesh)
        state = init_state(method, optax.sgd(0.1), batch, mesh=mesh)
        compiled = make_train_step(method, optax.sgd(0.1), mesh=mesh).lower(state, batch).compile()
        state, metrics = compiled(state, batch)
        found.append(jax.device_get({"params": state.params, "carry": state.carry, "metrics": metrics}))
    assert_trees_close(found[1], found[0], 1e-6)
    sent = [
        line for line in compiled.as_text().splitlines() if re.search(r" (all-gather|all-to-all|collective-)", line)
    ]
    assert not [line for line in sent if "4,4,3]" in line]


def test_a_config_says_how_many():
    """Seen by the batches that its method refuses."""
    for accumulate in ("no", "yes", "forced"):
        parts = build(recipes.config("rotation", micro_batches=5, accumulate=accumulate))
        view = jax.ShapeDtypeStruct((24, 1, 8, 8, 1), jnp.float32)
        params, carry = jax.eval_shape(parts.method.init, KEY, {"views": view})
        with pytest.raises(UserError, match="batch of 24 does not fall into 5"):
            jax.eval_shape(parts.method.loss, params, carry, {"views": view}, KEY, ZERO)
    with pytest.raises(UserError, match="simclr is not a mean over examples"):
        build(recipes.config("simclr", micro_batches=2, accumulate="yes"))
    with pytest.raises(UserError, match="no, yes or forced"):
        build(recipes.config("simclr", micro_batches=2, accumulate="maybe"))


def test_memory_is_that_of_a_micro_batch():
    """SimCLR on eight times the batch in eight parts."""

    def temporary(examples, count):
        batch = put({"views": np.zeros((examples, 2, 16, 16, 3), np.float32)}, data_mesh(jax.devices()[:1]))
        method = methods.simclr(nets.create("convnet", widths=(16, 32)), dim=16)
        state = init_state(method, optax.sgd(0.1), batch, mesh=data_mesh(jax.devices()[:1]))
        step = make_train_step(gradient_caching(method, count), optax.sgd(0.1), mesh=data_mesh(jax.devices()[:1]))
        return step.lower(state, batch).compile().memory_analysis().temp_size_in_bytes

    one, eight = temporary(32, 1), temporary(256, 8)
    assert eight < 1.3 * one


def test_accumulation_is_the_mean_of_the_micro_batches_losses():
    """Of BYOL, whose heads have batch norms: what is remembered goes from one micro-batch to the next."""
    method, batch = methods.byol(Tiny(), hidden=8, dim=4), batch_of(2, dtype=np.float32)
    params, carry = jax.jit(method.init)(KEY, batch)
    found = differentiated(gradient_accumulation(method, 3))(params, carry, batch)
    losses, gradients, features = [], [], np.zeros((12, 6), np.float32)
    for part in range(3):
        mine = {name: x[part::3] for name, x in batch.items()}
        run = jax.jit(functools.partial(jax.value_and_grad(method.loss, has_aux=True), step=ZERO))
        (loss, (carry, metrics)), gradient = run(params, carry, mine, jax.random.fold_in(KEY, part))
        losses.append(loss)
        gradients.append(gradient)
        features[part::3] = metrics["features"]
    (value, (after, metrics)), gradient = found
    assert_close(value, np.mean(losses), 1e-6)
    assert_trees_close(gradient, jax.tree.map(lambda *x: sum(x) / 3, *gradients), 1e-6)
    assert_trees_close(after, carry, 1e-6)
    assert_close(metrics["features"], features, 1e-6)


def test_accumulation_of_a_mean_over_examples_is_the_whole_batch():
    with jax.enable_x64(True):
        method, batch = methods.rotation(Apart()), batch_of(1)
        params, carry = widen(jax.jit(method.init)(KEY, batch))
        expected = differentiated(method)(params, carry, batch)
        assert_trees_close(differentiated(gradient_accumulation(method, 4))(params, carry, batch), expected, 1e-12)


def test_accumulation_is_refused_where_it_is_another_loss():
    tiny = Tiny()
    others = [methods.simclr, methods.moco, methods.moco_v3, methods.nnclr, methods.dino, methods.barlow_twins]
    for make in [*others, methods.vicreg, methods.swav]:
        with pytest.raises(UserError, match="gradient_caching"):
            gradient_accumulation(make(tiny), 2)
        assert gradient_accumulation(make(tiny), 2, forced=True).name == make.__name__
    random_holes, central = (methods.autoencoder(tiny, hole=hole, hole_share=0.2) for hole in ("random", "central"))
    assert central.separable
    assert not random_holes.separable
    alone, mixed, cut = (methods.supervised(tiny, classes=3, **how) for how in ({}, {"mixup": 0.2}, {"cutmix": 0.5}))
    assert [method.separable for method in (alone, mixed, cut)] == [True, False, False]
    teacher = {"teacher": tiny, "variables": {}, "head": {"kernel": np.ones((2, 3)), "bias": np.ones(3)}}
    settings = ({"loss": "soft"}, {"loss": "soft", "mixup": True}, {"loss": "features"})
    assert [methods.distillation(tiny, **teacher, **how).separable for how in settings] == [True, False, False]


def test_micro_batches_of_unequal_size():
    method, batch = methods.simclr(Tiny()), batch_of(2, dtype=np.float32)
    params, carry = jax.jit(method.init)(KEY, batch)
    for wrapped in (gradient_caching(method, 5), gradient_accumulation(method, 5, forced=True)):
        with pytest.raises(UserError, match="batch of 12 does not fall into 5"):
            wrapped.loss(params, carry, batch, KEY, ZERO)
