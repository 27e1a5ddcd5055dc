"""DINO: what a step does with crops, teacher and centre; both collapses; what is left to the size of the data."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from values import assert_close

from ssl_jax import init_state, losses, make_train_step, methods, nets
from ssl_jax.configs import dino as recipe
from ssl_jax.core import UserError
from ssl_jax.nets import functional

ZERO, KEY = jnp.zeros((), jnp.int32), jax.random.key(1)
SMALL = {"prototypes": 12, "hidden": 16, "bottleneck": 8}


class Linear(nn.Module):
    """An encoder for images of any size: the mean over pixels, and a linear layer."""

    @nn.compact
    def __call__(self, image, train):
        return nn.Dense(6)(image.mean((1, 2)))


def crops(rng, b, *sizes, dtype=jnp.float32):
    """Views of images of the given (number, size)."""
    return tuple(jnp.asarray(rng.normal(size=(b, v, s, s, 3)), dtype) for v, s in sizes)


def start(batch, encoder=None, **arguments):
    method = methods.dino(encoder or Linear(), **{**SMALL, **arguments})
    return method, *jax.jit(method.init)(jax.random.key(0), batch)


def test_step_is_the_loss_of_its_parts():
    """Student on all crops, teacher on the large ones, the centre of the steps before; then the centre moves."""
    rng = np.random.default_rng(0)
    batch = {"views": crops(rng, 4, (2, 4), (3, 2))}
    method, params, carry = start(batch, teacher_temperature=0.05, center_momentum=0.8)
    params = jax.tree.map(lambda p: p + 0.1 * rng.normal(size=p.shape).astype(np.float32), params)
    center = jnp.asarray(rng.normal(size=12), jnp.float32)
    carry = carry.replace(memory={"center": center})
    value, (after, metrics) = jax.jit(method.loss)(params, carry, batch, KEY, ZERO)

    head = nets.prototypes.PrototypeHead(12, 16, 8)

    def scores(params, crop):
        rows = crop.reshape(-1, *crop.shape[2:])
        pooled = Linear().apply({"params": params["encoder"]}, rows, train=True)
        return functional.apply(head, params["head"], {}, pooled, train=True)[0][0].reshape(4, -1, 12)

    student = jnp.concatenate([scores(params, crop) for crop in batch["views"]], axis=1)
    teacher = scores(carry.teacher["params"], batch["views"][0])
    targets = losses.soft_targets(teacher, center, 0.05)
    assert_close(value, losses.cross_view_entropy(targets, student, temperature=0.1))
    assert_close(after.memory["center"], 0.8 * center + 0.2 * teacher.mean((0, 1)))
    assert metrics["features"].shape == (4, 6)


def test_teacher_starts_as_the_student_and_follows_it():
    batch = {"views": crops(np.random.default_rng(0), 4, (2, 4))}
    method, params, carry = start(batch, momentum=0.75)
    jax.tree.map(np.testing.assert_array_equal, carry.teacher["params"], params)
    moved = jax.tree.map(lambda p: p + 1, params)
    after = method.update(moved, carry, ZERO).teacher["params"]
    jax.tree.map(lambda a, p: np.testing.assert_allclose(a, p + 0.25, rtol=1e-5), after, params)


def test_one_array_of_views_has_no_small_ones():
    batch = {"views": crops(np.random.default_rng(0), 4, (2, 4))}
    method, params, carry = start(batch)
    values = [method.loss(params, carry, {"views": v}, KEY, ZERO)[0] for v in (batch["views"], batch["views"][0])]
    assert values[0] == values[1]


def test_drop_path_is_the_students_only():
    """Of equal networks the teacher's scores do not depend on the draw, as the centre shows."""
    batch = {"views": crops(np.random.default_rng(0), 8, (2, 8))}
    encoder = nets.ViT(patch=4, dim=8, depth=2, heads=2, drop_path=0.9)
    method, params, carry = start(batch, encoder)
    params = jax.tree.map(lambda p: 5 * p, params)
    carry = carry.replace(teacher={**carry.teacher, "params": params})
    loss = jax.jit(method.loss)
    found = [loss(params, carry, batch, jax.random.key(seed), ZERO) for seed in range(3)]
    assert len({float(value) for value, _ in found}) == 3
    for _, (after, _) in found:
        np.testing.assert_array_equal(after.memory["center"], found[0][1][0].memory["center"])


