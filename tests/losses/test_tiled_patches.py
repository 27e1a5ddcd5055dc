"""Hidden patches in tiles: loss, gradients and step are those of all scores at once, which no device holds then."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from values import assert_close

from ssl_jax import hlo, losses, methods, nets
from ssl_jax.collectives import collectives
from ssl_jax.core import UserError
from ssl_jax.losses import forms, tiled_patches
from ssl_jax.sharding import data_mesh, put

EXAMPLES, VIEWS, PATCHES, DIM, PROTOTYPES = 8, 2, 7, 6, 40
TILE = 5  # does not divide the patches of one device (112) nor of eight (14)
TAU, TEMPERATURE = 0.5, 0.3


def arrays(dtype, devices=1):
    """Student's and teacher's rows and prototypes, a centre, and a mask; the batch over the first devices."""
    rng, mesh = np.random.default_rng(0), data_mesh(jax.devices()[:devices])
    rows, columns = (EXAMPLES, VIEWS, PATCHES, DIM), (DIM, PROTOTYPES)
    made = [jnp.asarray(rng.normal(size=shape), dtype) for shape in (rows, columns, rows, columns, (PROTOTYPES,))]
    mask = jnp.asarray(rng.random(rows[:3]) < 0.3).at[0, 0].set(False)  # a view without hidden patches
    return [jax.device_put(x, NamedSharding(mesh, P("data" if x.ndim > 2 else None))) for x in (*made, mask)], mesh


def score(prototypes, rows):
    return jnp.matmul(rows, prototypes, preferred_element_type=losses.at_least_float32(rows).dtype)


def dense(rows, prototypes, seen, teacher, center, mask, sinkhorn):
    given = score(teacher, seen)
    targets = losses.soft_targets(given, center, TAU)
    if sinkhorn:
        targets = losses.sinkhorn(given.reshape(-1, PROTOTYPES), epsilon=TAU, where=mask.reshape(-1))
        targets = targets.reshape(given.shape)
    return losses.masked_cross_entropy(targets, score(prototypes, rows), mask, temperature=TEMPERATURE)


def tiled(rows, prototypes, seen, teacher, center, mask, sinkhorn):
    asked, answers = losses.Patches(score, teacher, seen), losses.Patches(score, prototypes, rows)
    if sinkhorn:
        center = losses.tiled_sinkhorn_center(asked, mask, epsilon=TAU, tile=TILE)
    how = {"teacher_temperature": TAU, "temperature": TEMPERATURE, "tile": TILE}
    return 3 * losses.tiled_masked_cross_entropy(asked, answers, mask, center, **how) / 3


@functools.partial(jax.jit, static_argnames=("form", "sinkhorn", "mesh"))
def gradients(form, sinkhorn, mesh, *given):
    """Value, and gradients by everything that has one."""
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        return jax.value_and_grad(functools.partial(form, sinkhorn=sinkhorn), argnums=range(5))(*given)


@pytest.mark.parametrize("sinkhorn", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_loss_and_gradients_are_those_of_all_scores_at_once(dtype, sinkhorn):
    loss, gradient = {np.float32: (1e-6, 1e-5), np.float64: (1e-12, 1e-12)}[dtype]
    with jax.enable_x64(dtype == np.float64):
        given, mesh = arrays(dtype)
        expected = gradients(dense, sinkhorn, mesh, *given)
        for devices in (1, 8):
            given, mesh = arrays(dtype, devices)
            value, found = gradients(tiled, sinkhorn, mesh, *given)
            assert value.dtype == dtype
            assert_close(value, expected[0], loss)
            for a, b in zip(found[:2], expected[1][:2], strict=True):
                assert np.any(b)
                assert_close(a, b, gradient)
            assert not any(np.any(x) for x in found[2:])  # nothing flows into the teacher


def test_half_precision_is_added_up_in_float32():
    given, mesh = arrays(jnp.bfloat16)
    value, (by_rows, by_prototypes, *_) = gradients(tiled, False, mesh, *given)
    assert (value.dtype, by_rows.dtype, by_prototypes.dtype) == (jnp.float32, jnp.bfloat16, jnp.bfloat16)
    expected = gradients(dense, False, mesh, *given)
    assert_close(value, expected[0], 1e-6)
    for a, b in zip((by_rows, by_prototypes), expected[1][:2], strict=True):
        assert_close(a, b, 1e-2)


def test_nothing_hidden_is_no_loss():
    (*given, mask), mesh = arrays(np.float32)
    value, found = gradients(tiled, True, mesh, *given, jnp.zeros_like(mask))
    assert value == 0
    assert not any(np.any(x) for x in found)


def test_tile_follows_the_number_of_prototypes(monkeypatch):
    """Scores of one tile, and no others, are in the program; of 112 patches at once they would be."""
    given, _ = arrays(np.float32)
    monkeypatch.setattr(tiled_patches, "TILE_SCORES", 16 * PROTOTYPES + 1)

    def by_size(rows, prototypes, seen, teacher, center, mask):
        asked, answers = losses.Patches(score, teacher, seen), losses.Patches(score, prototypes, rows)
        return losses.tiled_masked_cross_entropy(
            asked, answers, mask, center, teacher_temperature=TAU, temperature=TEMPERATURE
        )

    jaxpr = str(jax.make_jaxpr(by_size)(*given))
    assert f"f32[1,16,{PROTOTYPES}]" in jaxpr
    assert f"112,{PROTOTYPES}]" not in jaxpr


@functools.cache
def ibot_on_eight_devices(form, sinkhorn):
    """Loss, metrics, next memory and gradients of iBOT, and the compiled program; DINOv2's objective with Sinkhorn."""
    mesh, rng = data_mesh(), np.random.default_rng(0)
    batch = put({"views": tuple(rng.normal(size=(8, 2, s, s, 1)).astype(np.float32) for s in (8, 4))}, mesh)
    how = {"sinkhorn": sinkhorn, "shared_head": not sinkhorn, "train_norms": not sinkhorn, "koleo": 0.1 * sinkhorn}
    vit = nets.ViT(patch=2, dim=8, depth=1, heads=2)
    method = methods.ibot(vit, prototypes=56, hidden=16, bottleneck=6, form=form, mask_probability=0.8, **how)
    params, carry = jax.jit(method.init)(jax.random.key(0), jax.tree.map(lambda x: x[:2], batch))
    params = jax.tree.map(lambda p: p + 0.1 * np.random.default_rng(1).normal(size=p.shape).astype(np.float32), params)
    params, carry = jax.device_put((params, carry), NamedSharding(mesh, P()))

    def step(params, carry, batch):
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            loss = functools.partial(method.loss, rng=jax.random.key(1), step=jnp.zeros((), jnp.int32))
            return jax.value_and_grad(loss, has_aux=True)(params, carry, batch)

    compiled = jax.jit(step, out_shardings=NamedSharding(mesh, P())).lower(params, carry, batch).compile()
    return compiled(params, carry, batch), compiled.as_text(), method.init


