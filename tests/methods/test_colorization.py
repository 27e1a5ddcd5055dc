import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import recipes
from skimage import color
from values import assert_close

from ssl_jax import augment, color_bins, init_state, make_train_step, methods
from ssl_jax.core import UserError
from ssl_jax.data import from_arrays
from ssl_jax.experiment import build_method
from ssl_jax.nets.dense_head import DenseHead

ZERO = jnp.zeros((), jnp.int32)
CENTRES = color_bins.bins()


class Tiny(nn.Module):
    """A convolution of stride 4, as map "last"."""

    @nn.compact
    def __call__(self, image, train):
        assert image.shape[-1] == 1
        x = nn.Conv(6, (4, 4), (4, 4))(image)
        return x.mean((1, 2)), {"first": image, "last": x}


class NoMap(nn.Module):
    @nn.compact
    def __call__(self, image, train):
        return nn.Dense(4)(image.mean((1, 2)))


def images(b=4, size=16, seed=0, low=0.0):
    return jnp.asarray(np.random.default_rng(seed).uniform(low, 1, (b, 1, size, size, 3)), jnp.float32)


def started(batch, **arguments):
    method = methods.colorization(Tiny(), hidden=8, **arguments)
    return method, *jax.jit(method.init)(jax.random.key(0), batch)


def logits_of(method, params, carry, rgb):
    """What the network predicts in training, without the loss."""
    grey = (color.rgb2lab(np.asarray(rgb, np.float64))[..., :1] - 50) / 50
    _, maps = Tiny().apply({"params": params["encoder"]}, jnp.asarray(grey, jnp.float32), True)
    head = DenseHead(8, len(CENTRES), (4, 4))
    return head.apply({"params": params["head"], **carry.model_state["head"]}, maps["last"], train=True, mutable=True)[
        0
    ]


def test_loss_and_prior_are_the_papers_formulas():
    """Equations 2 to 4 in plain numpy, with one grey image in the batch, which must count for nothing."""
    batch = {"views": images().at[2].set(0.5)}
    method, params, carry = started(batch)
    prior = np.random.default_rng(1).dirichlet(np.full(len(CENTRES), 0.3))
    carry = carry.replace(memory={"prior": jnp.asarray(prior, jnp.float32)})
    loss, (after, metrics) = jax.jit(method.loss)(params, carry, batch, jax.random.key(0), ZERO)
    rgb = batch["views"][:, 0]
    ab = color.rgb2lab(np.asarray(rgb, np.float64))[..., 1:].reshape(4, 4, 4, 4, 4, 2)
    logits = np.asarray(logits_of(method, params, carry, rgb), np.float64)
    logp = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    small = np.asarray(jax.image.resize(jnp.asarray(ab.reshape(4, 16, 16, 2), jnp.float32), (4, 4, 4, 2), "linear"))
    target = np.asarray(color_bins.soft_encode(jnp.asarray(small), CENTRES), np.float64)
    weights = 1 / (0.5 * prior + 0.5 / len(CENTRES))
    weights /= (weights * prior).sum()
    entropies = -(target * logp).sum(-1)
    coloured = [0, 1, 3]
    assert_close(metrics["cross_entropy"], entropies[coloured].mean(), 1e-4)
    assert_close(loss, (weights[target.argmax(-1)] * entropies)[coloured].mean(), 1e-4)
    seen = target[coloured].mean((0, 1, 2))
    assert_close(after.memory["prior"], 0.99 * prior + 0.01 * seen, 1e-5)
    np.testing.assert_allclose(after.memory["prior"].sum(), 1, rtol=1e-5)


def test_regression_is_half_the_squared_error_of_ab():
    batch = {"views": images()}
    method, params, carry = started(batch, regression=True)
    params["head"]["out"] = jax.tree.map(jnp.zeros_like, params["head"]["out"])
    loss, (after, metrics) = jax.jit(method.loss)(params, carry, batch, jax.random.key(0), ZERO)
    ab = jnp.asarray(color.rgb2lab(np.asarray(batch["views"][:, 0], np.float64))[..., 1:], jnp.float32)
    small = np.asarray(jax.image.resize(ab, (4, 4, 4, 2), "linear")) / 100
    assert_close(loss, 0.5 * (small**2).sum(-1).mean(), 1e-4)
    assert metrics["chroma"] == 0
    np.testing.assert_array_equal(after.memory["prior"], carry.memory["prior"])


def test_a_batch_of_grey_images_teaches_nothing_and_is_finite():
    batch = {"views": jnp.broadcast_to(images()[..., :1], (4, 1, 16, 16, 3))}
    for regression in (False, True):
        method, params, carry = started(batch, regression=regression)
        (loss, (after, _)), grads = jax.jit(jax.value_and_grad(method.loss, has_aux=True))(
            params, carry, batch, jax.random.key(0), ZERO
        )
        assert loss == 0
        assert all(np.all(np.asarray(g) == 0) for g in jax.tree.leaves(grads))
        np.testing.assert_allclose(after.memory["prior"], carry.memory["prior"], rtol=1e-5)


def test_encoder_sees_lightness_alone():
    """Two images of one lightness and different colours are encoded alike, and `encode` takes colour."""
    batch = {"views": images()}
    method, params, carry = started(batch)
    lab = np.stack([np.full((16, 16), 60.0)] * 3, -1) * [1, 0, 0]
    one, two = (color.lab2rgb(lab + np.array([0, a, b])) for a, b in ((20, 10), (-20, 15)))
    pooled, maps = method.encode(params, carry, jnp.asarray(np.stack([one, two]), jnp.float32))
    np.testing.assert_allclose(pooled[0], pooled[1], atol=1e-4)
    assert set(maps) == {"first", "last"}


