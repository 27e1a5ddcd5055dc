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


@functools.partial(jax.jit, static_argnames=("form", "mesh"))
def gradients(form, mesh, *given):
    """With a centre and with Sinkhorn: value, and gradients by everything that has one."""
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        ways = (functools.partial(form, sinkhorn=sinkhorn) for sinkhorn in (False, True))
        return [jax.value_and_grad(way, argnums=range(5))(*given) for way in ways]


# In float32 on eight devices too, as part of a step, in `test_ibot_in_tiles_is_ibot`.
@pytest.mark.parametrize(
    ("dtype", "places", "loss", "gradient"), [(np.float32, (1,), 1e-6, 1e-5), (np.float64, (1, 8), 1e-12, 1e-12)]
)
def test_loss_and_gradients_are_those_of_all_scores_at_once(dtype, places, loss, gradient):
    with jax.enable_x64(dtype == np.float64):
        given, mesh = arrays(dtype)
        expected = gradients(dense, mesh, *given)
        assert abs(expected[0][0] - expected[1][0]) > 1e-3
        for devices in places:
            given, mesh = arrays(dtype, devices)
            for (value, found), (whole, wanted) in zip(gradients(tiled, mesh, *given), expected, strict=True):
                assert value.dtype == dtype
                assert_close(value, whole, loss)
                for a, b in zip(found[:2], wanted[:2], strict=True):
                    assert np.any(b)
                    assert_close(a, b, gradient)
                assert not any(np.any(x) for x in found[2:])  # nothing flows into the teacher


def test_half_precision_is_added_up_in_float32():
    given, mesh = arrays(jnp.bfloat16)
    wide = gradients(dense, mesh, *(x.astype(jnp.float32) if x.dtype == jnp.bfloat16 else x for x in given))
    for (value, found), (whole, wanted) in zip(gradients(tiled, mesh, *given), wide, strict=True):
        assert (value.dtype, found[0].dtype, found[1].dtype) == (jnp.float32, jnp.bfloat16, jnp.bfloat16)
        assert_close(value, whole, 1e-6)
        for a, b in zip(found[:2], wanted[:2], strict=True):
            assert_close(a, b, 1e-2)


def test_nothing_hidden_is_no_loss():
    (*given, mask), mesh = arrays(np.float32)
    for value, found in gradients(tiled, mesh, *given, jnp.zeros_like(mask)):
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


def ibot(form, **how):
    """iBOT for tiny images, and drawn parameters, teacher and memory: `(method, params, carry, batch)`."""
    rng, vit = np.random.default_rng(0), nets.ViT(patch=2, dim=8, depth=1, heads=2)
    method = methods.ibot(vit, prototypes=56, hidden=16, bottleneck=6, form=form, mask_probability=0.8, **how)
    batch = {"views": (rng.normal(size=(8, 2, 8, 8, 1)).astype(np.float32),)}
    shapes = jax.eval_shape(method.init, jax.random.key(0), batch)
    return method, *jax.tree.map(lambda x: 0.4 * rng.normal(size=x.shape).astype(x.dtype), shapes), batch


def loss_of(method):
    return functools.partial(method.loss, rng=jax.random.key(1), step=jnp.zeros((), jnp.int32))


def assert_same(found, expected, tolerance):
    """Trees of which no entry is further off than a part of the largest one of all."""
    largest = max(np.abs(x).max() for x in jax.tree.leaves(expected))
    for (path, a), b in zip(jax.tree.leaves_with_path(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * largest, err_msg=jax.tree_util.keystr(path))


def test_ibot_in_tiles_is_ibot(monkeypatch):
    """On eight devices: loss, metrics, centres, every gradient; no array of all scores, and as little to say."""
    monkeypatch.setattr(tiled_patches, "TILE_SCORES", 5 * 56)
    mesh, results, programs = data_mesh(), [], []
    for form in ("tiled", "dense"):
        method, params, carry, batch = ibot(form, train_norms=True)
        given = *jax.device_put((params, carry), NamedSharding(mesh, P())), put(batch, mesh)

        def step(*given, method=method):
            with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
                return jax.value_and_grad(loss_of(method), has_aux=True)(*given)

        compiled = jax.jit(step, out_shardings=NamedSharding(mesh, P())).lower(*given).compile()
        results.append(compiled(*given))
        programs.append(compiled.as_text())
    ((value, (after, metrics)), found), ((whole, (expected, others)), wanted) = results
    assert metrics["patch_loss"] > 1
    assert_close(value, whole, 1e-6)
    assert_same(metrics, others, 1e-6)
    assert_same(after.memory, expected.memory, 1e-6)
    assert_same(found, wanted, 1e-5)
    shapes = [{shape for _, shape in hlo.arrays(text) if shape[-1:] == (56,)} for text in programs]
    patches, bottleneck = 8 * 2 * 16 // 8, 6
    assert [max(map(math.prod, of)) for of in shapes] == [bottleneck * 56, patches * 56]
    said = [collectives(text) for text in programs]
    assert sum(c.bytes * c.times for c in said[0]) <= sum(c.bytes * c.times for c in said[1]) + 64  # the tiles' flags
    assert all(c.times == 1 for c in said[0])


def test_dinov2_in_tiles_is_dinov2(monkeypatch):
    monkeypatch.setattr(tiled_patches, "TILE_SCORES", 50 * 56)
    forms = [ibot(form, sinkhorn=True, shared_head=False, koleo=0.1) for form in ("tiled", "dense")]
    _, *given = forms[0]
    found, expected = jax.jit(lambda *given: [loss_of(method)(*given) for method, *_ in forms])(*given)
    assert found[1][1]["patch_loss"] > 1
    assert_same(found, expected, 1e-6)


def test_form_is_chosen_by_size():
    assert forms.DENSE_LOGITS == 8192 * 8192
    assert not losses.is_tiled("auto", rows=8192, columns=8192)
    assert losses.is_tiled("auto", rows=8193, columns=8192)
    assert losses.is_tiled("tiled", rows=1, columns=1)
    assert not losses.is_tiled("dense", rows=2**20, columns=65536)
    with pytest.raises(UserError, match="`form` is one of auto, dense, tiled, not 'ring'"):
        methods.ibot(nets.ViT(patch=2, dim=8, depth=1, heads=2), form="ring")
