import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from values import assert_close

from ssl_jax import methods, nets, optim
from ssl_jax.core import UserError

ZERO = jnp.zeros((), jnp.int32)


class Encoder(nn.Module):
    """One dense layer and a batch norm."""

    @nn.compact
    def __call__(self, image, train):
        x = nn.Dense(6, use_bias=False, name="dense")(image.reshape(len(image), -1))
        return nets.BatchNorm(use_scale=False, use_bias=False, name="norm")(x, train)


def standardized(x):
    return (x - x.mean(axis=0)) / np.sqrt(x.var(axis=0) + 1e-5)


def numpy_losses(params, views, layers, temperature):
    """Network and equation 1 in float64, over one batch of all views: norms see both views of all examples.

    The first half of the losses is of first views, the second of second ones.
    """
    b = len(views)
    params = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
    x = np.concatenate([views[:, 0], views[:, 1]]).reshape(2 * b, -1).astype(np.float64)
    pooled = x = standardized(x @ params["encoder"]["dense"]["kernel"])
    head = params["projector"]
    for i in range(layers):
        x = standardized(x @ head[f"dense{i}"]["kernel"]) * head[f"norm{i}"]["scale"]
        if i < layers - 1:
            x = np.maximum(x + head[f"norm{i}"]["bias"], 0)
    z = x / np.linalg.norm(x, axis=1, keepdims=True)
    similarity = np.exp(z @ z.T / temperature)
    np.fill_diagonal(similarity, 0)
    positive = similarity[np.arange(2 * b), (np.arange(2 * b) + b) % (2 * b)]
    return -np.log(positive / similarity.sum(axis=1)), pooled[:b], x[:b]


def shaken(params):
    """Parameters that are nowhere 0 or 1."""
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    return jax.tree.unflatten(
        tree, [x + 0.1 * jax.random.normal(k, x.shape) for x, k in zip(leaves, keys, strict=True)]
    )


@pytest.mark.parametrize("layers", [2, 3])
def test_loss_equals_the_paper_over_the_global_batch(layers):
    rng = np.random.default_rng(layers)
    views = rng.normal(size=(16, 2, 2, 2, 3)).astype(np.float32)
    method = methods.simclr(Encoder(), layers=layers, hidden=9, dim=5, temperature=0.5)
    batch = {"views": jnp.asarray(views)}
    params, carry = jax.jit(method.init)(jax.random.key(0), batch)
    params = shaken(params)
    losses, pooled, embedding = numpy_losses(params, views, layers, 0.5)
    expected = losses.mean()
    loss, (after, metrics) = jax.jit(method.loss)(params, carry, batch, jax.random.key(2), ZERO)
    assert_close(loss, expected, 1e-5)
    assert metrics["candidates"] == 31
    assert_close(metrics["features"], pooled, 1e-5)
    assert_close(metrics["embedding"], embedding, 1e-5)
    assert jax.tree.structure(after) == jax.tree.structure(carry)

    mesh = jax.sharding.Mesh(np.asarray(jax.devices()), ("data",))
    split = jax.device_put(batch, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data")))
    whole = jax.device_put((params, carry), jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec()))
    loss, _ = jax.jit(method.loss)(*whole, split, jax.random.key(2), ZERO)
    assert_close(loss, expected, 1e-5)


