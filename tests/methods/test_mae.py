"""MAE against solo-learn's and lightly's patches, targets, loss and positions; masks and the decoder by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from values import assert_close

from ssl_jax import losses, methods, nets
from ssl_jax.core import UserError
from ssl_jax.methods.mae import random_masks
from ssl_jax.nets.mae_decoder import MAEDecoder
from ssl_jax.nets.patches import patchify, unpatchify
from ssl_jax.nets.positions import sincos

STEP = jnp.zeros((), jnp.int32)
TINY = {"dim": 8, "depth": 1, "heads": 2}


def vit(**fields):
    return nets.ViT(**{"patch": 4, "dim": 16, "depth": 2, "heads": 2, "pos": "sincos", **fields})


def mae(**arguments):
    return methods.mae(vit(), **{**TINY, **arguments})


def batch(count=4, side=16, channels=1):
    values = np.random.default_rng(0).normal(size=(count, 1, side, side, channels))
    return {"views": jnp.asarray(values, jnp.float32)}


def test_patches_and_back(fixture):
    data = fixture("mae")
    image = jnp.asarray(data["images"].transpose(0, 2, 3, 1))
    patches = patchify(image, 4)
    np.testing.assert_array_equal(patches, data["patches"].astype(np.float32))
    np.testing.assert_array_equal(unpatchify(patches, (12, 12), 4), image)


@pytest.mark.parametrize("normalised", [True, False])
@pytest.mark.parametrize(("dtype", "tolerance"), [(jnp.float32, 1e-5), (jnp.float64, 1e-12)])
def test_masked_loss_and_gradient_equal_solo_learn(fixture, normalised, dtype, tolerance):
    data = fixture("mae")
    with jax.enable_x64(dtype == jnp.float64):
        target, prediction = jnp.asarray(data["patches"], dtype), jnp.asarray(data["pred"], dtype)
        masked = jnp.asarray(data["mask"]) == 1
        if normalised:
            target = losses.normalize_patches(target)[0]
        value, gradient = jax.value_and_grad(losses.masked_patch_error)(prediction, target, masked)
        assert value.dtype == dtype
        assert_close(value, data[f"loss_norm{normalised}"], tolerance)
        assert_close(gradient, data[f"grad_norm{normalised}"], tolerance)
    assert not np.any(np.asarray(gradient)[data["mask"] == 0])


def test_targets_are_normalised_with_the_unbiased_variance(fixture):
    data = fixture("mae")
    normal, mean, std = losses.normalize_patches(jnp.asarray(data["patches"], jnp.float32))
    assert_close(normal, data["target_norm"])
    assert_close(normal * std + mean, data["patches"])
    biased = (data["patches"] - data["patches"].mean(-1, keepdims=True)) / data["patches"].std(-1, keepdims=True)
    assert np.abs(np.asarray(normal) - biased).max() > 1e-2


@pytest.mark.parametrize(("dim", "side"), [(16, 3), (8, 4)])
def test_positions_equal_solo_learn(fixture, dim, side):
    assert_close(sincos(side, side, dim).reshape(-1, dim), fixture("mae")[f"sincos_d{dim}_g{side}"][1:])


def test_masks_keep_a_quarter_of_each_image_and_know_the_way_back():
    keep, restore = jax.jit(lambda rng: random_masks(rng, 500, 16, 0.75))(jax.random.key(0))
    keep, restore = np.asarray(keep), np.asarray(restore)
    assert keep.shape == (500, 4)
    assert keep.dtype == restore.dtype == np.int32
    for kept, back in zip(keep, restore, strict=True):
        assert len(set(kept)) == 4
        np.testing.assert_array_equal(back[kept], np.arange(4))
        np.testing.assert_array_equal(np.sort(back), np.arange(16))
    share = (restore < 4).mean(0)
    np.testing.assert_allclose(share, 0.25, atol=5 * np.sqrt(0.25 * 0.75 / 500))
    few, _ = random_masks(jax.random.key(0), 2, 4, 0.99)
    assert few.shape == (2, 1)  # at least one is seen
    most, _ = random_masks(jax.random.key(0), 2, 4, 0.01)
    assert most.shape == (2, 3)  # and one hidden
    # The authors' int(n * (1 - ratio)).
    assert random_masks(jax.random.key(0), 2, 49, 0.75)[0].shape == (2, 12)


def test_hidden_pixels_never_reach_the_encoder():
    """Their only way into the loss is the target: features and predictions stay, whatever they are."""
    method, given = mae(normalize_pixels=False), batch()
    params, carry = jax.jit(method.init)(jax.random.key(0), given)
    shown = jax.jit(method.pictures)(params, carry, given, jax.random.key(5))
    hidden = np.asarray(shown["masked"] == 0)
    assert hidden.mean() == 0.75
    noise = jnp.asarray(np.random.default_rng(1).normal(size=hidden.shape) * hidden, jnp.float32)
    other = {"views": given["views"] + noise[:, None]}
    again = jax.jit(method.pictures)(params, carry, other, jax.random.key(5))
    np.testing.assert_array_equal(again["masked"], shown["masked"])
    np.testing.assert_array_equal(again["reconstruction"], shown["reconstruction"])
    loss = jax.jit(method.loss)
    (value, (_, metrics)), (moved, (_, after)) = (
        loss(params, carry, x, jax.random.key(5), STEP) for x in (given, other)
    )
    np.testing.assert_array_equal(metrics["features"], after["features"])
    assert value != moved


def test_decoder_puts_tokens_back_and_the_mask_token_elsewhere():
    """With no block, a patch's prediction depends on its own token and place only."""
    decoder = MAEDecoder((2, 2), 3, dim=8, depth=0, heads=2)
    tokens = jnp.asarray(np.random.default_rng(0).normal(size=(1, 3, 5)), jnp.float32)
    restore = jnp.asarray([[2, 1, 3, 0]], jnp.int32)  # of the two seen patches, the first belongs to place 3
    variables = decoder.init(jax.random.key(0), tokens, train=True, restore=restore)
    p = jax.tree.map(lambda x: np.asarray(x, np.float64), variables["params"])
    embedded = np.asarray(tokens[0], np.float64) @ p["embed"]["kernel"] + p["embed"]["bias"]
    rows = np.stack([p["mask"], embedded[2], p["mask"], embedded[1]]) + sincos(2, 2, 8).reshape(4, 8)
    rows = (rows - rows.mean(1, keepdims=True)) / np.sqrt(rows.var(1, keepdims=True) + 1e-6)
    rows = rows * p["norm"]["scale"] + p["norm"]["bias"]
    got = decoder.apply(variables, tokens, train=True, restore=restore)
    assert_close(got[0], rows @ p["image"]["kernel"] + p["image"]["bias"])