def test_vit_takes_small_crops():
    batch = {"views": crops(np.random.default_rng(0), 2, (2, 12), (1, 8))}
    method, params, carry = start(batch, nets.ViT(patch=4, dim=8, depth=1, heads=2))
    gradients = jax.jit(jax.grad(lambda p: method.loss(p, carry, batch, KEY, ZERO)[0]))(params)
    assert np.any(gradients["encoder"]["pos_grid"])


@pytest.mark.parametrize(
    ("arguments", "low", "high", "words"),
    [
        ({"centering": False}, 0.0, 0.01, "takes every image"),
        ({"teacher_temperature": 0.1}, 0.99, 1.0, "even over all"),
        ({}, 0.1, 0.9, None),
    ],
)
def test_each_half_of_centring_and_sharpening_alone_collapses(arguments, low, high, words):
    """DINO, figure 7: new images with noise at every step. The entropy is in parts of its greatest value."""
    rng = np.random.default_rng(0)
    images = rng.normal(size=(200, 64, 1, 1, 1, 6))
    data = jnp.asarray(images + rng.normal(size=(200, 64, 2, 1, 1, 6)), jnp.float32)
    sizes = {"prototypes": 16, "hidden": 32, "bottleneck": 8, "layers": 2}
    method, tx = methods.dino(Linear(), **{**sizes, "momentum": 0.9, **arguments}), optax.adam(3e-3)
    state, step = init_state(method, tx, {"views": data[0]}), make_train_step(method, tx)
    for views in data:
        state, metrics = step(state, {"views": views})
    entropy = float(metrics["target_entropy"]) / np.log(16)
    assert low <= entropy <= high + 1e-6
    sentence = method.warn({**{k: float(v) for k, v in metrics.items() if v.ndim == 0}, "step": 300.0})
    assert sentence is None if words is None else words in sentence


def test_what_is_left_open_follows_the_size_of_the_data():
    batch = {"views": crops(np.random.default_rng(0), 2, (2, 4))}
    left = {"prototypes": None, "teacher_temperature": None, "momentum": None}
    method, params, carry = start(batch, **left, examples=60_000, steps=400)
    assert params["head"]["last"]["kernel"].shape == (8, 4096)
    moved = jax.tree.map(lambda p: p + 1, params)
    for step, momentum in ((0, 0.99205), (400, 1.0)):
        after = method.update(moved, carry, jnp.int32(step)).teacher["params"]["encoder"]["Dense_0"]["bias"]
        np.testing.assert_allclose(after, 1 - momentum, atol=1e-5)
    for missing in ({"examples": 60_000}, {"steps": 400}):
        with pytest.raises(UserError, match="left to the size of data and run"):
            methods.dino(Linear(), **left, **missing)


def test_recipe_is_the_papers():
    c = recipe.get_config()
    groups, decay = c.optimizer_args.groups, c.optimizer_args.weight_decay
    assert groups["head/last"].frozen_epochs == 1
    assert c.optimizer_args.clip_each_norm == 3.0
    assert "clip_norm" not in c.optimizer_args
    assert (decay.schedule, decay.start, decay.end) == ("cosine", 0.04, 0.4)
    assert (c.batch_size, c.learning_rate, c.encoder_args.drop_path) == (1024, 5e-4, 0.1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"temperature": 0.0}, "`temperature` must be above 0"),
        ({"teacher_temperature": -0.04}, "`teacher_temperature` must be above 0"),
        ({"prototypes": 0}, "`prototypes` must be above 0"),
        ({"momentum": 2.0}, r"momentum in 0\.\.1"),
        ({"center_momentum": -1.0}, r"momentum in 0\.\.1"),
    ],
)
def test_impossible_settings_are_refused_when_the_method_is_built(arguments, message):
    with pytest.raises(UserError, match=message):
        methods.dino(Linear(), **arguments)


def test_one_view_is_too_few():
    batch = {"views": crops(np.random.default_rng(0), 2, (1, 4))}
    method, params, carry = start(batch)
    with pytest.raises(UserError, match="at least 2 views of each example, but was given 1"):
        method.loss(params, carry, batch, KEY, ZERO)
