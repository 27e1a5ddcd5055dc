"""The cross-entropy of DINO against the authors' loss, gradients and centre, and its parts against plain numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from values import assert_close

from ssl_jax import collapse, losses
from ssl_jax.memory import ema


def by_view(rows, views):
    """The authors' rows, view after view, as [b v k]."""
    return rows.reshape(views, -1, rows.shape[-1]).transpose(1, 0, 2)


def step(student, teacher, center, temperature):
    """Loss, gradient with respect to the scores [b v k], and the next centre."""

    def loss(student):
        targets = losses.soft_targets(teacher, center, temperature)
        return losses.cross_view_entropy(targets, student, temperature=0.1)

    value, gradient = jax.value_and_grad(loss)(student)
    return value, gradient, ema(center, jnp.mean(teacher, axis=(0, 1)), 0.9)


@pytest.mark.parametrize(("wide", "tolerance"), [(False, 1e-5), (True, 1e-12)])
def test_five_steps_are_the_authors(fixture, wide, tolerance):
    data, dtype = fixture("dino"), np.float64 if wide else np.float32
    with jax.enable_x64(wide):
        center = jnp.zeros(32, dtype)
        for i in range(5):
            student, teacher = (
                jnp.asarray(by_view(data[f"step{i}/{name}"], views), dtype)
                for name, views in (("student", 6), ("teacher", 2))
            )
            value, gradient, center = jax.jit(step)(student, teacher, center, data["teacher_temp_schedule"][i])
            assert_close(value, data[f"step{i}/loss"], tolerance)
            assert_close(gradient, by_view(data[f"step{i}/grad_student"], 6), tolerance)
            assert_close(center[None], data[f"step{i}/center"], tolerance)


def test_two_views(fixture):
    data = fixture("dino")
    student, teacher = (jnp.asarray(by_view(data[f"two/{name}"], 2)) for name in ("student", "teacher"))
    value, gradient, center = jax.jit(step)(student, teacher, jnp.zeros(32), 0.04)
    assert_close(value, data["two/loss"])
    assert_close(gradient, by_view(data["two/grad_student"], 2))
    assert_close(center[None], data["two/center"])


def test_view_is_not_compared_with_itself():
    """One target and one other view: the scores of the target's own view do not matter."""
    rng = np.random.default_rng(0)
    targets = jnp.asarray(rng.dirichlet(np.ones(5), (3, 1)), jnp.float32)
    scores = jnp.asarray(rng.normal(size=(3, 2, 5)), jnp.float32)
    gradient = jax.grad(lambda s: losses.cross_view_entropy(targets, s))(scores)
    assert not np.any(gradient[:, 0])
    assert np.any(gradient[:, 1])


def test_no_gradient_through_targets():
    logits = jnp.asarray(np.random.default_rng(0).normal(size=(3, 2, 5)), jnp.float32)

    def loss(teacher):
        return losses.cross_view_entropy(losses.soft_targets(teacher, jnp.zeros(5), 0.04), logits)

    assert not np.any(jax.grad(loss)(logits))


def test_usage_tells_both_collapses():
    """Even targets and targets on one prototype, with a student that has learnt them; and healthy ones."""
    even, one = jnp.full((6, 2, 8), 1 / 8), jnp.broadcast_to(jnp.eye(8)[3], (6, 2, 8))
    spread = jnp.broadcast_to(jnp.eye(8)[:6, None], (6, 2, 8))
    warn = collapse.prototypes(8)
    found = []
    for targets, loss in ((even, np.log(8)), (one, 0.0), (spread, 1.0), (spread, 0.0)):
        numbers = {name: float(x) for name, x in losses.usage(targets, jnp.float32(loss)).items()}
        found.append([*(round(x, 5) for x in numbers.values()), warn({**numbers, "step": 500.0})])
        assert warn({**numbers, "step": 100.0}) is None
        assert warn({"step": 500.0}) is None
    ln8 = round(np.log(8), 5)
    assert found[0][:3] == pytest.approx([ln8, 0, 8], abs=1e-4)
    assert found[1][:3] == pytest.approx([0, 0, 1], abs=1e-4)
    assert found[2][:3] == pytest.approx([0, 1, 6], abs=1e-4)
    assert "even over all 8 prototypes" in found[0][3]
    assert "one of 8 prototypes takes every image" in found[1][3]
    assert found[2][3] is found[3][3] is None


def test_masked_cross_entropy_is_a_mean_over_hidden_patches_then_over_views():
    rng = np.random.default_rng(0)
    targets, logits = rng.dirichlet(np.ones(6), (3, 2, 5)), rng.normal(size=(3, 2, 5, 6))
    mask = rng.random((3, 2, 5)) < 0.5
    mask[1, 0] = False
    log_p = logits / 0.2 - np.log(np.exp(logits / 0.2).sum(-1, keepdims=True))
    each = -(targets * log_p).sum(-1)
    expected = np.mean([[each[i, j][mask[i, j]].mean() if mask[i, j].any() else 0 for j in range(2)] for i in range(3)])
    arrays = (jnp.asarray(x, jnp.float32) for x in (targets, logits))
    assert_close(losses.masked_cross_entropy(*arrays, jnp.asarray(mask), temperature=0.2), expected)
