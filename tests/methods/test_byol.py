import flax.linen as nn
import jax
import jax.numpy as jnp
import networks
import numpy as np
import optax
import pytest
from values import assert_close

from ssl_jax import collapse, init_state, make_train_step, methods, monitors, nets
from ssl_jax.core import UserError
from ssl_jax.schedules import cosine

ZERO = jnp.zeros((), jnp.int32)


class Encoder(nn.Module):
    """One dense layer and a batch norm; pooled features only."""

    @nn.compact
    def __call__(self, image, train):
        return nn.relu(nets.BatchNorm(name="norm")(nn.Dense(6, name="dense")(image.reshape(len(image), -1)), train))


class Numpy:
    """The networks of one player in float64, as the paper's equations, with running batch statistics."""

    def __init__(self, params, state):
        convert = lambda tree: jax.tree.map(lambda x: np.asarray(x, np.float64), tree)  # noqa: E731
        self.params, self.state = convert(params), convert(state)

    def norm(self, network, name, x):
        mean, var = x.mean(axis=0), x.var(axis=0)
        running = self.state[network]["batch_stats"][name]
        running["mean"] = 0.9 * running["mean"] + 0.1 * mean
        running["var"] = 0.9 * running["var"] + 0.1 * var
        affine = self.params[network][name]
        return (x - mean) / np.sqrt(var + 1e-5) * affine["scale"] + affine["bias"]

    def encode(self, x):
        layer = self.params["encoder"]["dense"]
        x = x.reshape(len(x), -1).astype(np.float64) @ layer["kernel"] + layer["bias"]
        return np.maximum(self.norm("encoder", "norm", x), 0)

    def head(self, network, x):
        """Linear with bias, batch norm, ReLU, linear without bias."""
        params = self.params[network]
        x = np.maximum(self.norm(network, "norm0", x @ params["dense0"]["kernel"] + params["dense0"]["bias"]), 0)
        return x @ params["dense1"]["kernel"]


def regression(prediction, target):
    """Equation 2: squared distance of unit vectors."""
    unit = lambda x: x / np.linalg.norm(x, axis=1, keepdims=True)  # noqa: E731
    return np.sum((unit(prediction) - unit(target)) ** 2, axis=1).mean()


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(0)
    return {"views": jnp.asarray(rng.normal(size=(12, 2, 2, 2, 3)), jnp.float32)}


@pytest.fixture(scope="module")
def player(batch):
    method = methods.byol(Encoder(), hidden=10, dim=5, momentum=0.9)
    params, carry = jax.jit(method.init)(jax.random.key(0), batch)
    # Targets whose norms are not at their start (scale 1, shift 0), so that these count too.
    shake = lambda i, x: x + 0.1 * jax.random.normal(jax.random.key(i), x.shape)  # noqa: E731
    leaves, tree = jax.tree.flatten((params, carry.teacher["params"]))
    params, target = jax.tree.unflatten(tree, [shake(i, x) for i, x in enumerate(leaves)])
    return method, params, carry.replace(teacher={**carry.teacher, "params": target})


def test_loss_is_the_sum_of_both_directions_and_each_player_keeps_its_own_statistics(player, batch):
    method, params, carry = player
    loss, (after, metrics) = jax.jit(method.loss)(params, carry, batch, jax.random.key(1), ZERO)
    online = Numpy(params, carry.model_state)
    target = Numpy(carry.teacher["params"], carry.teacher["model_state"])
    predictions, targets, pooled = [], [], []
    for view in range(2):  # one view after the other: batch statistics are per view
        image = np.asarray(batch["views"][:, view])
        pooled.append(online.encode(image))
        predictions.append(online.head("predictor", online.head("projector", pooled[-1])))
        targets.append(target.head("projector", target.encode(image)))
    expected = regression(predictions[0], targets[1]) + regression(predictions[1], targets[0])
    assert 0 < expected < 8
    assert_close(loss, expected, 1e-5)
    assert_close(metrics["embedding"], predictions[0], 1e-5)
    assert_close(metrics["features"], pooled[0], 1e-5)
    jax.tree.map(lambda a, e: assert_close(a, e, 1e-5), after.model_state, online.state)
    jax.tree.map(lambda a, e: assert_close(a, e, 1e-5), after.teacher["model_state"], target.state)
    jax.tree.map(np.testing.assert_array_equal, after.teacher["params"], carry.teacher["params"])
    different = jax.tree.map(
        lambda a, b: bool(np.any(a != b)), after.teacher["model_state"]["encoder"], after.model_state["encoder"]
    )
    assert all(jax.tree.leaves(different))


