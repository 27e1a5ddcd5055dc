"""SwAV: codes of large views predicted from all others, the queue and when it counts, normalised prototypes."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from values import assert_close

from ssl_jax import losses, methods, optim
from ssl_jax.configs import swav as recipe
from ssl_jax.core import UserError

KEY = jax.random.key(1)
SMALL = {"prototypes": 10, "hidden": 16, "dim": 8}


class Linear(nn.Module):
    """An encoder for images of any size: the mean over pixels, and a linear layer."""

    @nn.compact
    def __call__(self, image, train):
        return nn.Dense(6)(image.mean((1, 2)))


def crops(rng, b, *sizes):
    """Views of images of the given (number, size)."""
    return tuple(jnp.asarray(rng.normal(size=(b, v, s, s, 3)), jnp.float32) for v, s in sizes)


def start(batch, **arguments):
    method = methods.swav(Linear(), **{**SMALL, **arguments})
    return method, *jax.jit(method.init)(jax.random.key(0), batch)


def scores_by_hand(params, views):
    """Embeddings [b v d] and scores [b v k]; the head's batch norm takes all views together."""
    b = len(views[0])
    x = np.concatenate([np.asarray(v, np.float64).mean((2, 3)) for v in views], axis=1).reshape(-1, 3)
    dense = params["encoder"]["Dense_0"]
    x = (x @ np.asarray(dense["kernel"]) + np.asarray(dense["bias"])) @ np.asarray(
        params["projector"]["dense0"]["kernel"]
    )
    x = np.maximum((x - x.mean(0)) / np.sqrt(x.var(0) + 1e-5), 0) @ np.asarray(params["projector"]["dense1"]["kernel"])
    x = x / np.linalg.norm(x, axis=1, keepdims=True)
    kernel = np.asarray(params["prototypes"]["kernel"], np.float64)
    scores = x @ (kernel / np.linalg.norm(kernel, axis=0))
    return x.reshape(b, -1, x.shape[-1]), scores.reshape(b, -1, scores.shape[-1])


def swapped(codes, scores, temperature=0.1):
    """Mean over pairs of a large view's code and another view of the cross-entropy, pair by pair."""
    logits = scores / temperature
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    pairs = [(i, j) for i in range(codes.shape[1]) for j in range(scores.shape[1]) if i != j]
    return np.mean([-(codes[:, i] * log_p[:, j]).sum(-1).mean() for i, j in pairs])


def sinkhorn(scores):
    return np.asarray(losses.sinkhorn(jnp.asarray(scores, jnp.float32)), np.float64)


class Grouped(Linear):
    bn_groups: int = 2


def test_the_heads_batch_statistics_are_of_the_encoders_groups():
    batch = {"views": crops(np.random.default_rng(0), 12, (2, 4))}
    method = methods.swav(Grouped(), **SMALL)
    params, carry = jax.jit(method.init)(jax.random.key(0), batch)
    _, (_, metrics) = jax.jit(method.loss)(params, carry, batch, KEY, jnp.int32(0))
    halves = [scores_by_hand(params, [batch["views"][0][half]])[0] for half in (slice(6), slice(6, 12))]
    assert_close(metrics["embedding"], np.concatenate(halves)[:, 0])


def test_loss_is_the_swapped_prediction():
    batch = {"views": crops(np.random.default_rng(0), 12, (2, 4), (3, 2))}
    method, params, carry = start(batch)
    value, (after, metrics) = jax.jit(method.loss)(params, carry, batch, KEY, jnp.int32(0))
    _, scores = scores_by_hand(params, batch["views"])
    codes = np.stack([sinkhorn(scores[:, i]) for i in range(2)], axis=1)
    assert_close(value, swapped(codes, scores))
    assert after.memory is None
    assert metrics["embedding"].shape == (12, 8)
    assert metrics["features"].shape == (12, 6)


