"""SwAV: predict the cluster of one view from another, with clusters found online (Caron et al., NeurIPS 2020).

Embeddings are scored against trained prototypes. Of the large views' scores Sinkhorn-Knopp makes codes that use all
prototypes alike over the batch; every view predicts the codes of the other ones. No teacher and no negatives: equal
use of the prototypes is what prevents collapse.

https://arxiv.org/abs/2006.09882
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from ssl_jax import collapse, losses, small_data
from ssl_jax.checks import check_positive, crops_of
from ssl_jax.core import Card, Carry, Method, UserError
from ssl_jax.memory import enqueue
from ssl_jax.nets import functional
from ssl_jax.nets.heads import MLP
from ssl_jax.nets.prototypes import Prototypes

CARD = Card(
    family="decorrelation and clustering",
    papers=("2006.09882",),
    encoders="any",
    state=("queue",),
    published="75.3 linear, ResNet-50, 800 epochs",
)


def swav(
    encoder: nn.Module,
    *,
    prototypes: int | None = 3000,
    hidden: int = 2048,
    dim: int = 128,
    temperature: float = 0.1,
    epsilon: float = 0.05,
    iterations: int = 3,
    queue_size: int = 0,
    queue_start: int = 0,
    examples: int | None = None,
) -> Method:
    """Build SwAV.

    The batch's views are a tuple of arrays, one for each size, of which the first holds the large views that codes
    are made of (`augment.swav`); one array of views is as good, and is multi-crop with no small ones.

    Args:
      encoder: see `ssl_jax.nets.functional`. With `bn_groups` > 1 the head's batch statistics are of as many groups.
      prototypes: number of clusters; None leaves it to `examples`, see `small_data`.
      hidden: width of the projection head's hidden layer.
      dim: size of the embedding.
      temperature: of the predictions, > 0.
      epsilon: smoothness of the codes, > 0. If the loss stays at the logarithm of `prototypes`, the authors advise a
        lower one (0.03), and to freeze the prototypes at first (an optimizer group).
      iterations: of Sinkhorn-Knopp.
      queue_size: number of embeddings of past batches whose scores take part in Sinkhorn-Knopp, for batches that are
        small beside the number of prototypes; 0 for none.
      queue_start: step from which the queue is used; in any case not before it is full.
      examples: number of images in the data, for `prototypes=None`.

    Differs from the authors' code in: prototypes are normalised where they are used, as a part of the loss, while the
    code overwrites them with their directions before every step; so the gradient is that of the direction. The queue
    fills from the first step on, the code's from `queue_start`.

    Raises:
      UserError: a number is out of range, or (from the functions) a batch has fewer than two views.
    """
    if prototypes is None:
        prototypes = small_data.prototypes(small_data.known(examples, "examples", "prototypes"), 3000)
    check_positive(prototypes=prototypes, hidden=hidden, dim=dim, temperature=temperature, epsilon=epsilon)
    check_positive(iterations=iterations)
    if queue_size < 0:
        raise UserError(f"`queue_size` can't be {queue_size}; 0 stands for no queue.")
    dtype = getattr(encoder, "dtype", None)
    projector = MLP((hidden, dim), bn_groups=getattr(encoder, "bn_groups", 1), dtype=dtype)
    # Scores decide over codes, so they are not rounded to half precision.
    last = Prototypes(prototypes, dtype=jnp.float64 if dtype == jnp.float64 else jnp.float32)

    def init(rng, batch):
        encoder_rng, head_rng, prototype_rng = jax.random.split(rng, 3)
        large = crops_of(batch)[0]
        encoder_params, encoder_state, pooled, _ = functional.init_encoder(encoder, encoder_rng, large[:, 0])
        head_params, head_state = functional.init(projector, head_rng, pooled)
        embedding = jnp.zeros((1, dim), jnp.float32)
        params = {
            "encoder": encoder_params,
            "projector": head_params,
            "prototypes": functional.init(last, prototype_rng, embedding)[0],
        }
        memory = None
        if queue_size:
            queue = jnp.zeros((queue_size, large.shape[1], dim), jnp.float32)
            memory = {"queue": queue, "pointer": jnp.zeros((), jnp.int32)}
        return params, Carry(model_state={"encoder": encoder_state, "projector": head_state}, memory=memory)

    def score(params, embedding):
        return functional.apply(last, params["prototypes"], {}, embedding, train=True)[0]

    def assign(params, scores, memory, step):
        """Codes [b t k] of the scores [b t k], found together with those of the queue."""
        b, views, _ = scores.shape
        where, past = None, jnp.zeros((0, *scores.shape[1:]), scores.dtype)
        if queue_size:
            past = jnp.stack([score(params, memory["queue"][:, i]) for i in range(views)], axis=1)
            used = step >= max(queue_start, -(-queue_size // b))
            where = jnp.concatenate([jnp.ones((b,), bool), jnp.full((queue_size,), used)])
        together = jnp.concatenate([scores, past.astype(scores.dtype)])
        codes = [
            losses.sinkhorn(together[:, i], epsilon=epsilon, iterations=iterations, where=where)[:b]
            for i in range(views)
        ]
        return lax.stop_gradient(jnp.stack(codes, axis=1))

    def loss(params, carry, batch, rng, step):
        crops, state, memory = crops_of(batch, views=2), carry.model_state, carry.memory
        pooled, encoder_state = functional.encode_crops(
            encoder, params["encoder"], state["encoder"], crops, train=True, rng=rng
        )
        b, v, _ = pooled.shape
        projection, head_state = functional.apply(
            projector, params["projector"], state["projector"], pooled.reshape(b * v, -1), train=True
        )
        embedding = losses.l2_normalize(projection)
        scores, embedding = score(params, embedding).reshape(b, v, -1), embedding.reshape(b, v, -1)
        large = crops[0].shape[1]
        codes = assign(*lax.stop_gradient((params, scores[:, :large], memory)), step)
        value = losses.cross_view_entropy(codes, scores, temperature=temperature)
        if queue_size:
            past = lax.stop_gradient(embedding[:, :large])
            queue, pointer = enqueue(lax.stop_gradient(memory["queue"]), memory["pointer"], past)
            memory = {"queue": queue, "pointer": pointer}
        carry = Carry(model_state={"encoder": encoder_state, "projector": head_state}, memory=memory)
        metrics = {**losses.usage(codes, lax.stop_gradient(value)), "embedding": embedding[:, 0]}
        return value, (carry, {**metrics, "features": pooled[:, 0]})

    def nearness(params, carry, image):
        state = carry.model_state
        pooled, _, _ = functional.encode(encoder, params["encoder"], state["encoder"], image, train=False)
        projection, _ = functional.apply(projector, params["projector"], state["projector"], pooled, train=False)
        return {"prototypes": score(params, losses.l2_normalize(projection))[:, None, None]}

    return Method(
        name="swav",
        init=init,
        loss=loss,
        encode=functional.encode_with(encoder),
        warn=collapse.any_of(collapse.stuck_at_chance(prototypes), collapse.prototypes(prototypes)),
        words=nearness,
    )
