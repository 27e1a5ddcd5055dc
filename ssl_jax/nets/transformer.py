"""The layers of a pre-norm transformer: layer norm, dense layers, attention, block.

They compute on a matrix of all tokens, `[b * n d]`: XLA's CPU backend takes up to 1.5 times as long for the same
products and sums over two leading axes. Reshapes cost nothing, and a batch that is sharded stays so.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from ssl_jax.nets.pointwise import gelu, remembered, softmax
from ssl_jax.nets.precision import at_least_float32
from ssl_jax.sharding import model_axis

SMALL = nn.initializers.normal(0.02)  # DINO and timm cut this normal at +-2, a hundred standard deviations


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _layer_norm(x: Array, scale: Array, bias: Array, epsilon: float) -> Array:
    """Normalise the rows of `x` [n d]; the gradient is written out, as in `norm`."""
    return _forward(x, scale, bias, epsilon)[0]


def _forward(x: Array, scale: Array, bias: Array, epsilon: float) -> tuple[Array, tuple]:
    mean = x.mean(-1, keepdims=True)
    inverse = lax.rsqrt(jnp.square(x - mean).mean(-1, keepdims=True) + epsilon)
    return (x - mean) * inverse * scale[None] + bias[None], (x, scale, mean, inverse)


def _backward(epsilon: float, residuals: tuple, g: Array) -> tuple[Array, Array, Array]:
    x, scale, mean, inverse = remembered(residuals)
    y, h = (x - mean) * inverse, g * scale[None]
    dx = inverse * (h - h.mean(-1, keepdims=True) - y * (h * y).mean(-1, keepdims=True))
    return dx, (g * y).sum(0), g.sum(0)


_layer_norm.defvjp(_forward, _backward)


class LayerNorm(nn.Module):
    """Layer normalisation over the last axis with scale and bias, at least float32 inside, returned in `dtype`."""

    epsilon: float = 1e-6
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "... d"]) -> Float[Array, "... d"]:
        """Normalise tokens."""
        inside, d = at_least_float32(self.dtype), x.shape[-1]
        scale = self.param("scale", nn.initializers.ones, (d,), jnp.float32).astype(inside)
        bias = self.param("bias", nn.initializers.zeros, (d,), jnp.float32).astype(inside)
        y = _layer_norm(x.reshape(-1, d).astype(inside), scale, bias, self.epsilon)
        return y.astype(self.dtype).reshape(x.shape)


class Dense(nn.Module):
    """Linear layer with bias; weights begin normal with deviation 0.02, biases at zero.

    With `heads`, for queries, keys and values that are stored one kind after the other, each head by head: they come
    one head after the other, so that an axis of the mesh can split them by head.
    """

    features: int
    dtype: DTypeLike = jnp.float32
    heads: int = 0

    @nn.compact
    def __call__(self, x: Float[Array, "... i"]) -> Float[Array, "... o"]:
        """Map tokens."""
        kernel = self.param("kernel", SMALL, (x.shape[-1], self.features), jnp.float32).astype(self.dtype)
        bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32).astype(self.dtype)
        if self.heads:
            kernel, bias = (self._by_head(a) for a in (kernel, bias))
        y = x.reshape(-1, x.shape[-1]).astype(self.dtype) @ kernel + bias[None]
        return y.reshape(*x.shape[:-1], self.features)

    def _by_head(self, x: Array) -> Array:
        kinds = x.reshape(*x.shape[:-1], 3, self.heads, -1)
        return kinds.swapaxes(-2, -3).reshape(x.shape)


class Attention(nn.Module):
    """Multi-head self-attention with its softmax in at least float32.

    "qkv" is one layer of 3 d outputs, ordered q, k, v, each head by head, as in timm. With the collection
    "intermediates" mutable, the weights `[b heads n n]` are sown there as "weights".
    """

    heads: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b n d"]) -> Float[Array, "b n d"]:
        """Mix tokens."""
        b, n, d = x.shape
        if model_axis() > 1:  # moving weights into another order costs less there than moving tokens
            qkv = Dense(3 * d, self.dtype, self.heads, name="qkv")(x).reshape(b, n, self.heads, 3, d // self.heads)
            qkv = qkv.swapaxes(2, 3)
        else:
            qkv = Dense(3 * d, self.dtype, name="qkv")(x).reshape(b, n, 3, self.heads, d // self.heads)
        q, k, v = (qkv[:, :, i].transpose(0, 2, 1, 3) for i in range(3))
        scores = jnp.einsum("bhqe,bhke->bhqk", q * (d // self.heads) ** -0.5, k)
        weights = softmax(scores.astype(at_least_float32(self.dtype)))
        if self.is_mutable_collection("intermediates"):
            self.sow("intermediates", "weights", weights)
        mixed = jnp.einsum("bhqk,bhke->bhqe", weights.astype(v.dtype), v)
        return Dense(d, self.dtype, name="out")(mixed.transpose(0, 2, 1, 3).reshape(b, n, d))


class Block(nn.Module):
    """Pre-norm block: attention, then a two-layer perceptron with exact GELU, both residual.

    `drop_path` is the probability that a residual branch is left out for an example in training (stochastic depth,
    Huang et al., 2016); it draws from the rng "dropout".
    """

    heads: int
    mlp_ratio: float = 4.0
    drop_path: float = 0.0
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b n d"], train: bool) -> Float[Array, "b n d"]:
        """Apply the block."""
        drop = nn.Dropout(self.drop_path, broadcast_dims=(1, 2), deterministic=not train)
        y = LayerNorm(dtype=self.dtype, name="norm1")(x)
        x = x + drop(Attention(self.heads, self.dtype, name="attention")(y))
        y = LayerNorm(dtype=self.dtype, name="norm2")(x)
        y = gelu(Dense(int(x.shape[-1] * self.mlp_ratio), self.dtype, name="mlp_in")(y))
        return x + drop(Dense(x.shape[-1], self.dtype, name="mlp_out")(y))
