"""The digest of a state: equal bits give equal digests wherever they are, and any bit that changes shows."""

import jax
import jax.numpy as jnp
import numpy as np
import recipes

from ssl_jax.digest import digest
from ssl_jax.sharding import by_example, data_mesh, replicated


def tree() -> dict:
    """One leaf of every kind that a state may have."""
    rng = np.random.default_rng(0)
    return {
        "float32": jnp.asarray(rng.normal(size=(8, 3)), jnp.float32),
        "bfloat16": jnp.asarray(rng.normal(size=(8, 2)), jnp.bfloat16),
        "int8": jnp.asarray(rng.integers(-9, 9, (8,)), jnp.int8),
        "bool": jnp.asarray(rng.integers(0, 2, (8,)), bool),
        "count": jnp.asarray(3, jnp.int32),
        "empty": jnp.zeros((8, 0), jnp.float32),
        "key": jax.random.key(5),
    }


def test_equal_bits_on_any_devices_give_the_same_figures():
    """The figures themselves are fixed: a run's digests are compared by later versions of the library."""
    assert digest(tree()) == "0168ccffa129ca27"
    for count in (1, 8):
        mesh = data_mesh(jax.devices()[:count])
        split = {k: jax.device_put(x, by_example(mesh) if x.ndim else replicated(mesh)) for k, x in tree().items()}
        for placed in (jax.device_put(tree(), replicated(mesh)), split):
            for on_host in (False, True):
                assert digest(placed, on_host=on_host) == digest(tree())


def test_every_bit_counts():
    for name, x in tree().items():
        seen, changed = {digest({name: x})}, 0
        raw = np.array(jax.random.key_data(x) if name == "key" else x)
        for byte in range(raw.nbytes):
            for bit in (0,) if raw.dtype == bool else range(8):
                other = raw.copy()
                other.reshape(-1).view(np.uint8)[byte] ^= 1 << bit
                leaf = jax.random.wrap_key_data(jnp.asarray(other)) if name == "key" else jnp.asarray(other)
                seen.add(digest({name: leaf}))
                changed += 1
        assert len(seen) == changed + 1, name


def test_names_shapes_and_places_count():
    x = tree()["float32"]
    trees = ({"a": x}, {"b": x}, {"a": x.T}, {"a": x[::-1]}, {"a": x, "b": x[:0]}, {"a": -x}, {"a": 0 * x})
    assert len({digest(t) for t in trees}) == len(trees)
    assert digest({"a": x, "b": x}) == digest({"b": x, "a": x})


def test_state_of_a_run():
    """As many devices as there are: the same figures for the same bits."""
    state = recipes.initial("simclr", 8)
    one = jax.device_put(state, replicated(data_mesh(jax.devices()[:1])))
    assert digest(state) == digest(one) != digest(state.replace(step=state.step + 1))
