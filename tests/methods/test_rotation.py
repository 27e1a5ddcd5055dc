import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from values import assert_close

from ssl_jax import methods, nets
from ssl_jax.core import UserError

ZERO = jnp.zeros((), jnp.int32)


class Pixels(nn.Module):
    """All pixels as features, in their places."""

    def __call__(self, image, train):
        return image.reshape(len(image), -1), {"image": image}


def views(b=5, side=4, channels=2, count=1):
    return {"views": jax.random.normal(jax.random.key(0), (b, count, side, side, channels))}


@pytest.fixture(scope="module")
def started():
    method = methods.rotation(Pixels())
    return method, *jax.jit(method.init)(jax.random.key(1), views())


def test_loss_is_the_cross_entropy_of_all_four_rotations(started):
    """Gidaris et al., 2018, equations 2 and 3, with numpy's rotations in float64."""
    method, params, carry = started
    image, values, hits = np.asarray(views()["views"][:, 0], np.float64), [], []
    kernel, bias = (np.asarray(params["classifier"]["dense0"][name], np.float64) for name in ("kernel", "bias"))
    for k in range(4):
        logits = np.rot90(image, k, axes=(1, 2)).reshape(len(image), -1) @ kernel + bias
        values.append(np.log(np.exp(logits).sum(1)) - logits[:, k])
        hits.append(logits.argmax(1) == k)
    value, (after, metrics) = jax.jit(method.loss)(params, carry, views(), jax.random.key(2), ZERO)
    assert_close(value, np.mean(values), 1e-6)
    assert metrics["rotation_accuracy"] == pytest.approx(np.mean(hits))
    np.testing.assert_array_equal(metrics["features"], views()["views"].reshape(5, -1))
    assert jax.tree.structure(after) == jax.tree.structure(carry)


def test_all_rotations_of_an_image_share_the_batchs_statistics():
    """A batch norm whose batch had one rotation only would tell it by its statistics."""
    encoder = nets.ConvNet(widths=(4,), pool=(1,))
    method = methods.rotation(encoder)
    params, carry = jax.jit(method.init)(jax.random.key(1), views(side=8))
    _, (after, _) = jax.jit(method.loss)(params, carry, views(side=8), jax.random.key(2), ZERO)
    turned = jnp.concatenate([jnp.rot90(views(side=8)["views"][:, 0], k, axes=(1, 2)) for k in range(4)])
    variables = {"params": params["encoder"], **carry.model_state["encoder"]}
    _, expected = encoder.apply(variables, turned, train=True, mutable=["batch_stats"])
    for a, b in zip(jax.tree.leaves(after.model_state["encoder"]), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_a_transformer_learns_rotations_too():
    method = methods.rotation(nets.ViT(patch=4, dim=8, depth=1, heads=2))
    params, carry = jax.jit(method.init)(jax.random.key(1), views(side=8))
    gradients = jax.jit(jax.grad(lambda p: method.loss(p, carry, views(side=8), jax.random.key(2), ZERO)[0]))(params)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(gradients))
    assert np.any(gradients["encoder"]["patch_kernel"])


def test_a_loss_that_stays_at_chance_is_told():
    warn = methods.rotation(Pixels()).warn
    assert "a guess among 4" in warn({"loss": 1.386, "step": 300})
    assert warn({"loss": 0.7, "step": 300}) is None


def test_wrong_views_are_errors():
    method = methods.rotation(Pixels())
    with pytest.raises(UserError, match="takes one view of each example"):
        method.init(jax.random.key(0), views(count=2))
    params, carry = method.init(jax.random.key(0), views())
    wide = {"views": jnp.zeros((2, 1, 4, 6, 2))}
    with pytest.raises(UserError, match="Rotations need square images, but these are 4 x 6"):
        method.loss(params, carry, wide, jax.random.key(0), ZERO)
