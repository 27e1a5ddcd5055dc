import jax
import jax.numpy as jnp
import networks
import numpy as np
import pytest
from values import assert_close

from ssl_jax import methods
from ssl_jax.core import UserError


def build(**arguments):
    sizes = {"hidden": 9, "predictor_hidden": 7, "dim": 5, "queue_size": 20, "temperature": 0.3}
    return methods.nnclr(networks.Tiny(), **{**sizes, **arguments})


def numpy_forward(params, image):
    pooled = networks.encode(params["encoder"], image)
    z = networks.head(params["projector"], pooled, (True, True, True))
    return pooled, networks.unit(z), networks.head(params["predictor"], z, (True, False))


def numpy_loss(neighbours, predictions, temperature):
    """Equation 3 of the paper (algorithm 1's `L`), row by row in float64."""
    p, total = networks.unit(predictions), 0.0
    for i, neighbour in enumerate(neighbours):
        scores = p @ neighbour / temperature
        total += np.log(np.exp(scores).sum()) - scores[i]
    return total / len(p)


def nearest(z, queue):
    return np.stack([max(queue, key=lambda entry: row @ entry) for row in z])


def test_loss_is_the_papers_and_the_queue_takes_the_first_views_projections_afterwards():
    method, batch = build(), networks.batch(examples=12)
    params, carry = networks.start(method)
    queue, pointer, loss = np.array(carry.memory["queue"], np.float64), 0, jax.jit(method.loss)
    np.testing.assert_allclose(np.linalg.norm(queue, axis=1), 1.0, rtol=1e-6)
    for step in range(4):  # 12 do not divide 20: the queue wraps round
        batch = networks.batch(examples=12, seed=step)
        value, (carry, metrics) = loss(params, carry, batch, jax.random.key(1), networks.ZERO)
        (pooled, z1, p1), (_, z2, p2) = (numpy_forward(params, batch["views"][:, view]) for view in range(2))
        near1, near2 = nearest(z1, queue), nearest(z2, queue)
        assert_close(value, (numpy_loss(near1, p2, 0.3) + numpy_loss(near2, p1, 0.3)) / 2, 1e-5)
        assert_close(metrics["neighbour_similarity"], np.sum(z1 * near1, axis=1).mean(), 1e-5)
        assert metrics["candidates"] == len(z1)
        assert_close(metrics["embedding"], z1, 1e-5)
        assert_close(metrics["features"], pooled, 1e-5)
        for z in z1:
            queue[pointer], pointer = z, (pointer + 1) % 20
        assert_close(carry.memory["queue"], queue, 1e-5)
        assert carry.memory["pointer"] == pointer


def test_gradients_reach_the_network_through_predictions_only():
    """A neighbour is an entry of the queue: constant, and no gradient reaches the queue either."""
    method, batch = build(), networks.batch()
    params, carry = networks.start(method)

    def loss(params, queue):
        full = carry.replace(memory={**carry.memory, "queue": queue})
        value, (after, _) = method.loss(params, full, batch, jax.random.key(1), networks.ZERO)
        return value, after.memory["queue"]

    arguments = (params, carry.memory["queue"])
    own, bank = jax.jit(jax.grad(lambda *a: loss(*a)[0], argnums=(0, 1)))(*arguments)
    assert all(np.any(leaf) for leaf in jax.tree.leaves(own) if leaf.ndim > 1)
    assert not np.any(bank)
    stored = jax.jit(jax.grad(lambda *a: jnp.sum(loss(*a)[1] ** 3)))(*arguments)
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(stored))


def test_the_projector_has_norms_after_all_layers_and_the_predictor_after_its_hidden_one():
    params, carry = jax.jit(build().init)(jax.random.key(0), networks.batch())
    norm = lambda width: {"scale": (width,), "bias": (width,)}  # noqa: E731
    assert jax.tree.map(jnp.shape, params["projector"]) == {
        "dense0": {"kernel": (6, 9)},
        "norm0": norm(9),
        "dense1": {"kernel": (9, 9)},
        "norm1": norm(9),
        "dense2": {"kernel": (9, 5)},
        "norm2": norm(5),
    }
    assert jax.tree.map(jnp.shape, params["predictor"]) == {
        "dense0": {"kernel": (5, 7)},
        "norm0": norm(7),
        "dense1": {"kernel": (7, 5), "bias": (5,)},
    }
    assert carry.teacher is None


@pytest.mark.parametrize(
    ("name", "value"), [("hidden", 0), ("predictor_hidden", 0), ("dim", 0), ("queue_size", 0), ("temperature", 0.0)]
)
def test_impossible_settings_are_refused_when_the_method_is_built(name, value):
    with pytest.raises(UserError, match=f"`{name}` must be above 0, but is {value}"):
        build(**{name: value})
