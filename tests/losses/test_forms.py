"""Dense, tiled and ring: the same losses and gradients; what the two latter hold and send, in the compiled program."""

import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec as P
from networks import Tiny
from values import assert_close

from ssl_jax import init_state, losses, make_train_step, methods
from ssl_jax.core import UserError
from ssl_jax.losses import forms
from ssl_jax.sharding import by_example, data_mesh, put

EXAMPLES, DIM = 152, 16  # 304 rows, which fill one tile and a part of another; 38 on each of 8 devices


def arrays(dtype, devices=8):
    """Embeddings, queries, keys and a queue, split over the first devices, with the mesh."""
    rng, mesh = np.random.default_rng(0), data_mesh(jax.devices()[:devices])
    shapes = [(EXAMPLES, 2, DIM), (EXAMPLES, DIM), (EXAMPLES, DIM), (600, DIM)]
    made = [rng.normal(size=shape) for shape in shapes]
    made[-1] /= np.linalg.norm(made[-1], axis=1, keepdims=True)
    return [jax.device_put(jnp.asarray(x, dtype), by_example(mesh)) for x in made], mesh


@functools.partial(jax.jit, static_argnames=("temperature", "form", "mesh"))
def ntxent(z, temperature, form, mesh=None):
    return jax.value_and_grad(functools.partial(losses.ntxent, temperature=temperature, form=form, mesh=mesh))(z)


@functools.partial(jax.jit, static_argnames=("form", "mesh"))
def infonce(query, key, queue, form, mesh=None):
    """In the batch and from a queue: values, shares of hits and all gradients."""

    def both(query, key, queue):
        one, hits = losses.infonce_with_accuracy(query, key, temperature=0.07, form=form, mesh=mesh)
        two, more = losses.infonce_with_accuracy(query, key, queue, temperature=0.2, form=form, mesh=mesh)
        return one + 2 * two, (one, two, hits, more)

    (_, values), gradients = jax.value_and_grad(both, argnums=(0, 1, 2), has_aux=True)(query, key, queue)
    return values, gradients


def compare(found, expected, loss, gradient):
    assert_close(found[0], expected[0], loss)
    for a, b in zip(jax.tree.leaves(found[1]), jax.tree.leaves(expected[1]), strict=True):
        assert a.dtype == b.dtype
        assert_close(a, b, gradient)


@pytest.mark.parametrize("devices", [1, 2, 4, 8])
def test_ntxent_is_the_same_in_every_form(devices):
    for dtype, loss, gradient in ((np.float32, 1e-6, 1e-5), (np.float64, 1e-12, 1e-12)):
        with jax.enable_x64(dtype == np.float64):
            (z, *_), mesh = arrays(dtype, devices)
            expected = ntxent(z, 0.1, "dense")
            compare(ntxent(z, 0.1, "ring", mesh), expected, loss, gradient)
            if devices in (1, 8):
                compare(ntxent(z, 0.1, "tiled"), expected, loss, gradient)


@pytest.mark.parametrize(("dtype", "devices"), [(np.float32, 8), (np.float64, 8), (np.float64, 4), (np.float64, 2)])
def test_infonce_is_the_same_in_every_form(dtype, devices):
    loss, gradient = {np.float32: (1e-6, 1e-5), np.float64: (1e-12, 1e-12)}[dtype]
    with jax.enable_x64(dtype == np.float64):
        (_, query, key, queue), mesh = arrays(dtype, devices)
        key = query + key  # so that some queries find their own key and some don't
        expected = infonce(query, key, queue, "dense")
        assert 0.1 < expected[0][2] < 0.9
        others = [infonce(query, key, queue, "ring", mesh)]
        for found in others if devices < 8 else [*others, infonce(query, key, queue, "tiled")]:
            compare((np.stack(found[0]), found[1]), (np.stack(expected[0]), expected[1]), loss, gradient)


def test_small_temperatures_and_half_precision():
    (z, *_), mesh = arrays(jnp.bfloat16)
    wide = ntxent(z.astype(jnp.float32), 0.01, "dense")
    for value, gradient in (ntxent(z, 0.01, "tiled"), ntxent(z, 0.01, "ring", mesh)):
        assert value.dtype == jnp.float32
        assert gradient.dtype == jnp.bfloat16
        assert_close(value, wide[0], 1e-6)
        assert_close(gradient, wide[1], 5e-3)  # half precision rounds the gradient


def test_a_row_without_others_has_no_gradient():
    x = jnp.ones((1, 3))
    (lse, _), pull = jax.vjp(losses.logsumexp_of_others, x)
    assert lse == -jnp.inf
    assert not np.any(pull((jnp.ones(1), jnp.ones(1)))[0])
    query = jnp.ones((1, 3))
    value, gradient = jax.value_and_grad(losses.infonce_in_batch)(query, query)
    tiled = jax.value_and_grad(functools.partial(losses.infonce_in_batch, form="tiled"))(query, query)
    assert (value, gradient.tolist()) == (tiled[0], tiled[1].tolist())


