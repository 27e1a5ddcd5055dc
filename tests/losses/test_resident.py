"""A memory that is split over eight devices answers as one that is whole."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssl_jax import UserError, losses
from ssl_jax.losses import forms
from ssl_jax.sharding import by_example, data_mesh


@pytest.fixture
def arrays():
    draw = np.random.default_rng(0).normal
    query, key, memory = (jnp.asarray(draw(size=(n, 8)), jnp.float32) for n in (16, 16, 64))
    return query, key, losses.l2_normalize(memory).at[40].set(losses.l2_normalize(memory)[3])  # two are the same


def on_mesh(function, query, key, memory):
    """The function with rows split over devices, the memory's as well."""
    mesh = data_mesh()
    with losses.memory_split_over(mesh):
        return jax.jit(function)(*(jax.device_put(x, by_example(mesh)) for x in (query, key, memory)))


def test_infonce_and_its_gradient(arrays):
    def both(*arrays):
        return jax.value_and_grad(losses.infonce_with_accuracy, has_aux=True, argnums=(0, 1))(*arrays, temperature=0.2)

    for one, other in zip(*map(jax.tree.leaves, (both(*arrays), on_mesh(both, *arrays))), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-6)


def test_nearest_is_the_first_of_equals(arrays):
    query, key, memory = arrays
    query = query.at[0].set(memory[40])
    nearest = lambda query, key, memory: losses.nearest(query, memory)  # noqa: E731
    found = on_mesh(nearest, query, key, memory)
    np.testing.assert_array_equal(found, losses.nearest(query, memory))
    np.testing.assert_array_equal(found[0], memory[3])


def test_nearest_in_tiles_finds_the_same(monkeypatch):
    """On one device and on eight, of 2,400 entries in tiles of 256 and of 300 in two that overlap."""
    monkeypatch.setattr(forms, "TILE_SCORES", 1)
    draw = np.random.default_rng(1).normal
    query, memory = (jnp.asarray(draw(size=(n, 8)), jnp.float32) for n in (16, 2400))
    memory = memory.at[jnp.asarray([290, 700, 2399])].set(3 * memory[200])
    query = query.at[0].set(memory[700])
    dense, tiled = (
        lambda query, key, memory, f=form: losses.nearest(query, memory, form=f) for form in ("dense", "tiled")
    )
    expected = memory[np.argmax(np.asarray(query) @ np.asarray(memory).T, axis=1)]
    for found in (dense(query, query, memory), tiled(query, query, memory), on_mesh(tiled, query, query, memory)):
        np.testing.assert_array_equal(found, expected)
    whole = ["16,2400" in str(jax.make_jaxpr(f)(query, query, memory)) for f in (dense, tiled)]
    assert whole == [True, False]
    with pytest.raises(UserError, match="`form` is one of auto, dense, tiled, not 'ring'"):
        losses.nearest(query, memory, form="ring")


def test_memory_that_devices_do_not_divide_is_taken_as_whole():
    with losses.memory_split_over(data_mesh()):
        assert losses.memory_mesh(64) is not None
        assert losses.memory_mesh(63) is None
    assert losses.memory_mesh(64) is None