def test_queue_takes_part_once_it_is_full_and_its_time_has_come():
    """Of 20 entries in batches of 8 the queue is full after three steps; it is told to wait for the fifth."""
    rng = np.random.default_rng(0)
    first = {"views": crops(rng, 8, (2, 4), (1, 2))}
    for queue_start, begins in ((0, 3), (4, 4)):
        method, params, carry = start(first, queue_size=20, queue_start=queue_start)
        assert carry.memory["queue"].shape == (20, 2, 8)
        past, loss = np.zeros((0, 2, 8)), jax.jit(method.loss)
        for step in range(6):
            batch = {"views": crops(rng, 8, (2, 4), (1, 2))}
            value, (carry, _) = loss(params, carry, batch, KEY, jnp.int32(step))
            embedding, scores = scores_by_hand(params, batch["views"])
            kernel = np.asarray(params["prototypes"]["kernel"], np.float64)
            queued = past[-20:] @ (kernel / np.linalg.norm(kernel, axis=0))
            together = np.concatenate([scores[:, :2], queued]) if step >= begins else scores[:, :2]
            codes = np.stack([sinkhorn(together[:, i])[:8] for i in range(2)], axis=1)
            assert_close(value, swapped(codes, scores))
            past = np.concatenate([past, embedding[:, :2]])
        kept = np.asarray(carry.memory["queue"])
        assert_close(kept[np.lexsort(kept[:, 0].T)], past[-20:][np.lexsort(past[-20:][:, 0].T.astype(np.float32))])


def test_gradient_is_that_of_the_prototypes_directions():
    """At right angles to the prototypes, whose norms play no role."""
    batch = {"views": crops(np.random.default_rng(0), 12, (2, 4))}
    method, params, carry = start(batch)
    larger = {**params, "prototypes": {"kernel": 3 * params["prototypes"]["kernel"]}}
    gradient = jax.jit(jax.grad(lambda p: method.loss(p, carry, batch, KEY, jnp.int32(0))[0]))
    one, three = (gradient(p)["prototypes"]["kernel"] for p in (params, larger))
    assert_close(3 * three, one)
    along = jnp.sum(one * params["prototypes"]["kernel"], axis=0)
    assert np.abs(along).max() < 1e-5 * np.abs(one).max()


def test_prototypes_are_frozen_at_first():
    c = recipe.get_config()
    groups = c.optimizer_args.groups.to_dict()
    assert groups == {"prototypes": {"frozen_steps": 313}}
    params = {"prototypes": {"kernel": jnp.ones((2, 3))}, "encoder": {"kernel": jnp.ones((2, 3))}}
    tx = optim.create("sgd", 1.0, groups={"prototypes": {"frozen_steps": 1}})
    state = tx.init(params)
    for step in range(2):
        updates, state = tx.update(params, state, params)
        assert np.any(updates["encoder"]["kernel"])
        assert np.any(updates["prototypes"]["kernel"]) == (step == 1)


def test_stuck_at_the_logarithm_of_the_prototypes_is_said():
    method = methods.swav(Linear(), **SMALL)
    assert "that of a guess among 10" in method.warn({"loss": 2.303, "step": 400.0})
    assert (
        method.warn({"loss": 1.5, "step": 400.0, "target_entropy": 1.0, "target_kl": 0.5, "prototypes_used": 9.0})
        is None
    )


def test_number_of_prototypes_follows_the_size_of_the_data():
    batch = {"views": crops(np.random.default_rng(0), 2, (2, 4))}
    for examples, count in ((60_000, 256), (1_281_167, 3000)):
        _, params, _ = start(batch, prototypes=None, examples=examples)
        assert params["prototypes"]["kernel"].shape == (8, count)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"temperature": 0.0}, "`temperature` must be above 0"),
        ({"epsilon": 0.0}, "`epsilon` must be above 0"),
        ({"iterations": 0}, "`iterations` must be above 0"),
        ({"queue_size": -1}, "`queue_size` can't be -1"),
        ({"prototypes": None}, "`prototypes` is left to the size of data"),
    ],
)
def test_impossible_settings_are_refused_when_the_method_is_built(arguments, message):
    with pytest.raises(UserError, match=message):
        methods.swav(Linear(), **arguments)