def test_target_starts_from_a_random_initialisation_of_its_own(batch):
    method = methods.byol(Encoder(), hidden=10, dim=5)
    params, carry = jax.jit(method.init)(jax.random.key(0), batch)
    assert sorted(params) == ["encoder", "predictor", "projector"]
    assert sorted(carry.teacher["params"]) == ["encoder", "projector"]
    online = {name: params[name] for name in ("encoder", "projector")}
    kernels = 0
    for (path, a), b in zip(jax.tree.leaves_with_path(online), jax.tree.leaves(carry.teacher["params"]), strict=True):
        assert a.shape == b.shape
        if path[-1].key == "kernel":
            kernels += 1
            assert np.mean(np.asarray(a) == np.asarray(b)) < 0.01
    assert kernels == 3


def test_head_is_that_of_deepmind(batch):
    params, _ = methods.byol(Encoder(), hidden=10, dim=5).init(jax.random.key(0), batch)
    shapes = jax.tree.map(jnp.shape, params)
    norm = {"scale": (10,), "bias": (10,)}
    assert shapes["projector"] == {
        "dense0": {"kernel": (6, 10), "bias": (10,)},
        "norm0": norm,
        "dense1": {"kernel": (10, 5)},
    }
    assert shapes["predictor"] == {
        "dense0": {"kernel": (5, 10), "bias": (10,)},
        "norm0": norm,
        "dense1": {"kernel": (10, 5)},
    }


def test_no_gradient_reaches_the_target(player, batch):
    method, params, carry = player

    def loss(params, teacher):
        return method.loss(params, carry.replace(teacher=teacher), batch, jax.random.key(1), ZERO)[0]

    own, teacher = jax.jit(jax.grad(loss, argnums=(0, 1)))(params, carry.teacher)
    assert all(np.any(leaf) for leaf in jax.tree.leaves(own["predictor"]["dense1"]))
    assert np.any(own["encoder"]["dense"]["kernel"])
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(teacher))


@pytest.mark.parametrize("stop_gradient", [True, False])
def test_without_the_stop_the_online_network_is_its_own_target_and_collapses(stop_gradient):
    method = methods.byol(networks.Tiny(dim=16), hidden=16, dim=8, momentum=0.9, stop_gradient=stop_gradient)
    tx = optax.chain(optax.add_decayed_weights(1e-3), optax.sgd(0.2, momentum=0.9))
    batch = networks.batch(examples=32)
    state, step = init_state(method, tx, batch), make_train_step(method, tx)
    before = jax.tree.map(np.asarray, state.carry.teacher["model_state"])
    for _ in range(100):
        state, metrics = step(state, batch)
    std = float(monitors.collapse(metrics["embedding"])["embedding_std"])
    assert std > 0.5 if stop_gradient else std < 0.1
    assert (collapse.embedding({"embedding_std": std}) is None) == stop_gradient
    after = state.carry.teacher["model_state"]
    moved = jax.tree.leaves(jax.tree.map(lambda a, b: bool(np.any(a != b)), before, after))
    assert all(moved) if stop_gradient else not any(moved)


def test_the_average_covers_parameters_and_not_statistics(player):
    method, params, carry = player
    after = method.update(params, carry, ZERO)
    online = {name: params[name] for name in ("encoder", "projector")}
    expected = jax.tree.map(lambda t, o: 0.9 * t + 0.1 * o, carry.teacher["params"], online)
    jax.tree.map(lambda a, e: assert_close(a, e, 1e-6), after.teacher["params"], expected)
    jax.tree.map(np.testing.assert_array_equal, after.teacher["model_state"], carry.teacher["model_state"])
    jax.tree.map(np.testing.assert_array_equal, after.model_state, carry.model_state)


def test_the_momentum_is_that_of_the_step_just_made_0_first(batch):
    """With online parameters held (rate 0), the distance to them shrinks by tau_0, tau_1, ... = ..., not by 1."""
    method = methods.byol(Encoder(), hidden=10, dim=5, momentum=cosine(0.5, 1.0, steps=3))
    tx = optax.sgd(0.0)
    state = init_state(method, tx, batch)
    step = make_train_step(method, tx)
    kernel = lambda tree: np.asarray(tree["encoder"]["dense"]["kernel"], np.float64)  # noqa: E731
    online, gap = kernel(state.params), kernel(state.carry.teacher["params"]) - kernel(state.params)
    for k in range(4):
        gap = gap * (1 - (1 - 0.5) * (np.cos(np.pi * k / 3) + 1) / 2)
        state, _ = step(state, batch)
        assert_close(kernel(state.carry.teacher["params"]) - online, gap, 1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"momentum": -0.1}, r"momentum in 0\.\.1, but was given -0.1"),
        ({"hidden": 0}, "`hidden` must be above 0, but is 0"),
        ({"dim": 0}, "`dim` must be above 0"),
    ],
)
def test_impossible_settings_are_refused_when_the_method_is_built(arguments, message):
    with pytest.raises(UserError, match=message):
        methods.byol(Encoder(), **arguments)
