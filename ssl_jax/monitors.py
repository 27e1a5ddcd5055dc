"""What tells a collapsing run from a healthy one, and a probe that watches without touching the encoder."""

import functools

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jaxtyping import Array, Float, Int

from ssl_jax.core import PyTree
from ssl_jax.losses import at_least_float32, l2_normalize

PROBE = optax.adam(1e-2)


def relative_deviation(unit: Float[Array, "n d"]) -> Float[Array, ""]:
    """Deviation of each coordinate of unit rows, averaged, times sqrt(d): 1 for directions spread evenly, 0 for one."""
    return jnp.mean(jnp.std(unit, axis=0)) * unit.shape[1] ** 0.5


def exponential_entropy(share: Float[Array, " n"]) -> Float[Array, ""]:
    """Exponential of the entropy of shares: how many equal ones would be as uneven; shares of 0 count nothing."""
    entropy = -jnp.sum(jnp.where(share > 0, share * jnp.log(jnp.maximum(share, 1e-30)), 0.0))
    return jnp.exp(entropy)


@jax.jit
def collapse(embedding: Float[Array, "n d"]) -> dict[str, Array]:
    """Spread of normalised embeddings.

    Returns:
      `embedding_std`: deviation of each coordinate over the batch, averaged, times sqrt(d): 1 for directions spread
        evenly over the sphere, 0 when all are equal (SimSiam, figure 2).
      `effective_rank`: exponential of the entropy of the centred embeddings' singular values, 1..min(n, d)
        (Roy & Vetterli, 2007); near 1 when everything lies on a line. Singular values below a thousandth of the
        largest are taken for rounding noise and left out.
    """
    z = l2_normalize(at_least_float32(embedding))
    std = relative_deviation(z)
    z = z - jnp.mean(z, axis=0, keepdims=True)
    z = z if z.shape[0] >= z.shape[1] else z.T
    squared = jnp.linalg.eigvalsh(jnp.matmul(z.T, z, precision="highest"))
    singular = jnp.sqrt(jnp.where(squared > 1e-6 * jnp.max(squared), squared, 0.0))
    share = singular / jnp.maximum(jnp.sum(singular), 1e-12)
    return {"embedding_std": std, "effective_rank": exponential_entropy(share)}


def queue(memory: PyTree, *, batch_size: int, steps: int) -> dict[str, float]:
    """How full a method's queue is, and how old; nothing for methods without one.

    Args:
      memory: `Carry.memory`; a queue is what stands beside a "pointer" with an axis of entries and others (`enqueue`).
      batch_size: entries that each step adds. If the pointer stands elsewhere, the method adds another number, which
        isn't known here, and there is nothing to tell.
      steps: updates that were applied.

    Returns:
      `queue_filled`: share of the queue that comes from images, 0..1; the rest is as it was initialised.
      `queue_age`: steps ago that its oldest entry was made, by the next step's reckoning: 1 is the step before.
    """
    if not isinstance(memory, dict) or "pointer" not in memory:
        return {}
    sizes = {len(x) for x in jax.tree.leaves(memory) if x.ndim > 1}
    if len(sizes) != 1 or int(memory["pointer"]) != steps * batch_size % (size := sizes.pop()):
        return {}
    return {
        "queue_filled": min(steps * batch_size / size, 1.0),
        "queue_age": float(min(steps, -(-size // batch_size))),
    }


class Probe(struct.PyTreeNode):
    """An online linear classifier: weights, running moments of the features, optimizer state, smoothed accuracy."""

    params: PyTree
    moments: PyTree
    opt_state: PyTree
    accuracy: PyTree
    count: PyTree


def init_probe(dim: int, classes: int) -> Probe:
    """A fresh probe for `[b dim]` features and `classes` classes."""
    params = {"weight": jnp.zeros((dim, classes), jnp.float32), "bias": jnp.zeros((classes,), jnp.float32)}
    moments = {"mean": jnp.zeros((dim,), jnp.float32), "square": jnp.zeros((dim,), jnp.float32)}
    zero, count = jnp.zeros((), jnp.float32), jnp.zeros((), jnp.int32)
    return Probe(params=params, moments=moments, opt_state=PROBE.init(params), accuracy=zero, count=count)


@jax.jit
def update_probe(probe: Probe, features: Float[Array, "b d"], labels: Int[Array, " b"]) -> Probe:
    """One step on a batch's features, which are arrays here: no gradient can reach the encoder.

    The accuracy is that of each batch before it is learned from, averaged over about the last 50 batches. Features that
    are not finite change nothing.
    """
    features = at_least_float32(features).astype(jnp.float32)
    count = probe.count + 1
    # Averages that count all batches alike at first, and then forget.
    rate = 1.0 / jnp.minimum(count, 50).astype(jnp.float32)
    blend = lambda old, new: old + rate * (new - old)  # noqa: E731
    mean = blend(probe.moments["mean"], jnp.mean(features, axis=0))
    square = blend(probe.moments["square"], jnp.mean(features**2, axis=0))
    scale = jax.lax.rsqrt(jnp.maximum(square - mean**2, 1e-6))
    x = (features - mean[None]) * scale[None]

    def loss(params):
        logits = x @ params["weight"] + params["bias"][None]
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, labels)), logits

    grads, logits = jax.grad(loss, has_aux=True)(probe.params)
    hit = jnp.mean((jnp.argmax(logits, axis=1) == labels).astype(jnp.float32))
    with jax.numpy_dtype_promotion("standard"):  # as in `train_step`
        updates, opt_state = PROBE.update(grads, probe.opt_state, probe.params)
    updated = Probe(
        params=optax.apply_updates(probe.params, updates),
        moments={"mean": mean, "square": square},
        opt_state=opt_state,
        accuracy=blend(probe.accuracy, hit),
        count=count,
    )
    finite = jnp.isfinite(jnp.sum(features))
    return jax.tree.map(functools.partial(jax.lax.select, finite), updated, probe)
