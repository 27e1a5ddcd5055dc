import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from values import assert_close

from ssl_jax import methods, nets, pretext
from ssl_jax.core import UserError

ZERO = jnp.zeros((), jnp.int32)
SIZES = {"permutations": 6, "grid": 2, "tile": 3, "gap": 1, "dim": 5}


class Pixels(nn.Module):
    """All pixels as features, in their places."""

    def __call__(self, image, train):
        return image.reshape(len(image), -1), {"image": image}


def views(b=4, side=7, count=1):
    return {"views": jax.random.normal(jax.random.key(0), (b, count, side, side, 2))}


def start(**changes):
    method = methods.jigsaw(Pixels(), **{**SIZES, "jitter": 0, **changes})
    return method, *jax.jit(method.init)(jax.random.key(1), views())


def logits_by_hand(params):
    """Logits `[b asked answered]` in float64: a tower for every tile, tiles placed, a linear layer."""
    tower, classifier = jax.tree.map(lambda x: np.asarray(x, np.float64), (params["tower"], params["classifier"]))
    image = np.asarray(views()["views"][:, 0], np.float64)
    tiles = np.stack([image[:, y : y + 3, x : x + 3] for y in (0, 4) for x in (0, 4)], axis=1)
    tiles = tiles - tiles.mean((2, 3), keepdims=True)
    tiles = tiles / np.sqrt(tiles.var((2, 3), keepdims=True) + 1e-5)
    z = tiles.reshape(16, -1) @ tower["dense0"]["kernel"]
    z = np.maximum((z - z.mean(0)) / np.sqrt(z.var(0) + 1e-5), 0).reshape(4, 4, 5)
    placed = np.stack([z[:, order].reshape(4, -1) for order in pretext.permutations(4, 6)], axis=1)
    return placed @ classifier["dense0"]["kernel"] + classifier["dense0"]["bias"]


@pytest.mark.parametrize("per_image", [1, 3])
def test_loss_is_that_of_telling_which_permutation_placed_the_tiles(per_image):
    method, params, carry = start(per_image=per_image)
    rng = jax.random.key(2)
    asked = np.asarray(jax.random.randint(jax.random.split(rng, 3)[1], (4, per_image), 0, 6))  # the method's own draw
    logits = np.take_along_axis(logits_by_hand(params), asked[:, :, None], axis=1)
    answered = np.take_along_axis(logits, asked[:, :, None], axis=2)[:, :, 0]
    value, (after, metrics) = jax.jit(method.loss)(params, carry, views(), rng, ZERO)
    assert_close(value, (np.log(np.exp(logits).sum(2)) - answered).mean(), 2e-5)
    assert metrics["permutation_accuracy"] == pytest.approx((logits.argmax(2) == asked).mean())
    assert jax.tree.structure(after) == jax.tree.structure(carry)


def test_all_permutations_are_asked_and_tiles_are_encoded_once():
    sizes = []

    class Counting(nn.Module):
        @nn.compact
        def __call__(self, image, train):
            sizes.append(image.shape)
            return image.reshape(len(image), -1)[:, :3], {}

    method = methods.jigsaw(Counting(), jitter=0, per_image=50, **SIZES)
    params, carry = method.init(jax.random.key(1), views())
    sizes.clear()
    method.loss(params, carry, views(), jax.random.key(2), ZERO)
    method.encode(params, carry, views()["views"][:, 0])
    assert sizes == [(16, 3, 3, 2), (4, 7, 7, 2)]
    # A classifier that always says the same is right in a sixth of the questions.
    bias = jnp.zeros(6).at[2].set(50.0)
    params["classifier"] = {"dense0": {"kernel": 0 * params["classifier"]["dense0"]["kernel"], "bias": bias}}
    _, (_, metrics) = method.loss(params, carry, views(), jax.random.key(2), ZERO)
    assert 0.08 < metrics["permutation_accuracy"] < 0.27


def test_brightness_and_contrast_of_a_tile_change_nothing():
    method, params, carry = start()
    cell = np.minimum(np.arange(7) // 4, 1)
    cell = 2 * cell[:, None] + cell[None]
    gains, shifts = (jax.random.uniform(jax.random.key(k), (4, 2), minval=0.5) for k in (3, 4))
    changed = {"views": views()["views"] * gains[cell][None, None] + shifts[cell][None, None]}
    loss = jax.jit(method.loss)
    before, after = (loss(params, carry, x, jax.random.key(2), ZERO)[0] for x in (views(), changed))
    assert after == pytest.approx(float(before), rel=1e-3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"permutations": 25, "grid": 2}, "There are 24 permutations of 4 tiles, not 25"),
        ({"permutations": 0}, "`permutations` must be above 0"),
        ({"per_image": 0}, "`per_image` must be above 0"),
        ({"dim": 0}, "`dim` must be above 0"),
        ({"grid": 0}, "Tiles need a grid"),
        ({"tile": 4, "gap": -5}, "size plus gap of at least 1"),
        (
            {"encoder": nets.ViT(patch=16), "tile": 40},
            "Tiles of 40 pixels do not divide into the encoder's patches of 16",
        ),
    ],
)
def test_impossible_settings_are_refused_when_the_method_is_built(arguments, message):
    with pytest.raises(UserError, match=message):
        methods.jigsaw(**{"encoder": Pixels(), "permutations": 10, **arguments})


def test_images_too_small_for_the_grid_and_other_views_are_errors():
    method = methods.jigsaw(Pixels(), permutations=10)
    with pytest.raises(UserError, match="takes 255 x 255 pixels, but the images have 224 x 224"):
        method.init(jax.random.key(0), views(side=224))
    with pytest.raises(UserError, match="takes one view of each example"):
        method.init(jax.random.key(0), views(count=2))


def test_a_loss_that_stays_at_chance_is_told():
    assert "a guess among 10" in methods.jigsaw(Pixels(), permutations=10).warn({"loss": 2.303, "step": 300})
