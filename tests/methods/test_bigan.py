"""BiGAN's two games in one scalar, against the gradients of each game by itself."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from values import assert_close

from ssl_jax import methods, nets
from ssl_jax.core import UserError
from ssl_jax.methods.bigan import draw_codes, game
from ssl_jax.nets.decoders import ConvDecoder
from ssl_jax.nets.discriminators import JointDiscriminator

STEP = jnp.zeros((), jnp.int32)
SIZES = {"dim": 5, "width": 4, "halvings": 1, "discriminator_width": 4, "discriminator_hidden": 8}


class Mean(nn.Module):
    """One linear layer of the pixels."""

    @nn.compact
    def __call__(self, image, train):
        return nn.Dense(6)(image.reshape(len(image), -1))


def setup(encoder=None):
    method = methods.bigan(encoder or Mean(), **SIZES)
    given = {"views": jnp.asarray(np.random.default_rng(0).normal(size=(6, 1, 8, 8, 1)), jnp.float32)}
    params, carry = jax.jit(method.init)(jax.random.key(0), given)
    return method, given, params, carry


def pairs(params, carry, image, rng):
    """Logits of the real and the made pairs, written out."""
    z = draw_codes(jax.random.split(rng)[0], len(image), 5)
    code = Mean().apply({"params": params["encoder"]}, image, train=True)
    code = code @ params["code"]["dense0"]["kernel"] + params["code"]["dense0"]["bias"][None]
    generator = {"params": params["generator"], **carry.model_state["generator"]}
    made, _ = ConvDecoder((8, 8), 1, 4, 1).apply(generator, z, train=True, mutable=["batch_stats"])
    judge = JointDiscriminator(4, 1, 8)
    score = lambda x, c: judge.apply({"params": params["discriminator"]}, x, train=True, code=c)  # noqa: E731
    return score(image, code), score(made, z)


def test_one_scalar_has_the_gradients_of_two_games():
    """The discriminator's of its own cross-entropy, the others' of the one with swapped labels (paper, section 3.4)."""
    method, given, params, carry = setup()
    rng, image = jax.random.key(3), given["views"][:, 0]
    log = jax.nn.log_sigmoid

    def own(discriminator):
        real, made = pairs({**params, "discriminator": discriminator}, carry, image, rng)
        return -jnp.mean(log(real)) - jnp.mean(log(-made))

    def swapped(others):
        real, made = pairs({**others, "discriminator": params["discriminator"]}, carry, image, rng)
        return -jnp.mean(log(-real)) - jnp.mean(log(made))

    others = {name: params[name] for name in params if name != "discriminator"}
    value, gradient = jax.jit(jax.value_and_grad(own))(params["discriminator"])
    expected = {"discriminator": gradient, **jax.jit(jax.grad(swapped))(others)}
    (got, (_, metrics)), gradients = jax.jit(jax.value_and_grad(method.loss, has_aux=True))(
        params, carry, given, rng, STEP
    )
    assert_close(got, value, 1e-6)
    assert_close(metrics["discriminator_loss"], value, 1e-6)
    assert_close(metrics["generator_loss"], swapped(others), 1e-6)
    assert jax.tree.structure(gradients) == jax.tree.structure(expected)
    for name in expected:
        largest = max(float(jnp.max(jnp.abs(x))) for x in jax.tree.leaves(expected[name]))
        assert largest > 0
        for a, b in zip(jax.tree.leaves(gradients[name]), jax.tree.leaves(expected[name]), strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-6 * max(largest, 1e-2))


def test_losses_by_the_formula():
    logits = np.random.default_rng(0).normal(size=(7, 2))
    real, made = 1 / (1 + np.exp(-logits)).T
    own = -np.log(real).mean() - np.log(1 - made).mean()
    swapped = -np.log(1 - real).mean() - np.log(made).mean()
    x = jnp.asarray(logits, jnp.float32)
    assert_close(game(x, real=1.0), own)
    assert_close(game(x, real=0.0), swapped)
    assert_close(game(jnp.zeros((4, 2)), real=1.0), 2 * np.log(2))
    assert np.isfinite(game(jnp.full((4, 2), 1e4), real=1.0))


def test_accuracies_are_those_of_the_scores():
    method, given, params, carry = setup()
    _, (_, metrics) = jax.jit(method.loss)(params, carry, given, jax.random.key(3), STEP)
    real, made = pairs(params, carry, given["views"][:, 0], jax.random.key(3))
    assert_close(metrics["accuracy_real"], np.mean(np.asarray(real) > 0))
    assert_close(metrics["accuracy_made"], np.mean(np.asarray(made) <= 0))


def test_codes_are_uniform_and_their_number_of_rows_does_not_matter_to_devices():
    z = np.asarray(draw_codes(jax.random.key(0), 4000, 3))
    assert z.min() >= -1
    assert z.max() < 1
    np.testing.assert_allclose(z.mean(0), 0, atol=0.05)
    np.testing.assert_allclose(z.var(0), 1 / 3, atol=0.02)
    other = np.asarray(draw_codes(jax.random.key(1), 4000, 3))
    assert not np.any(z == other)


def test_a_score_depends_on_its_own_pair_alone():
    judge = JointDiscriminator(4, 2, 8)
    rng = np.random.default_rng(0)
    image, code = (jnp.asarray(rng.normal(size=s), jnp.float32) for s in ((6, 9, 7, 3), (6, 5)))
    variables = judge.init(jax.random.key(0), image, train=True, code=code)
    assert list(variables) == ["params"]
    score = judge.apply(variables, image, train=True, code=code)
    assert score.shape == (6,)
    np.testing.assert_allclose(judge.apply(variables, image[2:3], train=True, code=code[2:3])[0], score[2], rtol=1e-5)
    assert not np.allclose(judge.apply(variables, image, train=True, code=code[::-1]), score)


def test_features_are_the_encoders_below_the_code():
    method, given, params, carry = setup()
    pooled, _ = method.encode(params, carry, given["views"][:, 0])
    assert pooled.shape == (6, 6)
    _, (_, metrics) = jax.jit(method.loss)(params, carry, given, jax.random.key(3), STEP)
    assert_close(metrics["features"], pooled)
    assert metrics["embedding"].shape == (6, 5)


def test_pictures():
    method, given, params, carry = setup(nets.ConvNet(widths=(4, 4), pool=(1,)))
    made = jax.jit(method.pictures)(params, carry, given, jax.random.key(3))
    assert sorted(made) == ["image", "reconstruction G(E(x))", "sample G(z)"]
    assert {x.shape for x in made.values()} == {(6, 8, 8, 1)}


def test_warns_when_the_discriminator_has_won():
    warn = methods.bigan(Mean()).warn
    assert "tells all pairs apart" in warn({"discriminator_loss": 0.001, "step": 300})
    assert warn({"discriminator_loss": 0.001, "step": 20}) is None
    assert warn({"discriminator_loss": 0.6, "step": 300}) is None


@pytest.mark.parametrize("name", list(SIZES))
def test_impossible_settings_are_refused_when_the_method_is_built(name):
    with pytest.raises(UserError, match=f"`{name}` must be above 0, but is 0"):
        methods.bigan(Mean(), **{name: 0})
