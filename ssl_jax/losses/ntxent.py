"""NT-Xent, the normalised temperature-scaled cross-entropy of SimCLR (Chen et al., ICML 2020, eq. 1)."""

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Float

from ssl_jax.losses.forms import choose_form
from ssl_jax.losses.normalize import at_least_float32, l2_normalize
from ssl_jax.losses.streaming import logsumexp_of_others


def ntxent(
    embedding: Float[Array, "b 2 d"], *, temperature: float = 0.1, form: str = "auto", mesh: Mesh | None = None
) -> Float[Array, ""]:
    """Mean over the 2b anchors of the cross-entropy that finds an anchor's other view among the 2b - 1 others.

    The batch is global: under `jit` with a sharded batch axis, negatives come from all devices and gradients flow
    into them exactly. The view axis stands after the batch axis so that flattening keeps the sharding.

    Args:
      embedding: projections of both views of each example, any scale (cosine similarity is used).
      temperature: divides the similarities; > 0. Small values (0.01) are safe, since exponents are shifted.
      form: how to go through the 2b x 2b logits: "dense" holds them; "tiled" holds 2b x 256 of them at a time;
        "ring" holds the device's share of a tile, and no device holds all embeddings. The value is the same. "auto"
        takes dense up to a batch of 4,096, and then ring on several devices, tiled on one.
      mesh: devices for the ring, with an axis `data`; None takes what `jax.set_mesh` or the training step has set.

    Returns:
      Scalar of the paper's scale, as lightly's, solo-learn's and VISSL's. google-research/simclr adds the two
      directions up, which is twice this value.

    Raises:
      UserError: the form is unknown, or ring is asked for without a mesh or with one that does not divide the batch.
    """
    rows = 2 * len(embedding)
    form, ring = choose_form(form, rows=rows, columns=rows, mesh=mesh)
    z = l2_normalize(at_least_float32(embedding))
    positive = jnp.repeat(jnp.sum(z[:, 0] * z[:, 1], axis=-1), 2) / temperature
    z = z.reshape(-1, z.shape[-1])
    if form == "dense":
        logits = jnp.matmul(z, z.T, precision="highest") / temperature
        logits = jnp.where(jnp.eye(len(z), dtype=bool), -jnp.inf, logits)
        total = jax.nn.logsumexp(logits, axis=1)
    else:
        total, _ = logsumexp_of_others(z / temperature**0.5, mesh=ring)
    return jnp.mean(total - positive)
