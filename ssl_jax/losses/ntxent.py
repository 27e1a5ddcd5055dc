"""NT-Xent, the normalised temperature-scaled cross-entropy of SimCLR (Chen et al., ICML 2020, eq. 1)."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ssl_jax.losses.normalize import at_least_float32, l2_normalize


def ntxent(embedding: Float[Array, "b 2 d"], *, temperature: float = 0.1) -> Float[Array, ""]:
    """Mean over the 2b anchors of the cross-entropy that finds an anchor's other view among the 2b - 1 others.

    The batch is global: under `jit` with a sharded batch axis, negatives come from all devices and gradients flow
    into them exactly. The view axis stands after the batch axis so that flattening keeps the sharding.

    Args:
      embedding: projections of both views of each example, any scale (cosine similarity is used).
      temperature: divides the similarities; > 0. Small values (0.01) are safe, since exponents are shifted.

    Returns:
      Scalar of the paper's scale, as lightly's, solo-learn's and VISSL's. google-research/simclr adds the two
      directions up, which is twice this value.
    """
    z = l2_normalize(at_least_float32(embedding))
    positive = jnp.repeat(jnp.sum(z[:, 0] * z[:, 1], axis=-1), 2) / temperature
    z = z.reshape(-1, z.shape[-1])
    logits = jnp.matmul(z, z.T, precision="highest") / temperature
    logits = jnp.where(jnp.eye(len(z), dtype=bool), -jnp.inf, logits)
    return jnp.mean(jax.nn.logsumexp(logits, axis=1) - positive)
