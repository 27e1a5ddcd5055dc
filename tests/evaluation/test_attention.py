import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssl_jax import nets
from ssl_jax.core import UserError
from ssl_jax.evaluation import attention_maps, attention_weights, keep_mass
from ssl_jax.nets.transformer import Attention

VIT = nets.ViT(patch=2, dim=8, depth=1, heads=2)


@pytest.fixture(scope="module")
def given():
    """A ViT of one block with lively weights, and three images."""
    image = jnp.asarray(np.random.default_rng(0).normal(size=(3, 4, 6, 1)), jnp.float32)
    params = VIT.init(jax.random.key(0), image, train=False)["params"]
    leaves, tree = jax.tree.flatten(params)
    rng = np.random.default_rng(1)
    lively = [jnp.asarray(1.5 * rng.normal(size=x.shape) / np.sqrt(x.shape[0]), jnp.float32) for x in leaves]
    return jax.tree.unflatten(tree, lively), image


def by_hand(params, image):
    """Softmax of scaled products of queries and keys, from the paper's formula, in float64: [b heads 7 7]."""
    p = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
    image = np.asarray(image, np.float64)
    patches = [[x[i : i + 2, j : j + 2].reshape(-1) for i in (0, 2) for j in (0, 2, 4)] for x in image]
    tokens = np.array(patches) @ p["patch_kernel"].reshape(4, 8) + p["patch_bias"] + p["pos_grid"].reshape(6, 8)
    first = np.broadcast_to(p["cls"] + p["pos_cls"], (3, 1, 8))
    x = np.concatenate([first, tokens], axis=1)
    block = p["block1"]
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
    x = x * block["norm1"]["scale"] + block["norm1"]["bias"]
    qkv = x @ block["attention"]["qkv"]["kernel"] + block["attention"]["qkv"]["bias"]
    heads = []
    for i in range(2):
        query, key = (qkv[..., 8 * kind + 4 * i : 8 * kind + 4 * i + 4] for kind in (0, 1))
        odds = np.exp(query @ key.swapaxes(1, 2) / 2)  # the root of four
        heads.append(odds / odds.sum(-1, keepdims=True))
    return np.stack(heads, axis=1)


def test_weights_equal_the_formula_and_rows_sum_to_one(given):
    found = np.asarray(attention_weights(VIT, given[0], {}, given[1]))
    assert found.shape == (3, 2, 7, 7)
    np.testing.assert_allclose(found, by_hand(*given), atol=1e-5)
    np.testing.assert_allclose(found.sum(-1), 1, atol=1e-5)
    assert found.std() > 0.02  # not even weights, which any formula gives


@pytest.mark.parametrize("query", ["cls", "mean", None])
def test_maps_are_rows_of_the_weights_on_the_grid_of_patches(given, query):
    pool = "gap" if query == "mean" else "cls"
    encoder = VIT.clone(pool=pool)
    found = np.asarray(attention_maps(encoder, given[0], {}, given[1], query=query))
    weights = by_hand(*given)
    rows = weights[:, :, 1:, 1:].mean(axis=2) if query == "mean" else weights[:, :, 0, 1:]
    np.testing.assert_allclose(found, rows.reshape(3, 2, 2, 3), atol=1e-5)
    np.testing.assert_array_equal(found, attention_maps(encoder, given[0], {}, given[1]))  # what the encoder pools


class Blocks(nn.Module):
    """Two blocks whose names sort the other way round."""

    @nn.compact
    def __call__(self, x, train):
        x = x[:, :, 0]
        for i, heads in ((2, 1), (10, 2)):
            x = Attention(heads, name=f"block{i}")(x)
        return x[:, 0]


def test_blocks_are_counted_by_their_numbers():
    x = jnp.ones((1, 3, 1, 2), jnp.float32)
    params = Blocks().init(jax.random.key(0), x, train=False)["params"]
    for block, heads in ((None, 2), (1, 1), (2, 2)):
        assert attention_weights(Blocks(), params, {}, x, block=block).shape == (1, heads, 3, 3)


def test_the_fewest_patches_that_hold_a_share():
    maps = np.random.default_rng(0).random((4, 2, 3, 5)).astype(np.float32)
    for mass in (0.0, 0.3, 0.6, 0.99):
        kept = np.asarray(keep_mass(jnp.asarray(maps), mass))
        for one, mask in zip(maps.reshape(8, 15), kept.reshape(8, 15), strict=True):
            ordered = np.sort(one)
            # DINO's way: from the smallest on, what together stays within 1 - mass is dropped.
            threshold = ordered[np.cumsum(ordered) / one.sum() > 1 - mass + 1e-6]
            np.testing.assert_array_equal(mask, np.isin(one, threshold))
    even = np.asarray(keep_mass(jnp.ones((1, 2, 2)), 0.5))
    np.testing.assert_array_equal(even, [[[True, True], [False, False]]])  # no more than are needed
    assert not keep_mass(jnp.zeros((2, 2))).any()


def test_what_has_no_attention_is_named(given):
    params, image = given
    plain = nets.ConvNet(widths=(4,), pool=(1,))
    variables = plain.init(jax.random.key(0), image, train=False)
    state = {"batch_stats": variables["batch_stats"]}
    with pytest.raises(UserError, match="A ConvNet has no attention to show; give a ViT"):
        attention_weights(plain, variables["params"], state, image)
    with pytest.raises(UserError, match="blocks 1 to 1, but not 2"):
        attention_weights(VIT, params, {}, image, block=2)
    with pytest.raises(UserError, match="not 'patch'"):
        attention_maps(VIT, params, {}, image, query="patch")
    with pytest.raises(UserError, match=r"not 1\.5"):
        keep_mass(jnp.ones((2, 2)), 1.5)
