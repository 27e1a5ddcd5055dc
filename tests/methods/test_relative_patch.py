import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from values import assert_close

from ssl_jax import methods, nets
from ssl_jax.core import UserError

ZERO = jnp.zeros((), jnp.int32)
SIZES = {"patch": 3, "gap": 1, "hidden": 6}


class Pixels(nn.Module):
    """All pixels as features, in their places."""

    def __call__(self, image, train):
        return image.reshape(len(image), -1), {"image": image}


def views(b=4, side=11, count=1):
    return {"views": jax.random.normal(jax.random.key(0), (b, count, side, side, 2))}


def standardized_patches(image, size=3, step=4):
    """Patches `[b 9 d]`, row by row, each channel of each with mean 0 and deviation 1."""
    rows = []
    for y in range(3):
        for x in range(3):
            patch = image[:, y * step : y * step + size, x * step : x * step + size]
            patch = patch - patch.mean((1, 2), keepdims=True)
            rows.append((patch / np.sqrt(patch.var((1, 2), keepdims=True) + 1e-5)).reshape(len(image), -1))
    return np.stack(rows, axis=1)


def test_loss_is_that_of_the_middle_patch_against_its_eight_neighbours():
    """The head by hand in float64: linear, batch norm, ReLU, linear; places row by row without the middle."""
    method = methods.relative_patch(Pixels(), jitter=0, dropout=0.0, **SIZES)
    params, carry = jax.jit(method.init)(jax.random.key(1), views())
    head = jax.tree.map(lambda x: np.asarray(x, np.float64), params["head"])
    patches = standardized_patches(np.asarray(views()["views"][:, 0], np.float64))
    places = [0, 1, 2, 3, 5, 6, 7, 8]
    pairs = np.stack([np.concatenate([patches[:, 4], patches[:, p]], axis=1) for p in places], axis=1)
    hidden = pairs.reshape(32, -1) @ head["dense0"]["kernel"]
    hidden = (hidden - hidden.mean(0)) / np.sqrt(hidden.var(0) + 1e-5)
    logits = np.maximum(hidden, 0) @ head["dense1"]["kernel"] + head["dense1"]["bias"]
    label = np.tile(np.arange(8), 4)
    expected = np.log(np.exp(logits).sum(1)) - logits[np.arange(32), label]
    value, (after, metrics) = jax.jit(method.loss)(params, carry, views(), jax.random.key(2), ZERO)
    assert_close(value, expected.mean(), 2e-5)
    assert metrics["place_accuracy"] == pytest.approx((logits.argmax(1) == label).mean())
    assert_close(metrics["features"], patches.mean(1), 1e-4)
    assert jax.tree.structure(after) == jax.tree.structure(carry)


def test_brightness_and_contrast_of_a_patch_change_nothing():
    """Else the place is read off vignetting and colour fringes; each patch of the grid gets others here."""
    method = methods.relative_patch(Pixels(), jitter=0, dropout=0.0, **SIZES)
    params, carry = jax.jit(method.init)(jax.random.key(1), views())
    cell = np.minimum(np.arange(11) // 4, 2)
    cell = 3 * cell[:, None] + cell[None]
    gains, shifts = (jax.random.uniform(jax.random.key(k), (9, 2), minval=0.5) for k in (3, 4))
    changed = {"views": views()["views"] * gains[cell][None, None] + shifts[cell][None, None]}
    loss = jax.jit(method.loss)
    before, after = (loss(params, carry, x, jax.random.key(2), ZERO)[0] for x in (views(), changed))
    assert after == pytest.approx(float(before), rel=1e-3)


def test_patches_move_and_units_drop_out_by_the_key():
    still = {"jitter": 0, "dropout": 0.0}
    for changes in ({"jitter": 2}, {"dropout": 0.5}):
        method = methods.relative_patch(Pixels(), **{**SIZES, **still, **changes})
        params, carry = jax.jit(method.init)(jax.random.key(1), views(side=13))
        loss = jax.jit(method.loss)
        values = [loss(params, carry, views(side=13), jax.random.key(seed), ZERO)[0] for seed in (0, 0, 1)]
        assert values[0] == values[1]
        assert values[0] != values[2]


def test_a_patch_is_embedded_once_and_an_image_is_encoded_whole():
    sizes = []

    class Counting(nn.Module):
        @nn.compact
        def __call__(self, image, train):
            sizes.append(image.shape)
            return image.mean((1, 2)), {}

    method = methods.relative_patch(Counting(), jitter=0, **SIZES)
    params, carry = method.init(jax.random.key(1), views())
    sizes.clear()
    method.loss(params, carry, views(), jax.random.key(2), ZERO)
    method.encode(params, carry, views()["views"][:, 0])
    assert sizes == [(36, 3, 3, 2), (4, 11, 11, 2)]


def test_a_transformer_whose_patches_fit_learns():
    method = methods.relative_patch(nets.ViT(patch=4, dim=8, depth=1, heads=2), patch=8, gap=0, jitter=0, hidden=6)
    batch = views(side=24)
    params, carry = jax.jit(method.init)(jax.random.key(1), batch)
    gradients = jax.jit(jax.grad(lambda p: method.loss(p, carry, batch, jax.random.key(2), ZERO)[0]))(params)
    assert np.any(gradients["encoder"]["patch_kernel"])
    assert method.encode(params, carry, batch["views"][:, 0])[0].shape == (4, 8)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"patch": 0}, "Tiles need a grid, a size"),
        ({"patch": 4, "gap": -4}, "size plus gap of at least 1"),
        ({"jitter": -1}, "a jitter of at least 0"),
        ({"hidden": 0}, "`hidden` must be above 0"),
        ({"dropout": 1.0}, "`dropout` must be at least 0 and below 1, but is 1.0"),
        (
            {"encoder": nets.ViT(patch=16), "patch": 40},
            "Tiles of 40 pixels do not divide into the encoder's patches of 16",
        ),
    ],
)
def test_impossible_settings_are_refused_when_the_method_is_built(arguments, message):
    with pytest.raises(UserError, match=message):
        methods.relative_patch(**{"encoder": Pixels(), **arguments})


def test_images_too_small_for_the_grid_and_other_views_are_errors():
    method = methods.relative_patch(Pixels())
    with pytest.raises(UserError, match="takes 255 x 255 pixels, but the images have 224 x 224"):
        method.init(jax.random.key(0), views(side=224))
    with pytest.raises(UserError, match="takes one view of each example"):
        method.init(jax.random.key(0), views(count=2))


def test_a_loss_that_stays_at_chance_is_told():
    assert "a guess among 8" in methods.relative_patch(Pixels()).warn({"loss": 2.079, "step": 300})
