"""Recipes: shapes, ranges, keys per example, independence of batch and devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssl_jax import augment


def images(b, size=16, c=3):
    return jnp.asarray(np.random.default_rng(0).integers(0, 256, (b, size, size, c)), jnp.uint8)


def keys(b):
    return jax.random.split(jax.random.key(1), b)


@pytest.mark.parametrize("preset", [augment.simclr, augment.moco_v1, augment.moco_v2, augment.byol])
def test_presets(preset):
    out = jax.jit(preset(size=12))(keys(4), images(4))
    assert out.shape == (4, 2, 12, 12, 3)
    assert out.dtype == jnp.float32
    assert float(out.min()) >= 0
    assert float(out.max()) <= 1