def test_pictures_keep_the_patches_seen():
    method, given = mae(), batch(channels=3)
    params, carry = jax.jit(method.init)(jax.random.key(0), given)
    made = jax.jit(method.pictures)(params, carry, given, jax.random.key(1))
    assert list(made) == ["image", "masked", "reconstruction"] or sorted(made) == ["image", "masked", "reconstruction"]
    seen = np.asarray(made["masked"]) != 0
    np.testing.assert_array_equal(np.asarray(made["reconstruction"])[seen], np.asarray(made["image"])[seen])


def test_warns_when_every_patch_is_predicted_alike():
    warn = mae().warn
    assert "mean patch" in warn({"loss": 0.99, "mean_patch_loss": 1.0, "step": 300})
    assert warn({"loss": 0.7, "mean_patch_loss": 1.0, "step": 300}) is None
    assert warn({"loss": 0.99, "mean_patch_loss": 1.0, "step": 30}) is None


@pytest.mark.parametrize(
    ("encoder", "arguments", "message"),
    [
        (nets.ConvNet(), {}, "needs a ViT, for example --config.encoder=vit_b, not ConvNet"),
        (vit(), {"mask_ratio": 1.0}, "`mask_ratio` must lie between 0 and 1, but is 1.0"),
        (vit(), {"depth": 0}, "`depth` must be above 0"),
        (vit(), {"dim": 10, "heads": 4}, "multiple of its `heads`"),
    ],
)
def test_impossible_settings_are_refused_when_the_method_is_built(encoder, arguments, message):
    with pytest.raises(UserError, match=message):
        methods.mae(encoder, **arguments)


def test_images_that_do_not_divide_into_patches_are_refused():
    with pytest.raises(UserError, match="14 x 14 do not divide into patches of 4"):
        mae().init(jax.random.key(0), batch(side=14))
