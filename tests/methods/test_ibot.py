"""iBOT: a step is the sum of its parts, what is hidden from whom, DINOv2's targets, and a ViT or nothing."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from values import assert_close

from ssl_jax import losses, methods, nets
from ssl_jax.core import UserError
from ssl_jax.nets import functional

ZERO, KEY = jnp.zeros((), jnp.int32), jax.random.key(1)
SMALL = {"prototypes": 12, "hidden": 16, "bottleneck": 8}
VIT = nets.ViT(patch=2, dim=8, depth=1, heads=2)


def crops(rng, b, *sizes):
    """Views of images of the given (number, size)."""
    return tuple(jnp.asarray(rng.normal(size=(b, v, s, s, 1)), jnp.float32) for v, s in sizes)


def start(batch, encoder=VIT, **arguments):
    method = methods.ibot(encoder, **{**SMALL, **arguments})
    return method, *jax.jit(method.init)(jax.random.key(0), batch)


def moved(params, scale=0.1):
    rng = np.random.default_rng(5)
    return jax.tree.map(lambda p: p + scale * rng.normal(size=p.shape).astype(np.float32), params)


@functools.partial(jax.jit, static_argnames="name")
def scores_of(params, name, tokens):
    head = nets.prototypes.PrototypeHead(12, 16, 8)
    rows = tokens.reshape(-1, tokens.shape[-1])
    return functional.apply(head, params[name], {}, rows, train=True)[0][0].reshape(*tokens.shape[:-1], 12)


@jax.jit
def tokens_of(params, crop, mask=None):
    rows = crop.reshape(-1, *crop.shape[2:])
    vit = VIT.clone(mask_token=True)
    tokens = vit.apply({"params": params["encoder"]}, rows, train=True, mask=mask)[1]["tokens"]
    return tokens.reshape(*crop.shape[:2], *tokens.shape[1:])


@pytest.mark.parametrize("shared", [True, False])
def test_step_is_the_loss_of_its_parts_when_nothing_is_hidden(shared):
    """Then the patches' loss is 0 and the rest is DINO's, on class tokens; both centres move."""
    rng = np.random.default_rng(0)
    batch = {"views": crops(rng, 4, (2, 8), (3, 4))}
    method, params, carry = start(batch, mask_probability=0.0, shared_head=shared, koleo=0.5)
    params = moved(params)
    center = jnp.asarray(rng.normal(size=12), jnp.float32)
    carry = carry.replace(memory={"center": center, "patch_center": 2 * center})
    value, (after, metrics) = jax.jit(method.loss)(params, carry, batch, KEY, ZERO)
    large, small = (tokens_of(params, crop) for crop in batch["views"])
    seen = tokens_of(carry.teacher["params"], batch["views"][0])
    teacher = {
        name: scores_of(carry.teacher["params"], head, tokens)
        for name, head, tokens in (
            ("center", "head", seen[:, :, 0]),
            ("patch_center", "head" if shared else "patch_head", seen[:, :, 1:]),
        )
    }
    student = scores_of(params, "head", jnp.concatenate([large[:, :, 0], small[:, :, 0]], axis=1))
    expected = losses.cross_view_entropy(losses.soft_targets(teacher["center"], center, 0.04), student)
    assert_close(metrics["class_loss"], expected)
    assert metrics["patch_loss"] == 0
    assert_close(value, expected + 0.5 * (losses.koleo(large[:, 0, 0]) + losses.koleo(large[:, 1, 0])))
    for name, factor in (("center", 1), ("patch_center", 2)):
        mean = teacher[name].reshape(-1, 12).mean(0)
        assert_close(after.memory[name], 0.9 * factor * center + 0.1 * mean)


def test_patches_are_hidden_from_the_student_only():
    """With all of a view's patches drawn for hiding, some are, and the student does not depend on their pixels."""
    rng = np.random.default_rng(0)
    batch = {"views": crops(rng, 4, (2, 8))}
    hiding = {"mask_probability": 1.0, "mask_ratio": (0.4, 0.5)}
    method, params, carry = start(batch, **hiding)
    loss = jax.jit(method.loss)
    _, (after, metrics) = loss(params, carry, batch, KEY, ZERO)
    assert 0.2 < metrics["hidden_patches"] <= 0.5
    assert metrics["patch_loss"] > 0
    _, (other, _) = loss(params, carry, batch, jax.random.key(2), ZERO)  # another mask, the same teacher
    for name in ("center", "patch_center"):
        np.testing.assert_array_equal(after.memory[name], other.memory[name])
    gradient = jax.jit(jax.grad(lambda p: method.loss(p, carry, batch, KEY, ZERO)[0]))(params)
    assert np.any(gradient["encoder"]["mask_token"])