def test_views_may_be_normalised_if_the_method_is_told():
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.3, 0.25)
    plain = {"views": images()}
    normal = {
        "views": (plain["views"] - jnp.asarray(mean).reshape(1, 1, 1, 1, 3)) / jnp.asarray(std).reshape(1, 1, 1, 1, 3)
    }
    found = []
    for batch, stats in ((plain, {}), (normal, {"mean": mean, "std": std})):
        method, params, carry = started(batch, **stats)
        loss, (_, metrics) = jax.jit(method.loss)(params, carry, batch, jax.random.key(0), ZERO)
        assert method.warn({key: float(x) for key, x in metrics.items() if x.ndim == 0}) is None
        found.append((loss, method.encode(params, carry, batch["views"][:, 0])[0]))
        made = method.pictures(params, carry, batch, jax.random.key(0))
        assert sorted(made) == ["colorized", "grey", "original"]
        assert {x.shape for x in made.values()} == {(4, 16, 16, 3)}
        np.testing.assert_array_equal(made["original"], batch["views"][:, 0])
    assert_close(found[0][0], found[1][0], 1e-4)
    assert_close(found[0][1], found[1][1], 1e-4)


def test_views_that_were_normalised_behind_its_back_are_told():
    batch = {"views": images() * 4 - 2}
    method, params, carry = started(batch)
    _, (_, metrics) = jax.jit(method.loss)(params, carry, batch, jax.random.key(0), ZERO)
    text = method.warn({key: float(x) for key, x in metrics.items() if x.ndim == 0})
    assert "don't normalise them, or build the method with the same mean and std" in text


def test_warns_of_grey_predictions():
    warn = methods.colorization(Tiny()).warn
    logged = {"step": 300.0, "chroma": 1.0, "true_chroma": 20.0}
    assert "nearly grey" in warn(logged)
    assert warn({**logged, "step": 100.0}) is None
    assert warn({**logged, "chroma": 10.0}) is None


def test_pictures_keep_the_lightness():
    batch = {"views": images(low=0.3)}
    method, params, carry = started(batch)
    made = method.pictures(params, carry, batch, jax.random.key(0))
    lab = {key: color.rgb2lab(np.asarray(x, np.float64)) for key, x in made.items()}
    np.testing.assert_allclose(lab["grey"][..., 0], lab["original"][..., 0], atol=0.01)
    np.testing.assert_allclose(lab["grey"][..., 1:], 0, atol=0.02)
    for image in made.values():
        assert image.min() >= 0
        assert image.max() <= 1


def test_learns_a_colour_that_depends_on_lightness():
    """Dark squares are blue, light ones are orange: the decoded colours come near them."""
    rng = np.random.default_rng(0)
    light = rng.integers(0, 2, (32, 1, 1, 1))
    rgb = np.where(light, [240, 160, 60], [20, 40, 120]) + rng.integers(-5, 5, (32, 16, 16, 3))
    source = from_arrays(np.clip(rgb, 0, 255).astype(np.uint8))
    method = methods.colorization(Tiny(), hidden=8, prior_momentum=0.5)
    views, tx = augment.clean(16), optax.adam(0.05)
    batch = {**source[np.arange(32)], "id": np.arange(32, dtype=np.int32)}
    state = init_state(method, tx, batch, views=views)
    step = make_train_step(method, tx, views=views)
    for _ in range(60):
        state, metrics = step(state, batch)
    assert metrics["ab_error"] < 8
    assert metrics["true_chroma"] > 30


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"stride": 0}, "`stride` must be above 0"),
        ({"temperature": 0.0}, "`temperature` must be above 0"),
        ({"rebalance": 1.5}, r"`rebalance` in \(0, 1\]"),
        ({"prior_momentum": 1.0}, r"`prior_momentum` in \[0, 1\)"),
        ({"neighbors": 400}, "309 bins of colour, so `neighbors` can't be 400"),
        ({"mean": (0.5,), "std": (0.5,)}, "three channels"),
        ({"mean": (0.5, 0.5, 0.5)}, "or neither"),
    ],
)
def test_impossible_settings_are_refused_when_the_method_is_built(arguments, message):
    with pytest.raises(UserError, match=message):
        methods.colorization(Tiny(), **arguments)


def test_grey_images_and_encoders_without_maps_are_refused_at_the_start():
    for encoder, layer, channels, message in (
        (Tiny(), None, 1, r"needs images in colour, but these have 1 channel"),
        (NoMap(), None, 3, "there is no map"),
        (Tiny(), "stage9", 3, "there is no stage9: it returns first, last"),
    ):
        method = methods.colorization(encoder, layer=layer)
        with pytest.raises(UserError, match=message):
            jax.eval_shape(method.init, jax.random.key(0), {"views": images()[..., :channels]})


def test_a_run_tells_the_method_how_views_are_normalised(monkeypatch):
    c = recipes.config("colorization", normalize="imagenet")
    source, told = from_arrays(np.zeros((4, 16, 16, 3), np.uint8)), {}

    def spy(encoder, *, mean=None, std=None, **rest):
        told.update(mean=mean, std=std)
        return methods.simclr(encoder)

    monkeypatch.setattr("ssl_jax.experiment.methods.colorization", spy)
    build_method(c.copy_and_resolve_references(), source, steps=5)
    assert told == {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
