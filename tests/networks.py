"""A tiny encoder and heads twice: in flax, and in numpy in float64, as the papers' equations."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax import nets

ZERO = jnp.zeros((), jnp.int32)


class Tiny(nn.Module):
    """One dense layer and a batch norm."""

    dim: int = 6

    @nn.compact
    def __call__(self, image, train):
        x = nn.Dense(self.dim, use_bias=False, name="dense")(image.reshape(len(image), -1))
        return nets.BatchNorm(use_scale=False, use_bias=False, name="norm")(x, train)


def standardized(x):
    """Batch norm without parameters."""
    return (x - x.mean(axis=0)) / np.sqrt(x.var(axis=0) + 1e-5)


def unit(x):
    """Rows of norm 1."""
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def encode(params, image):
    """What `Tiny` gives in training."""
    x = np.asarray(image, np.float64).reshape(len(image), -1)
    return standardized(x @ np.asarray(params["dense"]["kernel"], np.float64))


def head(params, x, norms):
    """What an `MLP` gives in training: `norms[i]` says whether layer i has a batch norm; ReLU between layers."""
    params = jax.tree.map(lambda p: np.asarray(p, np.float64), params)
    assert len([name for name in params if name.startswith("dense")]) == len(norms)
    for i, norm in enumerate(norms):
        layer, affine = params[f"dense{i}"], params.get(f"norm{i}", {})
        assert norm or not affine
        x = x @ layer["kernel"] + layer.get("bias", 0)
        x = standardized(x) * affine.get("scale", 1) + affine.get("bias", 0) if norm else x
        x = np.maximum(x, 0) if i < len(norms) - 1 else x
    return x


def shaken(tree, seed=1):
    """The tree with noise on every leaf, so that biases and scales count."""
    leaves, structure = jax.tree.flatten(tree)
    keys = jax.random.split(jax.random.key(seed), len(leaves))
    moved = [x + 0.1 * jax.random.normal(key, x.shape, x.dtype) for x, key in zip(leaves, keys, strict=True)]
    return jax.tree.unflatten(structure, moved)


def batch(examples=12, views=2, seed=0):
    """Noise for images of 2 x 2 pixels, whose views are alike, with ids."""
    rng = np.random.default_rng(seed)
    image = rng.normal(size=(examples, 1, 2, 2, 3)) + 0.5 * rng.normal(size=(examples, views, 2, 2, 3))
    return {"views": jnp.asarray(image, jnp.float32), "id": jnp.arange(examples, dtype=jnp.int32)}


def start(method, **kwargs):
    """`(params, carry)` of a method, parameters shaken."""
    params, carry = jax.jit(method.init)(jax.random.key(0), batch(**kwargs))
    return shaken(params), carry
