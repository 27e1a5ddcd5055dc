"""NNCLR: contrast with the nearest neighbour of a view instead of the view itself (Dwibedi et al., ICCV 2021).

A queue holds projections of past images. Each view's projection is replaced by its nearest neighbour there, which the
prediction from the other view has to find among the neighbours of the batch: positives are then other images.

https://arxiv.org/abs/2104.14548
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from ssl_jax import losses
from ssl_jax.checks import check_positive, views_of
from ssl_jax.collapse import guess_among_candidates
from ssl_jax.core import Card, Carry, Method
from ssl_jax.memory import enqueue
from ssl_jax.nets import functional
from ssl_jax.nets.heads import MLP

CARD = Card(
    family="contrastive",
    papers=("2104.14548",),
    encoders="any",
    state=("queue",),
    published="75.4 linear, ResNet-50, 1000 epochs",
)


def nnclr(
    encoder: nn.Module,
    *,
    hidden: int = 2048,
    predictor_hidden: int = 4096,
    dim: int = 256,
    queue_size: int = 98304,
    temperature: float = 0.1,
    form: str = "auto",
) -> Method:
    """Build NNCLR.

    Args:
      encoder: see `ssl_jax.nets.functional`.
      hidden: width of the two hidden layers of the projector.
      predictor_hidden: width of the predictor's hidden layer.
      dim: size of projections and predictions.
      queue_size: number of projections to find neighbours among (the support set); any number. Beyond 2^26
        similarities in a step the search goes through it in tiles.
      temperature: of InfoNCE, > 0.
      form: how InfoNCE goes through its logits: "dense", "tiled" or "ring"; "auto" chooses by their number, see
        `losses.infonce_with_accuracy`. All give the same value.

    The authors published no code; this follows the paper, with the choices of its algorithm 1: the loss is the mean
    over both views, each in one direction (neighbours pick predictions; the paper's other direction "does not affect
    performance"), and the first view's projections alone enter the queue, after the neighbours were taken. Every layer
    of the projector has a batch norm, the predictor's hidden layer has one, as the paper says. The queue starts random.

    Raises:
      UserError: a size or the temperature is not above 0, the form is unknown, or (from the functions) a batch has
        not two views, or the form does not fit the devices.
    """
    check_positive(hidden=hidden, predictor_hidden=predictor_hidden, dim=dim)
    check_positive(queue_size=queue_size, temperature=temperature)
    losses.check_form(form)
    dtype = getattr(encoder, "dtype", None)
    projector = MLP((hidden, hidden, dim), out_norm="affine", dtype=dtype)
    predictor = MLP((predictor_hidden, dim), dtype=dtype)

    def init(rng, batch):
        encoder_rng, projector_rng, predictor_rng, queue_rng = jax.random.split(rng, 4)
        image = views_of(batch, count=2)[:, 0]
        params, state = {}, {}
        params["encoder"], state["encoder"], pooled, _ = functional.init_encoder(encoder, encoder_rng, image)
        params["projector"], state["projector"] = functional.init(projector, projector_rng, pooled)
        z, _ = functional.apply(projector, params["projector"], state["projector"], pooled, train=False)
        params["predictor"], state["predictor"] = functional.init(predictor, predictor_rng, z)
        queue = losses.l2_normalize(jax.random.normal(queue_rng, (queue_size, dim), jnp.float32))
        return params, Carry(model_state=state, memory={"queue": queue, "pointer": jnp.zeros((), jnp.int32)})

    def forward(params, state, image, rng):
        """Encoder, projector and predictor, one after the other: `(pooled, projection, prediction, state)`."""
        pooled, _, encoder_state = functional.encode(
            encoder, params["encoder"], state["encoder"], image, train=True, rng=rng
        )
        z, projector_state = functional.apply(projector, params["projector"], state["projector"], pooled, train=True)
        p, predictor_state = functional.apply(predictor, params["predictor"], state["predictor"], z, train=True)
        return pooled, z, p, {"encoder": encoder_state, "projector": projector_state, "predictor": predictor_state}

    def loss(params, carry, batch, rng, step):
        views, rngs, memory = views_of(batch, count=2), jax.random.split(rng, 2), carry.memory
        pooled, z1, p1, state = forward(params, carry.model_state, views[:, 0], rngs[0])
        _, z2, p2, state = forward(params, state, views[:, 1], rngs[1])
        z1, z2 = (lax.stop_gradient(losses.l2_normalize(losses.at_least_float32(z))) for z in (z1, z2))
        near1, near2 = (losses.nearest(z, memory["queue"]) for z in (z1, z2))
        value, hits = losses.infonce_with_accuracy(near1, p2, temperature=temperature, form=form)
        value = (value + losses.infonce_in_batch(near2, p1, temperature=temperature, form=form)) / 2
        queue, pointer = enqueue(memory["queue"], memory["pointer"], z1)
        metrics = {
            "contrastive_accuracy": hits,
            "candidates": jnp.full((), len(views), jnp.float32),
            "neighbour_similarity": jnp.mean(losses.cosine(z1, near1)),
            "embedding": z1,
            "features": pooled,
        }
        return value, (carry.replace(model_state=state, memory={"queue": queue, "pointer": pointer}), metrics)

    encode, warn = functional.encode_with(encoder), guess_among_candidates()
    return Method(name="nnclr", init=init, loss=loss, encode=encode, warn=warn)
