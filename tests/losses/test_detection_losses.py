import jax
import jax.numpy as jnp
import numpy as np
from values import assert_close

from ssl_jax.losses import focal, giou, pairwise_iou


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def test_focal_loss_is_the_papers():
    rng = np.random.default_rng(0)
    logits, targets = rng.normal(size=(5, 7)) * 3, rng.integers(0, 2, (5, 7)).astype(np.float64)
    p_t = np.where(targets == 1, sigmoid(logits), 1 - sigmoid(logits))
    for alpha, gamma in ((0.25, 2.0), (0.9, 0.5)):
        alpha_t = np.where(targets == 1, alpha, 1 - alpha)
        expected = -alpha_t * (1 - p_t) ** gamma * np.log(p_t)
        assert_close(focal(jnp.float32(logits), jnp.float32(targets), alpha=alpha, gamma=gamma), expected)
    plain = focal(jnp.float32(logits), jnp.float32(targets), alpha=-1.0, gamma=0.0)
    assert_close(plain, -np.log(p_t))


def test_focal_loss_is_finite_far_out():
    x = jnp.asarray([-200.0, 200.0])
    for target in (0.0, 1.0):
        value, slope = jax.value_and_grad(lambda x, t=target: jnp.sum(focal(x, jnp.full(2, t))))(x)
        assert np.isfinite(value)
        assert np.isfinite(slope).all()


def test_iou_of_pairs_by_hand():
    a = jnp.asarray([[0, 0, 4, 4], [2, 2, 4, 4], [1, 1, 1, 1]], jnp.float32)
    b = jnp.asarray([[0, 0, 4, 4], [2, 0, 6, 4], [9, 9, 10, 10], [3, 3, 2, 2]], jnp.float32)
    expected = [[1, 8 / 24, 0, 0], [4 / 16, 4 / 16, 0, 0], [0, 0, 0, 0]]
    assert_close(pairwise_iou(a, b), expected)


def test_giou_by_hand_and_its_gradient_where_boxes_do_not_meet():
    a = jnp.asarray([[0, 0, 2, 2], [0, 0, 2, 2], [0, 0, 2, 2]], jnp.float32)
    b = jnp.asarray([[0, 0, 2, 2], [1, 0, 3, 2], [4, 0, 6, 2]], jnp.float32)
    # equal; half common: IoU 2/6, hull 6, union 6; apart: hull 12, union 8
    assert_close(giou(a, b), [1, 1 / 3, -4 / 12])
    slope = jax.grad(lambda x: giou(x, b[2]))(a[2])
    assert slope[2] > 0  # growing to the right brings it nearer


def test_giou_is_at_most_iou_and_symmetric():
    rng = np.random.default_rng(1)
    corner, sides = rng.uniform(0, 10, (2, 20, 2)), rng.uniform(0.1, 8, (2, 20, 2))
    a, b = jnp.asarray(np.concatenate([corner, corner + sides], axis=-1), jnp.float32)
    iou = jnp.diagonal(pairwise_iou(a, b))
    assert (giou(a, b) <= iou + 1e-6).all()
    assert (giou(a, b) >= -1).all()
    assert_close(giou(a, b), giou(b, a))
