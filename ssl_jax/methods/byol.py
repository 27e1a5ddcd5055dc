"""BYOL: predict a slow copy's projection of the other view, without negatives (Grill et al., NeurIPS 2020).

The online network (encoder, projector, predictor) regresses the target network's projection of the other view; the
target is a moving average of the online parameters with batch statistics of its own.

https://arxiv.org/abs/2006.07733
"""

import flax.linen as nn
import jax
from jax import lax

from ssl_jax import losses
from ssl_jax.checks import check_momentum, check_positive, views_of
from ssl_jax.core import Card, Carry, Method
from ssl_jax.memory import ema
from ssl_jax.nets import functional
from ssl_jax.nets.heads import MLP
from ssl_jax.schedules import Schedule, value_at

CARD = Card(
    family="teacher and student",
    papers=("2006.07733",),
    encoders="any",
    state=("teacher",),
    published="74.3 linear, ResNet-50, 1000 epochs",
)


def byol(
    encoder: nn.Module,
    *,
    hidden: int = 4096,
    dim: int = 256,
    momentum: float | Schedule = 0.99,
    stop_gradient: bool = True,
) -> Method:
    """Build BYOL.

    Args:
      encoder: see `ssl_jax.nets.functional`.
      hidden: width of the hidden layer of projector and predictor.
      dim: size of the projection.
      momentum: of the target's average, a number or a schedule (`schedules.cosine`); applied after the
        optimizer's update, with the number of the step that was just made (0 first).
      stop_gradient: False is an ablation: the online network is its own target, and the gradient goes into the targets
        too (the average is kept, but not used).

    The loss is the sum of both directions of `2 - 2 cos`, as DeepMind's code (0..8); a mean instead is known to cost
    many points. Each view passes through the networks on its own, so batch statistics are per view. The target
    starts from a random initialisation of its own, as DeepMind's.

    Raises:
      UserError: a size is not above 0, the momentum not in 0..1, or (from the functions) a batch has not two views.
    """
    check_positive(hidden=hidden, dim=dim)
    check_momentum(momentum)
    head = MLP((hidden, dim), hidden_bias=True, out_bias=False, dtype=getattr(encoder, "dtype", None))

    def project(params, state, image, rng):
        pooled, _, encoder_state = functional.encode(
            encoder, params["encoder"], state["encoder"], image, train=True, rng=rng
        )
        projection, head_state = functional.apply(head, params["projector"], state["projector"], pooled, train=True)
        return projection, pooled, {**state, "encoder": encoder_state, "projector": head_state}

    def init_network(rng, image):
        encoder_rng, head_rng = jax.random.split(rng)
        params, state, pooled, _ = functional.init_encoder(encoder, encoder_rng, image)
        head_params, head_state = functional.init(head, head_rng, pooled)
        return {"encoder": params, "projector": head_params}, {"encoder": state, "projector": head_state}

    def init(rng, batch):
        online_rng, target_rng, predictor_rng = jax.random.split(rng, 3)
        image = views_of(batch, count=2)[:, 0]
        params, state = init_network(online_rng, image)
        target_params, target_state = init_network(target_rng, image)
        projection, _, _ = project(params, state, image, online_rng)
        params["predictor"], state["predictor"] = functional.init(head, predictor_rng, projection)
        return params, Carry(model_state=state, teacher={"params": target_params, "model_state": target_state})

    def loss(params, carry, batch, rng, step):
        state, target_state = carry.model_state, carry.teacher["model_state"]
        views, rngs = views_of(batch, count=2), jax.random.split(rng, 2)
        predictions, targets, pooled = [], [], []
        for view in range(2):
            image = views[:, view]
            projection, features, state = project(params, state, image, rngs[view])
            prediction, head_state = functional.apply(
                head, params["predictor"], state["predictor"], projection, train=True
            )
            state = {**state, "predictor": head_state}
            target = projection
            if stop_gradient:
                target, _, target_state = project(carry.teacher["params"], target_state, image, rngs[view])
                target = lax.stop_gradient(target)
            predictions.append(prediction)
            targets.append(target)
            pooled.append(features)
        value = losses.normalized_mse(predictions[0], targets[1]) + losses.normalized_mse(predictions[1], targets[0])
        carry = carry.replace(model_state=state, teacher={**carry.teacher, "model_state": target_state})
        return value, (carry, {"embedding": predictions[0], "features": pooled[0]})

    def update(params, carry, step):
        tau = value_at(momentum, step)
        online = {name: params[name] for name in carry.teacher["params"]}
        return carry.replace(teacher={**carry.teacher, "params": ema(carry.teacher["params"], online, tau)})

    return Method(
        name="byol", init=init, loss=loss, encode=functional.encode_with(encoder), update=update, separable=True
    )