def test_a_step_of_lars_is_that_of_the_sum_of_both_directions():
    """google-research/simclr `objective.py`, `loss_a + loss_b`; gradients by central differences in float64.

    What adapts takes the same step with the mean; biases and norm parameters take half of it.
    """
    views = np.random.default_rng(0).normal(size=(8, 2, 2, 2, 1)).astype(np.float32)
    method = methods.simclr(Encoder(), hidden=3, dim=4, temperature=0.5, scale=2.0)
    batch = {"views": jnp.asarray(views)}
    params, carry = jax.jit(method.init)(jax.random.key(0), batch)
    params = jax.tree.map(np.asarray, shaken(params))
    loss = lambda params: method.loss(params, carry, batch, jax.random.key(2), ZERO)[0]  # noqa: E731
    with jax.numpy_dtype_promotion("standard"):
        tx = optim.create("lars", 0.5, weight_decay=1e-2)
        updates, _ = tx.update(jax.jit(jax.grad(loss))(params), tx.init(params), params)

    def both(params):
        losses = numpy_losses(params, views, 2, 0.5)[0]
        return losses[:8].mean() + losses[8:].mean()

    exact = jax.tree.map(lambda x: x.astype(np.float64), params)
    for w, update in zip(jax.tree.leaves(exact), jax.tree.leaves(updates), strict=True):
        gradient = np.zeros_like(w)
        for place in np.ndindex(w.shape):
            here = w[place]
            w[place] = here + 1e-5
            above = both(exact)
            w[place] = here - 1e-5
            gradient[place] = (above - both(exact)) / 2e-5
            w[place] = here
        if w.ndim > 1:
            gradient = gradient + 1e-2 * w
            gradient *= 1e-3 * np.linalg.norm(w) / np.linalg.norm(gradient)
        np.testing.assert_allclose(update, -0.5 * gradient, rtol=1e-3, atol=1e-3 * np.abs(gradient).max())


@pytest.mark.parametrize(("layers", "hidden", "width"), [(2, None, 6), (3, None, 6), (3, 9, 9), (1, None, 6)])
def test_the_head_has_no_bias_before_a_norm_and_no_shift_at_the_end(layers, hidden, width):
    method = methods.simclr(Encoder(), layers=layers, hidden=hidden, dim=5)
    params, carry = jax.jit(method.init)(jax.random.key(0), {"views": jnp.zeros((4, 2, 2, 2, 3))})
    assert sorted(params) == ["encoder", "projector"]
    assert carry.teacher is None
    assert carry.memory is None
    expected, before = {}, 6
    for i in range(layers):
        last = i == layers - 1
        after = 5 if last else width
        expected[f"dense{i}"] = {"kernel": (before, after)}
        expected[f"norm{i}"] = {"scale": (after,)} if last else {"scale": (after,), "bias": (after,)}
        before = after
    assert jax.tree.map(jnp.shape, params["projector"]) == expected


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_encode_gives_the_heads_hidden_layers_with_running_statistics(layers):
    """Version 2 fine-tunes from one of them; pooled features stay the encoder's."""
    method = methods.simclr(Encoder(), layers=layers, hidden=9, dim=5)
    batch = {"views": jax.random.normal(jax.random.key(3), (8, 2, 2, 2, 3))}
    params, carry = jax.jit(method.init)(jax.random.key(0), batch)
    for step in range(2):  # so that running statistics are not those of the start
        _, (carry, _) = jax.jit(method.loss)(params, carry, batch, jax.random.key(step), ZERO)
    image = batch["views"][:, 0]
    pooled, maps = jax.jit(method.encode)(params, carry, image)
    assert sorted(maps) == [f"projector{i}" for i in range(1, layers)]
    running = lambda network, i="": carry.model_state[network]["batch_stats"][f"norm{i}"]  # noqa: E731
    normed = lambda x, s: (x - s["mean"][None]) / np.sqrt(s["var"] + 1e-5)[None]  # noqa: E731
    x = normed(image.reshape(8, -1) @ params["encoder"]["dense"]["kernel"], running("encoder"))
    assert_close(pooled, x, 1e-5)
    head = params["projector"]
    for i in range(layers - 1):
        x = normed(x @ head[f"dense{i}"]["kernel"], running("projector", i)) * head[f"norm{i}"]["scale"][None]
        x = np.maximum(x + head[f"norm{i}"]["bias"][None], 0)
        assert_close(maps[f"projector{i + 1}"], x, 1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"temperature": 0.0}, "`temperature` must be above 0, but is 0.0"),
        ({"scale": 0.0}, "`scale` must be above 0, but is 0.0"),
        ({"temperature": -0.1}, "`temperature` must be above 0, but is -0.1"),
        ({"layers": 0}, "`layers` must be above 0"),
        ({"dim": 0}, "`dim` must be above 0"),
        ({"hidden": 0}, "`hidden` must be above 0"),
    ],
)
def test_impossible_settings_are_refused_when_the_method_is_built(arguments, message):
    with pytest.raises(UserError, match=message):
        methods.simclr(Encoder(), **arguments)