@pytest.mark.parametrize("sinkhorn", [False, True])
def test_ibot_in_tiles_is_ibot(sinkhorn, monkeypatch):
    """Loss, metrics, centres and every gradient; without an array of all scores, and with as little to say."""
    monkeypatch.setattr(tiled_patches, "TILE_SCORES", 5 * 56)
    ((value, (carry, metrics)), found), program, _ = ibot_on_eight_devices("tiled", sinkhorn)
    ((loss, (after, others)), expected), whole, _ = ibot_on_eight_devices("dense", sinkhorn)
    assert metrics["patch_loss"] > 1
    assert_close(value, loss, 1e-6)
    assert metrics.keys() == others.keys()
    for name in metrics:
        assert_close(metrics[name], others[name], 1e-6)
    for a, b in zip(jax.tree.leaves(carry), jax.tree.leaves(after), strict=True):
        assert_close(a, b, 1e-6)
    largest = max(float(jnp.max(jnp.abs(x))) for x in jax.tree.leaves(expected))
    for (path, a), b in zip(jax.tree.leaves_with_path(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * largest, err_msg=jax.tree_util.keystr(path))
    shapes = [{shape for _, shape in hlo.arrays(text) if shape[-1:] == (56,)} for text in (whole, program)]
    patches, bottleneck = 8 * 2 * 16 // 8, 6
    assert [max(map(math.prod, of)) for of in shapes] == [patches * 56, bottleneck * 56]
    said = [sum(c.bytes * c.times for c in collectives(text)) for text in (whole, program)]
    assert said[1] <= said[0] + 64  # the tiles' flags
    assert all(c.times == 1 for c in collectives(program))


def test_form_is_chosen_by_size():
    assert forms.DENSE_LOGITS == 8192 * 8192
    assert not losses.is_tiled("auto", rows=8192, columns=8192)
    assert losses.is_tiled("auto", rows=8193, columns=8192)
    assert losses.is_tiled("tiled", rows=1, columns=1)
    assert not losses.is_tiled("dense", rows=2**20, columns=65536)
    with pytest.raises(UserError, match="`form` is one of auto, dense, tiled, not 'ring'"):
        methods.ibot(nets.ViT(patch=2, dim=8, depth=1, heads=2), form="ring")
