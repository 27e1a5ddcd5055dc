"""Blocks that are computed again: the same numbers from less that is kept."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssl_jax import UserError, nets
from ssl_jax.nets import functional

IMAGE = jnp.asarray(np.random.default_rng(0).normal(size=(4, 8, 8, 3)), jnp.float32)
ENCODERS = {
    "vit": lambda remat: nets.ViT(patch=4, dim=16, depth=2, heads=2, drop_path=0.5, remat=remat),
    "resnet": lambda remat: nets.ResNet(18, base_width=4, blocks=(1, 1, 0, 0), stem="small", remat=remat),
}


def loss_of(encoder):
    def loss(params, state):
        pooled, _, after = functional.encode(encoder, params, state, IMAGE, train=True, rng=jax.random.key(1))
        return jnp.sum(jnp.sin(pooled)), after

    return loss


def kept(loss, params, state) -> int:
    """Bytes that the forward pass leaves for the backward pass, beside the parameters."""
    pullback = jax.eval_shape(lambda params: jax.vjp(lambda p: loss(p, state)[0], params)[1], params)
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(pullback))


@pytest.mark.parametrize("name", ENCODERS)
def test_same_gradient_and_statistics_and_random_draws_from_less_memory(name):
    losses = {remat: loss_of(ENCODERS[name](remat)) for remat in ("none", "blocks", "dots")}
    params, state = jax.jit(lambda: functional.init(ENCODERS[name]("none"), jax.random.key(0), IMAGE))()
    again = jax.eval_shape(lambda: functional.init(ENCODERS[name]("blocks"), jax.random.key(0), IMAGE))
    assert jax.tree.structure(again) == jax.tree.structure((params, state))
    found = {remat: jax.jit(jax.grad(loss, has_aux=True))(params, state) for remat, loss in losses.items()}
    for remat in ("blocks", "dots"):
        for a, b in zip(*map(jax.tree.leaves, (found["none"], found[remat])), strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-6 * max(1.0, float(jnp.abs(a).max())))
    sizes = {remat: kept(loss, params, state) for remat, loss in losses.items()}
    assert sizes["blocks"] < sizes["dots"] < sizes["none"], sizes


def test_another_kind():
    with pytest.raises(UserError, match='remat="all" is unknown: choose "none", "blocks" or "dots"'):
        jax.eval_shape(lambda: functional.init(ENCODERS["vit"]("all"), jax.random.key(0), IMAGE))
