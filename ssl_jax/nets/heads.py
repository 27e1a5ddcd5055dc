"""Projection and prediction heads: multi-layer perceptrons that differ in where biases and batch norms stand."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from ssl_jax.losses import at_least_float32, l2_normalize
from ssl_jax.nets.norm import BatchNorm


class MLP(nn.Module):
    """Dense layers with ReLU between them and an optional batch norm after each; output in float32.

    Attributes:
      features: widths of all layers, the last one being the output's; None is the width of the input.
      norm: batch norm (and then no bias) after the hidden layers.
      hidden_bias: bias of the hidden layers; defaults to `not norm`.
      out_norm: batch norm after the last layer: None, "affine", "scale" (no shift) or "plain" (no parameters).
      out_bias: bias of the last layer; defaults to True without `out_norm`.
      dropout: probability with which a hidden unit is left out in training; draws from the rng "dropout".
      bn_groups: number of groups over which batch statistics are taken separately (1: the global batch).
      dtype: computation dtype (None: the input's); parameters are float32.
    """

    features: tuple[int | None, ...]
    norm: bool = True
    hidden_bias: bool | None = None
    out_norm: str | None = None
    out_bias: bool | None = None
    dropout: float = 0.0
    bn_groups: int = 1
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "b i"], train: bool, with_hidden: bool = False
    ) -> Float[Array, "b o"] | tuple[Float[Array, "b o"], tuple[Float[Array, "b _"], ...]]:
        """Map `[b i]` to `[b o]`; `with_hidden` adds the hidden layers' outputs (after the ReLU), first to last."""
        *hidden, out = (width or x.shape[-1] for width in self.features)
        hidden_bias = not self.norm if self.hidden_bias is None else self.hidden_bias
        out_bias = self.out_norm is None if self.out_bias is None else self.out_bias
        outputs = []
        for i, width in enumerate(hidden):
            x = nn.Dense(width, use_bias=hidden_bias, dtype=self.dtype, name=f"dense{i}")(x)
            if self.norm:
                x = BatchNorm(groups=self.bn_groups, dtype=self.dtype, name=f"norm{i}")(x, train=train)
            x = nn.relu(x)
            outputs.append(x)
            x = nn.Dropout(self.dropout, deterministic=not train)(x)
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
        x = x if x.dtype == jnp.float64 else x.astype(jnp.float32)
        return (x, tuple(outputs)) if with_hidden else x


class WeightGenerator(nn.Module):
    """Weights of a linear classifier, made from what each class looks like: OBoW's head for a vocabulary that changes.

    Every class is treated alike: unit norm, dense layer, batch norm (over the classes), ReLU, dense layer, unit norm.

    Attributes:
      features: width of the classifier's input.
      hidden: width of the hidden layer; None is twice `features`.
      dtype: computation dtype (None: the input's); parameters are float32.
    """

    features: int
    hidden: int | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, words: Float[Array, "k c"], train: bool) -> Float[Array, "k d"]:
        """Map the k classes' vectors to k rows of unit norm, at least float32."""
        hidden = self.hidden or 2 * self.features
        x = nn.Dense(hidden, use_bias=False, dtype=self.dtype, name="dense0")(l2_normalize(words))
        x = nn.relu(BatchNorm(dtype=self.dtype, name="norm0")(x, train=train))
        x = nn.Dense(self.features, dtype=self.dtype, name="dense1")(x)
        return l2_normalize(at_least_float32(x))


class UnitLinear(nn.Module):
    """Linear layer without bias whose weights have unit norm per output, times one learned scale; at least float32.

    The norm is taken in every forward pass, so that gradients go through it.

    Attributes:
      features: number k of outputs.
      scale: initial value of the scale.
      dtype: computation dtype (None: the input's); parameters are float32.
    """

    features: int
    scale: float = 1.0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b d"], train: bool) -> Float[Array, "b k"]:
        """Logits `scale * x . w / |w|`."""
        kernel = self.param("kernel", nn.initializers.lecun_normal(), (x.shape[-1], self.features), jnp.float32)
        scale = self.param("scale", nn.initializers.constant(self.scale), (), jnp.float32)
        dtype = x.dtype if self.dtype is None else self.dtype
        unit = l2_normalize(kernel.T).T.astype(dtype)
        y = at_least_float32(jnp.matmul(x.astype(dtype), unit))
        return scale.astype(y.dtype) * y
