import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from values import assert_close

from ssl_jax import methods, nets
from ssl_jax.core import UserError

ZERO = jnp.zeros((), jnp.int32)
PLAIN = {"flip": 0.0, "jitter_prob": 0.0, "grey_prob": 0.0, "drop_prob": 0.0}
SIZES = {"patch": 4, "stride": 2, "ahead": (1, 3), "dim": 3, "width": 5, "depth": 2}


class Pixels(nn.Module):
    """All pixels as features, in their places."""

    def __call__(self, image, train):
        return image.reshape(len(image), -1), {"image": image}


def views(b=3, side=10, channels=2, count=1):
    return {"views": jax.random.uniform(jax.random.key(0), (b, count, side, side, channels))}


def start(encoder=None, **changes):
    method = methods.cpc(encoder or Pixels(), **{**SIZES, **PLAIN, **changes})
    return method, *jax.jit(method.init)(jax.random.key(1), views())


def dense(layer, x):
    return x @ layer["kernel"] + layer["bias"]


def context_by_hand(params, grid):
    """Two blocks, place by place."""
    n = grid.shape[1]
    for block in ("block1", "block2"):
        y = np.maximum(dense(params[f"{block}_in"], grid), 0)
        wide = np.pad(y, ((0, 0), (0, 0), (1, 1), (0, 0)))
        y = dense(params[f"{block}_row"], np.concatenate([wide[:, :, :n], y, wide[:, :, 2:]], axis=-1))
        high = np.pad(y, ((0, 0), (1, 0), (0, 0), (0, 0)))[:, :n]
        y = np.maximum(dense(params[f"{block}_column"], np.concatenate([high, y], axis=-1)), 0)
        grid = grid + dense(params[f"{block}_out"], y)
    return np.maximum(grid, 0)


def test_loss_is_infonce_of_rows_ahead_in_four_directions_among_all_patches():
    """Henaff et al., 2020, equation 1, one prediction after the other, in float64."""
    method, params, carry = start()
    p = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
    image, n = np.asarray(views()["views"][:, 0], np.float64), 4
    grid = np.stack([image[:, y : y + 4, x : x + 4] for y in (0, 2, 4, 6) for x in (0, 2, 4, 6)], axis=1)
    grid = grid.reshape(3, n, n, -1)
    targets = dense(p["target"]["dense0"], grid)
    candidates, means = targets.reshape(-1, 3), []
    for k, name in enumerate(("down", "right", "up", "left")):
        turned, wanted = (np.rot90(x, k, axes=(1, 2)) for x in (grid, targets))
        seen = dense(p[name]["predictor"]["dense0"], context_by_hand(p[name]["context"], turned))
        predictions = 0.1 * seen.reshape(3, n, n, 2, 3)
        for i, rows in enumerate((1, 3)):
            values = []
            for b, y, x in np.ndindex(3, n - rows, n):
                prediction = predictions[b, y, x, i]
                values.append(np.log(np.exp(candidates @ prediction).sum()) - wanted[b, y + rows, x] @ prediction)
            means.append(np.mean(values))
    value, (after, metrics) = jax.jit(method.loss)(params, carry, views(), jax.random.key(2), ZERO)
    assert_close(value, np.mean(means), 1e-5)
    assert metrics["candidates"] == 48
    assert_close(metrics["embedding"], candidates, 1e-5)
    assert_close(metrics["features"], grid.mean((1, 2)), 1e-5)
    assert jax.tree.structure(after) == jax.tree.structure(carry)


