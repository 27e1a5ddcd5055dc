import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from values import assert_close

from ssl_jax import TrainState, losses, make_train_step, methods, nets
from ssl_jax.core import Carry, UserError

LAYERS = {"fc.0": "dense0", "fc.2": "dense1"}  # their names and ours


class Identity(nn.Module):
    """An encoder without parameters, for images of one pixel; groups to shuffle between, but no batch norm."""

    bn_groups: int = 1

    def __call__(self, image, train):
        return image[:, 0, 0]


class Normed(nn.Module):
    """Batch normalisation and nothing else."""

    bn_groups: int = 1

    @nn.compact
    def __call__(self, image, train):
        return nets.BatchNorm(groups=self.bn_groups, use_scale=False, use_bias=False)(image[:, 0, 0], train)


def pixels(rng, *shape):
    """Images of one pixel, `[..., 1, 1, c]`."""
    return jnp.asarray(rng.normal(size=(*shape[:-1], 1, 1, shape[-1])), jnp.float32)


def views_of(query, key, dtype=jnp.float32):
    return {"views": jnp.asarray(np.stack([query, key], axis=1)[:, :, None, None], dtype)}


def network(data, prefix):
    """A torch head's parameters in our names (numpy, as stored)."""
    layers = {
        ours: {
            "kernel": data[f"{prefix}/{theirs}.weight"].T,
            "bias": data[f"{prefix}/{theirs}.bias"],
        }
        for theirs, ours in LAYERS.items()
    }
    return {"encoder": {}, "projector": layers}


def start(data, dtype=jnp.float32):
    """The authors' initial state as ours: parameters, carry and the method."""
    method = methods.moco(Identity(), dim=8, queue_size=12, temperature=0.2, momentum=0.9)
    params = jax.tree.map(lambda x: jnp.asarray(x, dtype), network(data, "init/q"))
    state = {"encoder": {}}
    carry = Carry(
        model_state=state,
        teacher={"params": jax.tree.map(jnp.copy, params), "model_state": state},
        memory={"queue": jnp.asarray(data["init/queue"].T, dtype), "pointer": jnp.zeros((), jnp.int32)},
    )
    return method, params, carry


def assert_trees_close(actual, expected, tolerance):
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    jax.tree.map(lambda a, e: assert_close(a, e, tolerance), actual, expected)


def compare_trajectory(data, dtype, tolerance):
    """Five steps of SGD in which the queue wraps round after the third."""
    method, params, carry = start(data, dtype)
    gradient = jax.jit(jax.value_and_grad(method.loss, has_aux=True))
    for step in range(1, 6):
        at = f"step{step}"
        assert_trees_close(carry.teacher["params"], network(data, f"{at}/k"), tolerance)
        batch = views_of(data[f"{at}/im_q"], data[f"{at}/im_k"], dtype)
        before, number = carry.memory, jnp.asarray(step - 1, jnp.int32)
        (loss, (carry, metrics)), grads = gradient(params, carry, batch, jax.random.key(0), number)
        assert loss.dtype == dtype
        assert_close(loss, data[f"{at}/loss"], tolerance)
        assert_trees_close(grads, network(data, f"{at}/grad"), tolerance)
        assert_close(carry.memory["queue"], data[f"{at}/queue"].T, tolerance)
        assert int(carry.memory["pointer"]) == data[f"{at}/ptr"][0]
        keys = jax.lax.dynamic_slice_in_dim(carry.memory["queue"], before["pointer"], 4)
        logits = losses.infonce_logits(metrics["embedding"], keys, before["queue"], temperature=0.2)
        assert_close(logits, data[f"{at}/logits"], tolerance)
        params = jax.tree.map(lambda p, g: p - 0.5 * g, params, grads)
        carry = method.update(params, carry, number)


def test_five_steps_equal_the_authors(fixture):
    compare_trajectory(fixture("moco_v2"), jnp.float32, 1e-5)


def test_five_steps_equal_the_authors_in_float64(fixture):
    with jax.enable_x64(True):
        compare_trajectory(fixture("moco_v2"), jnp.float64, 1e-12)


def test_five_steps_of_the_training_step_equal_the_authors(fixture):
    data = fixture("moco_v2")
    method, params, carry = start(data)
    tx = optax.sgd(0.5)
    number, opt_state = jnp.zeros((), jnp.int32), tx.init(params)
    state = TrainState(step=number, rng=jax.random.key(0), params=params, carry=carry, opt_state=opt_state)
    step = make_train_step(method, tx)
    for i in range(1, 6):
        state, metrics = step(state, views_of(data[f"step{i}/im_q"], data[f"step{i}/im_k"]))
        assert_close(metrics["loss"], data[f"step{i}/loss"])
        assert_close(state.carry.memory["queue"], data[f"step{i}/queue"].T)


@pytest.mark.parametrize(("batch", "size"), [(7, 12), (20, 12), (5, 5), (1, 3)])
def test_any_batch_goes_into_any_queue_as_unit_keys_of_view_one(batch, size):
    method = methods.moco(Identity(), dim=4, queue_size=size)
    rng = np.random.default_rng(0)
    params, carry = jax.jit(method.init)(jax.random.key(0), {"views": pixels(rng, batch, 2, 6)})
    np.testing.assert_allclose(np.linalg.norm(carry.memory["queue"], axis=1), 1.0, rtol=1e-6)
    expected, pointer, loss = np.array(carry.memory["queue"]), 0, jax.jit(method.loss)
    for _ in range(4):
        views = pixels(rng, batch, 2, 6)
        value, (carry, _) = loss(params, carry, {"views": views}, jax.random.key(1), jnp.zeros((), jnp.int32))
        hidden = nn.relu(views[:, 1, 0, 0] @ params["projector"]["dense0"]["kernel"])  # biases start at zero
        keys = np.asarray(losses.l2_normalize(hidden @ params["projector"]["dense1"]["kernel"]))
        for key in keys:
            expected[pointer], pointer = key, (pointer + 1) % size
        assert np.isfinite(value)
        assert carry.memory["pointer"] == pointer
        np.testing.assert_allclose(carry.memory["queue"], expected, atol=1e-6)
        np.testing.assert_allclose(np.linalg.norm(carry.memory["queue"], axis=1), 1.0, rtol=1e-5)


