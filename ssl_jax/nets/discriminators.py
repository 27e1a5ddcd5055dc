"""Discriminators of adversarial games."""

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from ssl_jax.nets.conv import Conv
from ssl_jax.nets.precision import at_least_float32


class JointDiscriminator(nn.Module):
    """Scores pairs of an image and a code: strided convolutions, then a perceptron that sees both.

    Leaky ReLUs of slope 0.2 and no normalisation: no batch statistic can tell a batch of real pairs from one of made
    pairs, and the score of a pair depends on that pair alone.

    Attributes:
      width: channels after the first convolution; twice as many after each further one, up to 512.
      halvings: number of convolutions, 4x4 of stride 2.
      hidden: width of the perceptron's layers.
      dtype: of the arithmetic. Parameters and scores are float32.
    """

    width: int = 32
    halvings: int = 2
    hidden: int = 256
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, image: Float[Array, "b h w c"], train: bool, *, code: Float[Array, "b d"]) -> Float[Array, " b"]:
        """Logits of "this is an image with its code, and not a code with what was made of it"."""
        x = image.astype(self.dtype)
        for i in range(self.halvings):
            width = min(self.width * 2**i, max(self.width, 512))
            x = nn.leaky_relu(Conv(width, 4, 2, 1, self.dtype, name=f"conv{i + 1}")(x), 0.2)
        dense = lambda width, name: nn.Dense(width, dtype=self.dtype, name=name)  # noqa: E731
        z = nn.leaky_relu(dense(self.hidden, "code")(code.astype(self.dtype)), 0.2)
        x = jnp.concatenate([x.reshape(len(x), -1), z], axis=1)
        x = nn.leaky_relu(dense(self.hidden, "hidden")(x), 0.2)
        return dense(1, "score")(x)[:, 0].astype(at_least_float32(self.dtype))
