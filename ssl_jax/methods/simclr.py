"""SimCLR: agree across two views, against all other images of the batch (Chen et al., ICML and NeurIPS 2020).

An encoder and a projection head are trained so that the two views of an image are nearest neighbours among all views
in the batch. Version 2 has a deeper head. No state besides batch statistics.

https://arxiv.org/abs/2002.05709 and https://arxiv.org/abs/2006.10029
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from ssl_jax import losses
from ssl_jax.checks import check_positive, views_of
from ssl_jax.collapse import guess_among_candidates
from ssl_jax.core import Card, Carry, Method
from ssl_jax.nets import functional
from ssl_jax.nets.heads import MLP

CARD = Card(
    family="contrastive",
    papers=("2002.05709", "2006.10029"),
    encoders="any",
    published="69.1 linear, ResNet-50, 1000 epochs",
)


def simclr(
    encoder: nn.Module,
    *,
    layers: int = 2,
    hidden: int | None = None,
    dim: int = 128,
    temperature: float = 0.1,
    scale: float = 1.0,
    form: str = "auto",
) -> Method:
    """Build SimCLR.

    Args:
      encoder: see `ssl_jax.nets.functional`.
      layers: layers of the projection head: 2 (version 1) or 3 (version 2).
      hidden: width of the head's hidden layers; None takes the encoder's.
      dim: size of the embedding that the loss compares.
      temperature: of NT-Xent, > 0.
      scale: factor of the whole loss, > 0. With 1 it is averaged over all views, as in the paper's equation 1; the
        authors' code adds its two directions up, which is 2. LARS undoes it for weights, but not for biases and norm
        parameters, which do not adapt: with 1 these train at half of the authors' rate.
      form: how the loss goes through its logits: "dense", "tiled" or "ring"; "auto" chooses by the batch, see
        `losses.ntxent`. All give the same value.

    `encode` adds the head's hidden layers to the encoder's maps, "projector1" `[b hidden]` and so on: version 2 starts
    fine-tuning in the middle of its head, at the first of them. The pooled features stay the encoder's.

    Raises:
      UserError: a size, the temperature or the scale is not above 0, the form is unknown, or (from the functions) a
        batch has not two views, or the form does not fit the devices.
    """
    check_positive(layers=layers, hidden=hidden, dim=dim, temperature=temperature, scale=scale)
    losses.check_form(form)
    # The authors' head: no biases before norms, and a last norm without shift.
    projector = MLP((hidden,) * (layers - 1) + (dim,), out_norm="scale", dtype=getattr(encoder, "dtype", None))

    def init(rng, batch):
        encoder_rng, head_rng = jax.random.split(rng)
        image = views_of(batch, count=2)[:, 0]
        params, state, pooled, _ = functional.init_encoder(encoder, encoder_rng, image)
        head_params, head_state = functional.init(projector, head_rng, pooled)
        return {"encoder": params, "projector": head_params}, Carry(
            model_state={"encoder": state, "projector": head_state}
        )

    def loss(params, carry, batch, rng, step):
        views = views_of(batch, count=2)
        b, v = views.shape[:2]
        state = carry.model_state
        pooled, _, encoder_state = functional.encode(
            encoder, params["encoder"], state["encoder"], views.reshape(b * v, *views.shape[2:]), train=True, rng=rng
        )
        embedding, head_state = functional.apply(projector, params["projector"], state["projector"], pooled, train=True)
        embedding = embedding.reshape(b, v, -1)
        value = scale * losses.ntxent(embedding, temperature=temperature, form=form)
        carry = carry.replace(model_state={"encoder": encoder_state, "projector": head_state})
        metrics = {
            "candidates": jnp.full((), 2 * b - 1, jnp.float32),
            "embedding": embedding[:, 0],
            "features": pooled.reshape(b, v, -1)[:, 0],
        }
        return value, (carry, metrics)

    def encode(params, carry, image):
        state = carry.model_state
        pooled, maps, _ = functional.encode(encoder, params["encoder"], state["encoder"], image, train=False)
        (_, hidden), _ = functional.apply(
            projector, params["projector"], state["projector"], pooled, train=False, with_hidden=True
        )
        return pooled, {**maps, **{f"projector{i}": x for i, x in enumerate(hidden, start=1)}}

    return Method(name="simclr", init=init, loss=loss, encode=encode, warn=guess_among_candidates(scale=scale))