def test_every_patch_is_augmented_on_its_own():
    """Of equal patches no two stay equal, also within one image; the draws come from the key."""
    batch = {"views": jnp.broadcast_to(jax.random.uniform(jax.random.key(3), (3, 1, 1, 1, 1)), (3, 1, 10, 10, 3))}
    method = methods.cpc(Pixels(), **{**SIZES, **PLAIN, "jitter_prob": 1.0})
    params, carry = method.init(jax.random.key(1), batch)
    loss = jax.jit(method.loss)
    results = [loss(params, carry, batch, jax.random.key(seed), ZERO) for seed in (0, 0, 1)]
    assert len(np.unique(results[0][1][1]["embedding"], axis=0)) > 40  # of 48
    assert results[0][0] == results[1][0]
    assert results[0][0] != results[2][0]


def test_encode_gives_the_mean_of_patches_and_maps_on_their_grid():
    method, params, carry = start(nets.ConvNet(widths=(4, 6), norm="layer"), **{**PLAIN, "jitter_prob": 1.0})
    image = views()["views"][:, 0]
    pooled, maps = method.encode(params, carry, image)
    assert {name: x.shape for name, x in maps.items()} == {
        "stage1": (3, 4, 4, 4),
        "stage2": (3, 4, 4, 6),
        "patches": (3, 4, 4, 30),
    }
    encoder = nets.ConvNet(widths=(4, 6), norm="layer")
    patch, _ = encoder.apply({"params": params["encoder"]}, image[:, 4:8, 2:6], train=False)
    np.testing.assert_allclose(maps["patches"][:, 2, 1], patch, atol=1e-5)
    np.testing.assert_allclose(pooled, maps["patches"].mean((1, 2)), atol=1e-5)


def test_batch_norm_is_refused_since_it_leaks():
    method = methods.cpc(nets.ConvNet(widths=(4,)), **SIZES)
    with pytest.raises(
        UserError, match='needs an encoder without batch norm, which would leak; for example norm="layer"'
    ):
        method.init(jax.random.key(0), views())


def test_images_of_260_pixels_hold_six_by_six_patches():
    method = methods.cpc(Pixels(), dim=2, width=2, depth=1)
    image = jax.ShapeDtypeStruct((2, 260, 260, 3), jnp.float32)
    encode = lambda image: method.encode(*method.init(jax.random.key(0), {"views": image[:, None]}), image)  # noqa: E731
    _, maps = jax.eval_shape(encode, image)
    assert maps["patches"].shape == (2, 6, 6, 80 * 80 * 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"patch": 0}, "Tiles need a grid, a size"),
        ({"stride": 0}, "`stride` must be above 0"),
        ({"dim": 0}, "`dim` must be above 0"),
        ({"depth": 0}, "`depth` must be above 0"),
        ({"scale": 0.0}, "`scale` must be above 0"),
        ({"ahead": ()}, "`ahead` must name one or more distances"),
        ({"ahead": (0, 1)}, r"of at least 1 row, but is \(0, 1\)"),
        (
            {"encoder": nets.ViT(patch=16), "patch": 40},
            "Tiles of 40 pixels do not divide into the encoder's patches of 16",
        ),
    ],
)
def test_impossible_settings_are_refused_when_the_method_is_built(arguments, message):
    with pytest.raises(UserError, match=message):
        methods.cpc(**{"encoder": Pixels(), **arguments})


def test_images_with_too_few_patches_and_other_views_are_errors():
    method = methods.cpc(Pixels(), **{**SIZES, "ahead": (4,)})
    match = r"Images of 10 x 10 hold 4 row\(s\) of 4-pixel patches, one every 2; to predict 4 rows ahead .* at least 5"
    with pytest.raises(UserError, match=match):
        method.init(jax.random.key(0), views())
    with pytest.raises(UserError, match="takes one view of each example"):
        method.init(jax.random.key(0), views(count=2))


def test_a_loss_that_stays_at_chance_is_told():
    warn = methods.cpc(Pixels()).warn
    assert "a guess among 48" in warn({"loss": float(np.log(48)), "step": 300, "candidates": 48.0})
    assert warn({"loss": 1.0, "step": 300, "candidates": 48.0}) is None
    assert warn({"loss": 1.0, "step": 300}) is None
