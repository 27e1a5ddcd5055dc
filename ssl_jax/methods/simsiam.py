"""SimSiam: predict one view from the other with one network, and stop the gradient (Chen & He, CVPR 2021).

A predictor on top of one view regresses the projection of the other, through which no gradient flows. There is
neither a slow copy nor a negative; without the stopped gradient all images fall on one point.

https://arxiv.org/abs/2011.10566
"""

import flax.linen as nn
import jax
from jax import lax

from ssl_jax import losses
from ssl_jax.checks import check_positive, views_of
from ssl_jax.core import Card, Carry, Method
from ssl_jax.nets import functional
from ssl_jax.nets.heads import MLP

CARD = Card(
    family="teacher and student",
    papers=("2011.10566",),
    encoders="any",
    published="68.1 linear, ResNet-50, 100 epochs",
)


def simsiam(
    encoder: nn.Module,
    *,
    layers: int = 3,
    dim: int = 2048,
    bottleneck: int = 512,
    stop_gradient: bool = True,
) -> Method:
    """Build SimSiam.

    Args:
      encoder: see `ssl_jax.nets.functional`.
      layers: layers of the projector, 3 on ImageNet and 2 on CIFAR-10.
      dim: width of all layers of the projector, and size of the predictor's output.
      bottleneck: width of the predictor's hidden layer.
      stop_gradient: False lets the gradient into the targets, the paper's ablation (section 4.1): it collapses.

    The loss is the mean of both directions of `-cos`, -1..1. Each view passes through the network on its own, so batch
    statistics are per view. The predictor's learning rate stays constant in the paper's recipe; that is the optimizer's
    business, by a group (see `configs/simsiam.py`).

    Raises:
      UserError: a size is not above 0, or (from the functions) a batch has not two views.
    """
    check_positive(layers=layers, dim=dim, bottleneck=bottleneck)
    dtype = getattr(encoder, "dtype", None)
    projector = MLP((dim,) * layers, out_norm="plain", dtype=dtype)
    predictor = MLP((bottleneck, dim), dtype=dtype)

    def init(rng, batch):
        encoder_rng, projector_rng, predictor_rng = jax.random.split(rng, 3)
        image = views_of(batch, count=2)[:, 0]
        params, state = {}, {}
        params["encoder"], state["encoder"], pooled, _ = functional.init_encoder(encoder, encoder_rng, image)
        params["projector"], state["projector"] = functional.init(projector, projector_rng, pooled)
        projection, _ = functional.apply(projector, params["projector"], state["projector"], pooled, train=False)
        params["predictor"], state["predictor"] = functional.init(predictor, predictor_rng, projection)
        return params, Carry(model_state=state)

    def forward(params, state, image, rng):
        """Encoder, projector and predictor, one after the other: `(pooled, projection, prediction, state)`."""
        pooled, _, encoder_state = functional.encode(
            encoder, params["encoder"], state["encoder"], image, train=True, rng=rng
        )
        z, projector_state = functional.apply(projector, params["projector"], state["projector"], pooled, train=True)
        p, predictor_state = functional.apply(predictor, params["predictor"], state["predictor"], z, train=True)
        return pooled, z, p, {"encoder": encoder_state, "projector": projector_state, "predictor": predictor_state}

    def loss(params, carry, batch, rng, step):
        views, rngs = views_of(batch, count=2), jax.random.split(rng, 2)
        pooled, z1, p1, state = forward(params, carry.model_state, views[:, 0], rngs[0])
        _, z2, p2, state = forward(params, state, views[:, 1], rngs[1])
        if stop_gradient:
            z1, z2 = lax.stop_gradient((z1, z2))
        value = (losses.negative_cosine(p1, z2) + losses.negative_cosine(p2, z1)) / 2
        return value, (carry.replace(model_state=state), {"embedding": z1, "features": pooled})

    return Method(name="simsiam", init=init, loss=loss, encode=functional.encode_with(encoder), separable=True)