def test_what_is_hidden_depends_on_the_key_alone():
    batch = {"views": crops(np.random.default_rng(0), 2, (2, 8))}
    method, params, carry = start(batch, mask_probability=1.0)
    loss = jax.jit(method.loss)
    first, same, other = (loss(params, carry, batch, jax.random.key(seed), ZERO)[1][1] for seed in (1, 1, 2))
    assert first["class_loss"] == same["class_loss"]
    assert first["class_loss"] != other["class_loss"]


def test_dinov2_takes_sinkhorn_instead_of_centres():
    batch = {"views": crops(np.random.default_rng(0), 6, (2, 8))}
    method, params, carry = start(batch, sinkhorn=True, mask_probability=0.0, teacher_temperature=0.07)
    params = moved(params)
    value, (after, metrics) = jax.jit(method.loss)(params, carry, batch, KEY, ZERO)
    teacher = scores_of(carry.teacher["params"], "head", tokens_of(carry.teacher["params"], batch["views"][0])[:, :, 0])
    targets = losses.sinkhorn(teacher.reshape(12, 12), epsilon=0.07).reshape(6, 2, 12)
    student = scores_of(params, "head", tokens_of(params, batch["views"][0])[:, :, 0])
    assert_close(value, losses.cross_view_entropy(targets, student))
    jax.tree.map(np.testing.assert_array_equal, after.memory, carry.memory)
    assert metrics["prototypes_used"] > 6


def test_teacher_starts_as_the_student_with_a_mask_token():
    batch = {"views": crops(np.random.default_rng(0), 2, (2, 8))}
    method, params, carry = start(batch, momentum=0.75)
    jax.tree.map(np.testing.assert_array_equal, carry.teacher["params"], params)
    assert not np.any(params["encoder"]["mask_token"])
    after = method.update(jax.tree.map(lambda p: p + 1, params), carry, ZERO).teacher["params"]
    jax.tree.map(lambda a, p: np.testing.assert_allclose(a, p + 0.25, rtol=1e-5), after, params)


def test_what_is_left_open_follows_the_size_of_the_data():
    batch = {"views": crops(np.random.default_rng(0), 2, (2, 8))}
    names = ("prototypes", "teacher_temperature", "patch_temperature", "momentum")
    _, params, _ = start(batch, **dict.fromkeys(names), examples=60_000, steps=400)
    assert params["head"]["last"]["kernel"].shape == (8, 512)
    for name in names:
        with pytest.raises(UserError, match=f"`{name}` is left to the size of data and run"):
            methods.ibot(VIT, **{name: None})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"encoder": nets.ConvNet()}, "its encoder must be a ViT, not a ConvNet"),
        ({"temperature": 0.0}, "`temperature` must be above 0"),
        ({"mask_ratio": (0.5, 0.1)}, "Masks need ratios and a probability in 0..1"),
        ({"mask_probability": 1.5}, "Masks need ratios and a probability in 0..1"),
        ({"koleo": -0.1}, "can't be negative"),
        ({"momentum": 2.0}, r"momentum in 0\.\.1"),
    ],
)
def test_impossible_settings_are_refused_when_the_method_is_built(arguments, message):
    with pytest.raises(UserError, match=message):
        methods.ibot(**{"encoder": VIT, **arguments})