def sizes(program: str, operation: str = "") -> list[int]:
    """Numbers in each array that a compiled program mentions, or that such operations give."""
    lines = [line for line in program.splitlines() if f" {operation}(" in line or not operation]
    shapes = (shape for line in lines for shape in re.findall(r"\b[a-z]+\d+\[([\d,]+)\]", line.split(" metadata=")[0]))
    return [math.prod(map(int, shape.split(","))) for shape in shapes]


@functools.cache
def step(form: str, devices: int):
    """A compiled step of SimCLR on 512 examples, with its first state and batch."""
    mesh, rng = data_mesh(jax.devices()[:devices]), np.random.default_rng(1)
    batch = put({"views": rng.normal(size=(512, 2, 2, 2, 3)).astype(np.float32)}, mesh)
    method = methods.simclr(Tiny(), dim=8, form=form)
    state = init_state(method, optax.sgd(0.1), batch, mesh=mesh)
    return make_train_step(method, optax.sgd(0.1), mesh=mesh).lower(state, batch).compile(), state, batch


def test_step_on_a_ring_holds_neither_the_matrix_nor_all_embeddings():
    dense, (ring, state, batch) = step("dense", 1)[0].as_text(), step("ring", 8)
    program, rows, dim = ring.as_text(), 1024, 8
    assert max(sizes(dense)) == rows**2
    assert max(sizes(program)) <= rows * 256 // 8
    assert not [n for n in sizes(program, "all-gather") if n >= rows * dim]
    assert max(sizes(program, "collective-permute")) <= rows // 8 * dim
    one, (compiled, start, whole) = ring(state, batch)[1], step("dense", 1)
    assert_close(one["loss"], compiled(start, whole)[1]["loss"], 1e-6)


def test_batch_of_32768_takes_the_ring_unasked():
    """Compiled for shapes alone: 65,536 embeddings on 8 devices."""
    mesh, method, tx = data_mesh(), methods.simclr(Tiny(), dim=8), optax.sgd(0.1)
    small = put({"views": np.zeros((8, 2, 2, 2, 3), np.float32)}, mesh)
    state = init_state(method, tx, small, mesh=mesh)
    batch = {"views": jax.ShapeDtypeStruct((32768, 2, 2, 2, 3), jnp.float32, sharding=by_example(mesh))}
    program = make_train_step(method, tx, mesh=mesh).lower(state, batch).compile().as_text()
    assert max(sizes(program)) <= 65536 // 8 * 256
    assert max(sizes(program, "collective-permute")) == 65536 // 8 * 8


def test_memory_of_the_ring_falls_with_the_devices_and_tiles_need_little():
    def temporary(form, devices):
        mesh = data_mesh(jax.devices()[:devices])
        z = jax.ShapeDtypeStruct((2048, 2, 8), jnp.float32, sharding=by_example(mesh))
        ring = mesh if form == "ring" else None
        return ntxent.lower(z, 0.1, form, ring).compile().memory_analysis().temp_size_in_bytes

    dense, tiled, one, eight = temporary("dense", 1), temporary("tiled", 1), temporary("ring", 1), temporary("ring", 8)
    assert tiled < dense / 4
    assert one == pytest.approx(tiled, rel=0.1)
    assert eight < 1.2 * one / 8


def test_form_is_chosen_by_size_and_devices():
    mesh, small, giant = data_mesh(), 8192, 65536
    assert forms.choose_form("auto", rows=small, columns=small, mesh=mesh) == ("dense", None)
    assert forms.choose_form("auto", rows=giant, columns=giant, mesh=mesh) == ("ring", mesh)
    assert forms.choose_form("auto", rows=giant, columns=giant + 1, mesh=mesh) == ("tiled", None)
    assert forms.choose_form("auto", rows=giant, columns=giant, mesh=data_mesh(jax.devices()[:1]))[0] == "tiled"
    assert forms.choose_form("auto", rows=giant, columns=giant)[0] == "tiled"
    seen = []

    def local(x):
        seen.append(forms.choose_form("auto", rows=giant, columns=giant)[0])
        return x

    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        assert forms.choose_form("auto", rows=giant, columns=giant)[0] == "ring"
        jax.eval_shape(jax.shard_map(local, in_specs=P("data"), out_specs=P("data")), jnp.zeros(8))
    assert seen == ["tiled"]


def test_forms_that_can_not_be():
    with pytest.raises(UserError, match="dense, tiled, ring"):
        methods.simclr(Tiny(), form="rings")
    with pytest.raises(UserError, match="set_mesh"):
        losses.ntxent(jnp.ones((4, 2, 3)), form="ring")
    with pytest.raises(UserError, match="8 devices"):
        losses.ntxent(jnp.ones((3, 2, 3)), form="ring", mesh=data_mesh())
