import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssl_jax import interop, nets
from ssl_jax.core import UserError
from ssl_jax.nets import positions, transformer


def assert_near(actual, expected, tolerance=1e-5):
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * np.abs(expected).max())


@pytest.fixture(scope="module")
def dino(fixture, tmp_path_factory):
    arrays, model = fixture("w_vit"), nets.ViT(patch=8, dim=32, depth=2, heads=4)
    path = tmp_path_factory.mktemp("dino") / "weights.npz"
    np.savez(path, **{n.removeprefix("state/"): a for n, a in arrays.items() if n.startswith("state/")})
    variables = {"params": jax.tree.map(jnp.asarray, interop.load_encoder(path, model, (32, 32, 3))[0])}
    encode = jax.jit(lambda x: model.apply(variables, x.transpose(0, 2, 3, 1), train=False))
    return model, variables, arrays, encode


def test_tokens_and_blocks_equal_dino_and_timm(dino):
    _, _, arrays, encode = dino
    pooled, maps = encode(arrays["input32"])
    assert_near(pooled, arrays["cls32"])
    assert_near(maps["tokens"], arrays["timm_features"])
    for i in (0, 1):
        assert_near(maps[f"cls{i + 1}"], arrays[f"block{i}_normed"][:, 0])
        assert_near(maps[f"block{i + 1}"].reshape(2, 16, 32), arrays[f"block{i}_normed"][:, 1:])
    np.testing.assert_array_equal(maps["grid"], maps["block2"])


def test_attention_weights_equal_dino(dino):
    model, variables, arrays, _ = dino
    images = arrays["input32"].transpose(0, 2, 3, 1)
    _, sown = model.apply(variables, jnp.asarray(images), train=False, mutable=["intermediates"])
    (weights,) = sown["intermediates"]["block2"]["attention"]["weights"]
    assert_near(weights, arrays["last_attention"])


@pytest.mark.parametrize(("images", "expected"), [("input48", "cls48"), ("input32x48", "cls32x48")])
def test_positions_are_interpolated_as_in_dino(dino, images, expected):
    _, _, arrays, encode = dino
    assert_near(encode(arrays[images])[0], arrays[expected])


@pytest.mark.parametrize("size", [32, 48])
def test_interpolated_positions_equal_dino(dino, size):
    _, variables, arrays, _ = dino
    params, side = variables["params"], size // 8
    images = jnp.asarray(arrays[f"input{size}"].transpose(0, 2, 3, 1))
    patches = (
        nets.conv2d(images, params["patch_kernel"], 8, 0).reshape(2, side**2, 32) + params["patch_bias"][None, None]
    )
    resized = positions.resize(params["pos_grid"], side, side).reshape(1, side**2, 32)
    assert_near(patches + resized, arrays[f"tokens{size}"][:, 1:])


def test_resize_to_the_same_size_changes_nothing():
    grid = jax.random.normal(jax.random.key(0), (3, 5, 2))
    assert positions.resize(grid, 3, 5) is grid
    np.testing.assert_allclose(positions.resize(jnp.ones((4, 4, 2)), 7, 3), jnp.ones((7, 3, 2)), atol=1e-6)


def test_sincos_positions():
    grid = positions.sincos(3, 4, 8)
    assert grid.shape == (3, 4, 8)
    x, y = np.asarray([3, 0.03]), np.asarray([2, 0.02])
    np.testing.assert_allclose(grid[2, 3], np.concatenate([np.sin(x), np.cos(x), np.sin(y), np.cos(y)]), rtol=1e-6)
    with pytest.raises(UserError, match="multiple of 4, not dim=6"):
        positions.sincos(2, 2, 6)


def test_vit_small_has_timms_number_of_parameters():
    model = nets.create("vit_s")
    variables = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 224, 224, 3)), train=True))
    assert sum(a.size for a in jax.tree.leaves(variables)) == 21_665_664


SMALL = {"patch": 4, "dim": 8, "depth": 2, "heads": 2}
IMAGES = jax.random.normal(jax.random.key(0), (4, 8, 12, 5))


def start(model):
    """The module's variables."""
    return jax.jit(lambda: model.init(jax.random.key(1), IMAGES, train=True))()


def apply(model, variables, images=IMAGES, **kwargs):
    """What the module gives, as one program."""
    return jax.jit(lambda variables, images: model.apply(variables, images, **kwargs))(variables, images)


def test_fixed_positions_average_pooling_and_other_sizes():
    model = nets.ViT(**SMALL, pos="sincos", pool="gap")
    variables = start(model)
    assert not [name for name in variables["params"] if name.startswith("pos")]
    pooled, maps = apply(model, variables, IMAGES[:, :4], train=False)
    np.testing.assert_allclose(pooled, maps["grid"].mean((1, 2)), atol=1e-6)


def test_kept_patches_alone_enter():
    model = nets.ViT(**SMALL)
    variables = start(model)
    keep = jnp.asarray([[0, 1, 2, 3, 4, 5]] * 4)
    _, every = apply(model, variables, train=False)
    _, same = apply(model, variables, train=False, keep=keep)
    np.testing.assert_allclose(same["tokens"], every["tokens"], atol=1e-6)
    changed = IMAGES.at[:, 4:, 8:].set(7)  # the last of 2 x 3 patches
    _, less = apply(model, variables, changed, train=False, keep=keep[:, :5])
    np.testing.assert_allclose(less["tokens"], apply(model, variables, train=False, keep=keep[:, :5])[1]["tokens"])
    assert set(less) == {"tokens"}


