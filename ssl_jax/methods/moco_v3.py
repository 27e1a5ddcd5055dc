"""MoCo v3: contrast a prediction with a slow copy's keys of the batch, without a queue (Chen et al., ICCV 2021).

The batch is large enough to bring its own negatives; a predictor stands on the query's side only, and both views are
queries. For vision transformers the patch embedding stays random, which keeps training stable.

https://arxiv.org/abs/2104.02057
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from ssl_jax import losses
from ssl_jax.checks import check_momentum, check_positive, views_of
from ssl_jax.collapse import guess_among_candidates
from ssl_jax.core import Card, Carry, Method
from ssl_jax.memory import ema
from ssl_jax.nets import functional
from ssl_jax.nets.heads import MLP
from ssl_jax.schedules import Schedule, value_at

CARD = Card(
    family="contrastive",
    papers=("2104.02057",),
    encoders="any; a ViT with `freeze_patches=True`",
    state=("teacher",),
    published="74.6 linear, ResNet-50, 1000 epochs; 76.7, ViT-B, 300 epochs",
)


def moco_v3(
    encoder: nn.Module,
    *,
    layers: int = 2,
    hidden: int = 4096,
    dim: int = 256,
    temperature: float = 1.0,
    momentum: float | Schedule = 0.99,
    predictor_norm: bool = True,
    form: str = "auto",
) -> Method:
    """Build MoCo v3.

    Args:
      encoder: see `ssl_jax.nets.functional`.
      layers: layers of the projector: 2 for ResNets, 3 for vision transformers. The predictor has 2.
      hidden: width of the hidden layers of projector and predictor.
      dim: size of queries and keys.
      temperature: of InfoNCE, > 0: 1.0 for ResNets, 0.2 for vision transformers.
      momentum: of the key encoder's average, a number or a schedule (the paper: a cosine to 1).
      predictor_norm: end the predictor in a batch norm, as the projector does: the authors do so for vision
        transformers, and not for ResNets.
      form: how InfoNCE goes through its logits: "dense", "tiled" or "ring"; "auto" chooses by their number, see
        `losses.infonce_with_accuracy`. All give the same value.

    The loss is `2 * temperature` times InfoNCE, summed over both directions, as the authors' code. Every layer of the
    heads is without bias and followed by a batch norm, the last of which has no parameters (`predictor_norm`).

    The authors' code averages at the start of a step, before keys are made, and ours at the end of the step before
    (`update`, after the optimizer), with the momentum of the step that follows: the same sequence, as their first
    average is of two equal networks. Differs in: for a transformer, that code starts the weights in a way of its own.

    Raises:
      UserError: a size or the temperature is not above 0, the momentum not in 0..1, the form unknown, or (from the
        functions) a batch has not two views, or the form does not fit the devices.
    """
    check_positive(layers=layers, hidden=hidden, dim=dim, temperature=temperature)
    check_momentum(momentum)
    losses.check_form(form)
    dtype = getattr(encoder, "dtype", None)
    projector = MLP((hidden,) * (layers - 1) + (dim,), out_norm="plain", dtype=dtype)
    predictor = MLP((hidden, dim), out_norm="plain" if predictor_norm else None, out_bias=False, dtype=dtype)

    def project(params, state, image, rng):
        pooled, _, encoder_state = functional.encode(
            encoder, params["encoder"], state["encoder"], image, train=True, rng=rng
        )
        z, head_state = functional.apply(projector, params["projector"], state["projector"], pooled, train=True)
        return z, pooled, {**state, "encoder": encoder_state, "projector": head_state}

    def init(rng, batch):
        encoder_rng, projector_rng, predictor_rng = jax.random.split(rng, 3)
        image = views_of(batch, count=2)[:, 0]
        params, state = {}, {}
        params["encoder"], state["encoder"], pooled, _ = functional.init_encoder(encoder, encoder_rng, image)
        params["projector"], state["projector"] = functional.init(projector, projector_rng, pooled)
        teacher = {"params": dict(params), "model_state": dict(state)}
        z, _, _ = project(params, state, image, encoder_rng)
        params["predictor"], state["predictor"] = functional.init(predictor, predictor_rng, z)
        return params, Carry(model_state=state, teacher=teacher)

    def loss(params, carry, batch, rng, step):
        state, key_state = carry.model_state, carry.teacher["model_state"]
        views, rngs = views_of(batch, count=2), jax.random.split(rng, 2)
        queries, keys, pooled = [], [], []
        for view in range(2):
            z, features, state = project(params, state, views[:, view], rngs[view])
            query, head_state = functional.apply(predictor, params["predictor"], state["predictor"], z, train=True)
            state = {**state, "predictor": head_state}
            key, _, key_state = project(carry.teacher["params"], key_state, views[:, view], rngs[view])
            queries.append(query)
            keys.append(lax.stop_gradient(key))
            pooled.append(features)
        value, hits = 0.0, []
        for query, key in ((queries[0], keys[1]), (queries[1], keys[0])):
            one, hit = losses.infonce_with_accuracy(query, key, temperature=temperature, form=form)
            value += one
            hits.append(hit)
        carry = carry.replace(model_state=state, teacher={**carry.teacher, "model_state": key_state})
        metrics = {
            "contrastive_accuracy": sum(hits) / 2,
            "candidates": jnp.full((), len(views), jnp.float32),
            "embedding": queries[0],
            "features": pooled[0],
        }
        return 2 * temperature * value, (carry, metrics)

    def update(params, carry, step):
        online = {name: params[name] for name in carry.teacher["params"]}
        average = ema(carry.teacher["params"], online, value_at(momentum, step + 1))
        return carry.replace(teacher={**carry.teacher, "params": average})

    return Method(
        name="moco_v3",
        init=init,
        loss=loss,
        encode=functional.encode_with(encoder),
        update=update,
        warn=guess_among_candidates(scale=4 * temperature),  # two directions, each times 2 t
    )
