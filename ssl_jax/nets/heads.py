"""Projection and prediction heads: multi-layer perceptrons that differ in where biases and batch norms stand."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from ssl_jax.nets.norm import BatchNorm


class MLP(nn.Module):
    """Dense layers with ReLU between them and an optional batch norm after each; output in float32.

    Attributes:
      features: widths of all layers, the last one being the output's; None is the width of the input.
      norm: batch norm (and then no bias) after the hidden layers.
      hidden_bias: bias of the hidden layers; defaults to `not norm`.
      out_norm: batch norm after the last layer: None, "affine", "scale" (no shift) or "plain" (no parameters).
      out_bias: bias of the last layer; defaults to True without `out_norm`.
      bn_groups: number of groups over which batch statistics are taken separately (1: the global batch).
      dtype: computation dtype (None: the input's); parameters are float32.
    """

    features: tuple[int | None, ...]
    norm: bool = True
    hidden_bias: bool | None = None
    out_norm: str | None = None
    out_bias: bool | None = None
    bn_groups: int = 1
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b i"], train: bool) -> Float[Array, "b o"]:
        """Map `[b i]` to `[b o]`."""
        *hidden, out = (width or x.shape[-1] for width in self.features)
        hidden_bias = not self.norm if self.hidden_bias is None else self.hidden_bias
        out_bias = self.out_norm is None if self.out_bias is None else self.out_bias
        for i, width in enumerate(hidden):
            x = nn.Dense(width, use_bias=hidden_bias, dtype=self.dtype, name=f"dense{i}")(x)
            if self.norm:
                x = BatchNorm(groups=self.bn_groups, dtype=self.dtype, name=f"norm{i}")(x, train=train)
            x = nn.relu(x)
        x = nn.Dense(out, use_bias=out_bias, dtype=self.dtype, name=f"dense{len(hidden)}")(x)
        if self.out_norm is not None:
            affine = {"affine": (True, True), "scale": (True, False), "plain": (False, False)}[self.out_norm]
            x = BatchNorm(
                groups=self.bn_groups,
                use_scale=affine[0],
                use_bias=affine[1],
                dtype=self.dtype,
                name=f"norm{len(hidden)}",
            )(x, train=train)
        return x if x.dtype == jnp.float64 else x.astype(jnp.float32)