def test_mask_token_hides_patches_and_not_their_positions():
    model = nets.ViT(**SMALL, mask_token=True)
    variables = start(model)
    plain = start(nets.ViT(**SMALL))["params"]
    assert set(variables["params"]) - set(plain) == {"mask_token"}
    token = jnp.asarray(np.random.default_rng(0).normal(size=8), jnp.float32)
    variables = {"params": {**variables["params"], "mask_token": token, "patch_bias": 0.5 * token}}
    mask = jnp.asarray([[False] * 5 + [True]] * 4)
    hidden = apply(model, variables, train=False, mask=mask)[1]["tokens"]
    changed = IMAGES.at[:, 4:, 8:].set(7)  # the last of 2 x 3 patches
    np.testing.assert_array_equal(apply(model, variables, changed, train=False, mask=mask)[1]["tokens"], hidden)
    # A patch of zeros is its bias and its position; with the token as bias it is what the token gives.
    same = {"params": {**variables["params"], "patch_kernel": 0 * plain["patch_kernel"], "patch_bias": token}}
    every = apply(model, same, train=False)[1]["tokens"]
    masked = model.apply(
        {"params": {**same["params"], "patch_bias": 0 * token}}, IMAGES, train=False, mask=~mask | mask
    )
    np.testing.assert_allclose(masked[1]["tokens"], every, atol=1e-5)
    with pytest.raises(UserError, match="make the ViT with mask_token=True"):
        nets.ViT(**SMALL).init(jax.random.key(1), IMAGES, train=True, mask=mask)


def test_stochastic_depth_acts_in_training_only():
    model = nets.ViT(**SMALL, drop_path=0.9)
    variables = model.init(jax.random.key(1), IMAGES, train=False)
    dropped = model.apply(variables, IMAGES, train=True, rngs={"dropout": jax.random.key(2)})[0]
    kept = nets.ViT(**SMALL).apply(variables, IMAGES, train=True)[0]
    assert np.abs(dropped - kept).max() > 1e-3
    np.testing.assert_array_equal(model.apply(variables, IMAGES, train=False)[0], kept)


def test_frozen_patch_embedding_gets_no_gradient():
    model = nets.ViT(**SMALL, freeze_patches=True)
    variables = start(model)
    gradient = jax.jit(jax.grad(lambda v: model.apply(v, IMAGES, train=True)[0].var()))(variables)["params"]
    assert not gradient["patch_kernel"].any()
    assert not gradient["patch_bias"].any()
    assert gradient["pos_grid"].any()


def test_bfloat16_keeps_float32_parameters_and_features():
    model = nets.ViT(**SMALL, dtype=jnp.bfloat16)
    variables = start(model)
    pooled, maps = apply(model, variables, train=True)
    gradient = jax.jit(jax.grad(lambda v: model.apply(v, IMAGES, train=True)[0].var()))(variables)
    assert {a.dtype for a in jax.tree.leaves((pooled, variables, gradient))} == {jnp.dtype("float32")}
    assert {a.dtype for a in maps.values()} == {jnp.dtype("bfloat16")}
    np.testing.assert_allclose(pooled, apply(nets.ViT(**SMALL), variables, train=True)[0], atol=0.1)


def test_layer_norm_and_gelu_are_the_usual_ones_with_their_gradients():
    with jax.enable_x64(True):
        x = jax.random.normal(jax.random.key(0), (3, 4, 6), jnp.float64) * 3 + 1
        weights = jax.random.normal(jax.random.key(1), (2, 6), jnp.float64)

        def ours(x, weights):
            return jnp.sin(transformer._layer_norm(x.reshape(-1, 6), weights[0], weights[1], 1e-6)).sum()

        def usual(x, weights):
            centred = x - x.mean(-1, keepdims=True)
            y = centred / jnp.sqrt(jnp.square(centred).mean(-1, keepdims=True) + 1e-6)
            return jnp.sin(y * weights[0][None, None] + weights[1][None, None]).sum()

        for a, b in zip(jax.grad(ours, (0, 1))(x, weights), jax.grad(usual, (0, 1))(x, weights), strict=True):
            np.testing.assert_allclose(a, b, atol=1e-12)
        np.testing.assert_allclose(transformer.gelu(x), nn.gelu(x, approximate=False), atol=1e-12)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"patch": 5}, "8 x 12 do not divide into patches of 5"),
        ({"patch": 16}, "8 x 12 do not divide into patches of 16"),
        ({"heads": 3}, "heads=3 does not divide dim=8"),
        ({"pool": "max"}, 'pool="max" is unknown: choose "cls" or "gap"'),
        ({"pos": "none"}, 'pos="none" is unknown'),
    ],
)
def test_settings_that_do_not_fit_are_named(fields, message):
    with pytest.raises(UserError, match=message):
        nets.ViT(**{**SMALL, **fields}).init(jax.random.key(0), IMAGES, train=True)