def test_no_gradient_reaches_queue_or_key_encoder():
    method = methods.moco(Identity(), dim=4, queue_size=6)
    rng = np.random.default_rng(1)
    batch = {"views": pixels(rng, 4, 2, 6)}
    params, carry = jax.jit(method.init)(jax.random.key(0), batch)
    zero, key = jnp.zeros((), jnp.int32), jax.random.key(1)

    def loss(params, teacher, queue):
        memory = {**carry.memory, "queue": queue}
        full = carry.replace(teacher={**carry.teacher, "params": teacher}, memory=memory)
        value, (after, _) = method.loss(params, full, batch, key, zero)
        return value, after.memory["queue"]

    arguments = (params, carry.teacher["params"], carry.memory["queue"])
    own, *others = jax.jit(jax.grad(lambda *a: loss(*a)[0], argnums=(0, 1, 2)))(*arguments)
    assert all(np.any(leaf) for leaf in jax.tree.leaves(own))
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(others))
    stored = jax.jit(jax.grad(lambda *a: jnp.sum(loss(*a)[1] ** 3), argnums=(0, 1)))(*arguments)
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(stored))


def test_keys_stay_with_their_queries_when_shuffled():
    """Without batch norm, shuffling and shuffling back changes nothing."""
    rng = np.random.default_rng(2)
    batch, zero = {"views": pixels(rng, 8, 2, 6)}, jnp.zeros((), jnp.int32)
    results = []
    for groups in (1, 4):
        method = methods.moco(Identity(bn_groups=groups), dim=4, queue_size=16)
        params, carry = jax.jit(method.init)(jax.random.key(0), batch)
        loss = jax.jit(method.loss)
        results.append([loss(params, carry, batch, jax.random.key(seed), zero) for seed in range(3)])
    for (value, (carry, metrics)), (other, (other_carry, other_metrics)) in zip(*results, strict=True):
        assert_close(value, other, 1e-6)
        assert_close(carry.memory["queue"], other_carry.memory["queue"], 1e-6)
        assert_close(metrics["embedding"], other_metrics["embedding"], 1e-6)


def test_keys_are_normalised_in_shuffled_groups_and_queries_are_not():
    """Of 4 examples in 2 groups there are three partitions; queries keep the first, keys get another one each time."""
    method = methods.moco(Normed(bn_groups=2), mlp=False, dim=4, queue_size=4)
    batch, zero = {"views": pixels(np.random.default_rng(3), 4, 2, 6)}, jnp.zeros((), jnp.int32)
    params, carry = jax.jit(method.init)(jax.random.key(0), batch)

    def projected(image, partition):
        x = np.asarray(image[:, 0, 0], np.float64)
        for group in partition:
            rows = list(group)
            x[rows] = (x[rows] - x[rows].mean(axis=0)) / np.sqrt(x[rows].var(axis=0) + 1e-5)
        z = x @ np.asarray(params["projector"]["dense0"]["kernel"])
        return z / np.linalg.norm(z, axis=1, keepdims=True)

    partitions = [((0, i), tuple({1, 2, 3} - {i})) for i in (1, 2, 3)]
    views, chosen, loss = batch["views"], [], jax.jit(method.loss)
    for seed in range(12):
        _, (after, metrics) = loss(params, carry, batch, jax.random.key(seed), zero)
        query = metrics["embedding"] / np.linalg.norm(metrics["embedding"], axis=1, keepdims=True)
        assert_close(query, projected(views[:, 0], partitions[0]), 1e-4)
        keys = np.asarray(after.memory["queue"])
        errors = [np.max(np.abs(keys - projected(views[:, 1], partition))) for partition in partitions]
        chosen.append(int(np.argmin(errors)))
        assert min(errors) < 1e-4
    assert set(chosen) == {0, 1, 2}


@pytest.mark.parametrize(("mlp", "layers"), [(True, ["dense0", "dense1"]), (False, ["dense0"])])
def test_the_head_has_biases_and_no_norms(mlp, layers):
    method = methods.moco(Identity(), mlp=mlp, dim=4, queue_size=8)
    params, carry = jax.jit(method.init)(jax.random.key(0), {"views": pixels(np.random.default_rng(4), 2, 2, 6)})
    assert sorted(params["projector"]) == layers
    for first, second in itertools.pairwise([*layers, None]):
        width = 6 if second else 4
        assert jax.tree.map(jnp.shape, params["projector"][first]) == {"kernel": (6, width), "bias": (width,)}
    jax.tree.map(np.testing.assert_array_equal, carry.teacher["params"], params)  # the key encoder starts as a copy
    assert carry.memory["queue"].shape == (8, 4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"temperature": 0.0}, "`temperature` must be above 0, but is 0.0"),
        ({"temperature": float("nan")}, "`temperature` must be above 0"),
        ({"queue_size": 0}, "`queue_size` must be above 0, but is 0"),
        ({"dim": -1}, "`dim` must be above 0"),
        ({"momentum": 1.5}, r"momentum in 0\.\.1, but was given 1.5"),
    ],
)
def test_impossible_settings_are_refused_when_the_method_is_built(arguments, message):
    with pytest.raises(UserError, match=message):
        methods.moco(Identity(), **arguments)
