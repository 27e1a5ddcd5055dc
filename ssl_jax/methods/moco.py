"""MoCo: contrast a query with a queue of keys from a slow copy of the encoder (He et al., CVPR 2020; v2: Chen et al.).

The queue decouples the number of negatives from the batch; the key encoder is a moving average, so that keys of
different age stay comparable.

https://arxiv.org/abs/1911.05722 and https://arxiv.org/abs/2003.04297
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from ssl_jax import losses
from ssl_jax.checks import check_momentum, check_positive, views_of
from ssl_jax.collapse import stuck_at_chance
from ssl_jax.core import Card, Carry, Method
from ssl_jax.memory import ema, enqueue
from ssl_jax.nets import functional
from ssl_jax.nets.heads import MLP

CARD = Card(
    family="contrastive",
    papers=("1911.05722", "2003.04297"),
    encoders="any",
    state=("teacher", "queue"),
    published="71.1 linear, ResNet-50, v2, 800 epochs",
)


def moco(
    encoder: nn.Module,
    *,
    mlp: bool = True,
    dim: int = 128,
    queue_size: int = 65536,
    temperature: float = 0.2,
    momentum: float = 0.999,
    form: str = "auto",
) -> Method:
    """Build MoCo v2, or v1 with `mlp=False, temperature=0.07`.

    Args:
      encoder: see `ssl_jax.nets.functional`. With `bn_groups` > 1 its batch statistics are taken over groups of the
        batch, and keys are shuffled between the groups, as the authors shuffle them between GPUs; on any number of
        devices.
      mlp: two-layer projection head without batch norm (v2), or one linear layer (v1).
      dim: size of keys and queries.
      queue_size: number of negatives; any number, not only multiples of the batch.
      temperature: of InfoNCE, > 0.
      momentum: of the key encoder's average.
      form: how InfoNCE goes through its logits: "dense", "tiled" or "ring"; "auto" chooses by their number, see
        `losses.infonce_with_accuracy`. All give the same value.

    One direction (view 0 queries, view 1 keys) and one queue, as the authors' code. The key encoder takes its average
    after the optimizer's update rather than at the next step's start, which is the same sequence.

    Raises:
      UserError: a size or the temperature is not above 0, the momentum not in 0..1, the form unknown, or (from the
        functions) a batch has not two views, or the form does not fit the devices.
    """
    check_positive(dim=dim, queue_size=queue_size, temperature=temperature)
    check_momentum(momentum)
    losses.check_form(form)
    hidden: tuple[int | None, ...] = (None,) if mlp else ()
    head = MLP((*hidden, dim), norm=False, dtype=getattr(encoder, "dtype", None))
    shuffled = getattr(encoder, "bn_groups", 1) > 1

    def project(params, state, image, rng):
        pooled, _, encoder_state = functional.encode(
            encoder, params["encoder"], state["encoder"], image, train=True, rng=rng
        )
        projection, _ = functional.apply(head, params["projector"], {}, pooled, train=True)
        return projection, pooled, {"encoder": encoder_state}

    def init(rng, batch):
        encoder_rng, head_rng, queue_rng = jax.random.split(rng, 3)
        image = views_of(batch, count=2)[:, 0]
        encoder_params, encoder_state, pooled, _ = functional.init_encoder(encoder, encoder_rng, image)
        params = {"encoder": encoder_params, "projector": functional.init(head, head_rng, pooled)[0]}
        state = {"encoder": encoder_state}
        queue = losses.l2_normalize(jax.random.normal(queue_rng, (queue_size, dim), jnp.float32))
        return params, Carry(
            model_state=state,
            teacher={"params": params, "model_state": state},
            memory={"queue": queue, "pointer": jnp.zeros((), jnp.int32)},
        )

    def loss(params, carry, batch, rng, step):
        views, memory = views_of(batch, count=2), carry.memory
        query, pooled, state = project(params, carry.model_state, views[:, 0], rng)
        image = views[:, 1]
        # A key whose batch statistics came from its query's neighbours would give itself away (MoCo, section 3.3).
        order = jax.random.permutation(rng, len(image)) if shuffled else None
        image = image if order is None else image[order]
        key, _, key_state = project(carry.teacher["params"], carry.teacher["model_state"], image, rng)
        key = key if order is None else key[jnp.argsort(order)]
        key = lax.stop_gradient(losses.l2_normalize(losses.at_least_float32(key)))
        negatives = lax.stop_gradient(memory["queue"])
        value, hits = losses.infonce_with_accuracy(query, key, negatives, temperature=temperature, form=form)
        queue, pointer = enqueue(memory["queue"], memory["pointer"], key)
        carry = Carry(
            model_state=state,
            teacher={**carry.teacher, "model_state": key_state},
            memory={"queue": queue, "pointer": pointer},
        )
        return value, (carry, {"contrastive_accuracy": hits, "embedding": query, "features": pooled})

    def update(params, carry, step):
        return carry.replace(teacher={**carry.teacher, "params": ema(carry.teacher["params"], params, momentum)})

    return Method(
        name="moco",
        init=init,
        loss=loss,
        encode=functional.encode_with(encoder),
        update=update,
        warn=stuck_at_chance(queue_size + 1),
    )
