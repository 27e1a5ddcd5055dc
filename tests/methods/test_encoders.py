"""What every method asks of an encoder: a user's own linen module, and errors that say what it lacks."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssl_jax import methods, nets
from ssl_jax.core import UserError

METHODS = {
    "simclr": lambda encoder: methods.simclr(encoder, hidden=8, dim=4),
    "byol": lambda encoder: methods.byol(encoder, hidden=8, dim=4),
    "moco": lambda encoder: methods.moco(encoder, dim=4, queue_size=12),
}
HEADS = {"simclr": ["projector"], "byol": ["predictor", "projector"], "moco": ["projector"]}
OWN_MAPS = {"simclr": ["projector1"]}  # besides the encoder's
ZERO = jnp.zeros((), jnp.int32)


@pytest.fixture(params=METHODS)
def name(request):
    return request.param


def batch(views=2):
    return {"views": jax.random.normal(jax.random.key(0), (8, views, 8, 8, 3))}


class Plain(nn.Module):
    """Pooled features only, a norm of flax's own, and dropout."""

    @nn.compact
    def __call__(self, image, train):
        x = nn.Conv(6, (3, 3))(image)
        x = nn.relu(nn.BatchNorm(use_running_average=not train)(x))
        return nn.Dropout(0.2, deterministic=not train)(x.mean(axis=(1, 2)))


class Stateless(nn.Module):
    """No batch statistics, and maps."""

    @nn.compact
    def __call__(self, image, train):
        x = nn.Conv(6, (3, 3), name="conv")(image)
        return x.mean(axis=(1, 2)), {"conv": x}


class Returns(nn.Module):
    """Features that are made into something else."""

    what: str

    @nn.compact
    def __call__(self, image, train):
        x = nn.Conv(6, (3, 3))(image)
        pooled = x.mean(axis=(1, 2))
        return {"map": x, "three": (pooled, {}, x), "list": (pooled, [x]), "none": None, "dict": {"pooled": pooled}}[
            self.what
        ]


class NoTrain(nn.Module):
    """Without the argument `train`."""

    @nn.compact
    def __call__(self, image):
        return nn.Dense(4)(image.mean(axis=(1, 2)))


@pytest.mark.parametrize(("encoder", "maps"), [(Plain(), []), (Stateless(), ["conv"])])
def test_a_users_own_module_trains_and_encodes(name, encoder, maps):
    method = METHODS[name](encoder)
    params, carry = jax.jit(method.init)(jax.random.key(1), batch())
    assert sorted(params) == ["encoder", *HEADS[name]]
    grad = jax.jit(jax.grad(method.loss, has_aux=True))
    grads, (after, metrics) = grad(params, carry, batch(), jax.random.key(2), ZERO)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))
    assert all(np.any(leaf) for leaf in jax.tree.leaves(grads["encoder"]) if leaf.ndim > 1)
    assert jax.tree.structure(after) == jax.tree.structure(carry)
    assert metrics["features"].shape == (8, 6)
    assert metrics["embedding"].shape == (8, 4)
    pooled, found = method.encode(params, carry, batch()["views"][:, 0])
    assert pooled.shape == (8, 6)
    assert sorted(found) == sorted([*maps, *OWN_MAPS.get(name, [])])
    again, _ = method.encode(params, carry, batch()["views"][:, 0])
    np.testing.assert_array_equal(pooled, again)


def test_a_key_decides_about_dropout(name):
    method = METHODS[name](Plain())
    params, carry = jax.jit(method.init)(jax.random.key(1), batch())
    loss = jax.jit(method.loss)
    losses = [loss(params, carry, batch(), jax.random.key(seed), ZERO)[0] for seed in (0, 0, 1)]
    assert losses[0] == losses[1]
    assert losses[0] != losses[2]


@pytest.mark.parametrize("what", ["map", "three", "list", "none", "dict"])
def test_a_wrong_return_is_an_error_that_says_what_to_return(name, what):
    with pytest.raises(UserError, match=r"encoder Returns must return features \[batch, dim\], or \(features, dict"):
        METHODS[name](Returns(what)).init(jax.random.key(0), batch())


def test_an_encoder_without_train_is_an_error_that_shows_the_signature(name):
    with pytest.raises(UserError, match=r"NoTrain must take an argument `train`: `def __call__\(self, image, train\)`"):
        METHODS[name](NoTrain()).init(jax.random.key(0), batch())


@pytest.mark.parametrize("views", [1, 3])
def test_another_number_of_views_than_two_is_an_error(name, views):
    method = METHODS[name](Stateless())
    match = rf"takes two views of each example, .*shape \(8, {views}, 8, 8, 3\)"
    with pytest.raises(UserError, match=match):
        method.init(jax.random.key(0), batch(views))
    params, carry = method.init(jax.random.key(0), batch())
    with pytest.raises(UserError, match=match):
        jax.jit(method.loss)(params, carry, batch(views), jax.random.key(0), ZERO)


def test_views_that_are_missing_or_of_several_sizes_are_errors(name):
    method = METHODS[name](Stateless())
    with pytest.raises(UserError, match='holds no "views"'):
        method.init(jax.random.key(0), {"image": jnp.zeros((8, 8, 8, 3), jnp.uint8)})
    with pytest.raises(UserError, match=r"two views of each example, .* was given a tuple"):
        method.init(jax.random.key(0), {"views": (batch()["views"], batch()["views"])})


def test_a_bfloat16_encoder_has_float32_parameters_state_and_loss(name):
    encoder = nets.ConvNet(widths=(4,), pool=(1,), dtype=jnp.bfloat16)
    method = METHODS[name](encoder)
    params, carry = jax.jit(method.init)(jax.random.key(1), batch())
    loss = jax.jit(jax.value_and_grad(method.loss, has_aux=True))
    (value, (after, metrics)), grads = loss(params, carry, batch(), jax.random.key(2), ZERO)
    assert value.dtype == metrics["embedding"].dtype == metrics["features"].dtype == jnp.float32
    floats = [x.dtype for x in jax.tree.leaves((params, carry, grads, after)) if jnp.issubdtype(x.dtype, jnp.floating)]
    assert set(floats) == {jnp.dtype(jnp.float32)}
    reference = METHODS[name](encoder.copy(dtype=jnp.float32))
    exact, _ = jax.jit(reference.loss)(params, carry, batch(), jax.random.key(2), ZERO)
    assert value == pytest.approx(float(exact), rel=0.05)
    assert value != exact  # the arithmetic was that of bfloat16
