"""DINO: self-distillation with no labels, by agreement on prototypes (Caron et al., ICCV 2021).

A student sees all crops of an image, its teacher, a moving average of the student, only the large ones; the student
predicts which prototypes the teacher finds in another view. Centring and sharpening of the teacher's scores, each
against one collapse, take the place of negatives.

https://arxiv.org/abs/2104.14294
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from ssl_jax import collapse, losses, small_data
from ssl_jax.checks import check_momentum, check_positive, crops_of
from ssl_jax.core import Card, Carry, Method
from ssl_jax.memory import ema
from ssl_jax.nets import functional
from ssl_jax.nets.prototypes import PrototypeHead
from ssl_jax.schedules import Schedule, value_at

CARD = Card(
    family="teacher and student",
    papers=("2104.14294",),
    encoders="any",
    state=("teacher", "center"),
    published="77.0 linear, ViT-S/16, 800 epochs",
)


def dino(
    encoder: nn.Module,
    *,
    prototypes: int | None = 65536,
    hidden: int = 2048,
    bottleneck: int = 256,
    layers: int = 3,
    norm: bool = False,
    train_norms: bool = False,
    temperature: float = 0.1,
    teacher_temperature: float | Schedule | None = 0.04,
    momentum: float | Schedule | None = 0.996,
    centering: bool = True,
    center_momentum: float = 0.9,
    examples: int | None = None,
    steps: int | None = None,
) -> Method:
    """Build DINO.

    The batch's views are a tuple of arrays, one for each size, of which the first holds the large views that the
    teacher sees (`augment.dino`); one array of views is as good, and is multi-crop with no small ones.

    Args:
      encoder: see `ssl_jax.nets.functional`. Its field `drop_path`, if it has one, holds for the student only.
      prototypes: number of outputs that the views agree on; None leaves it to `examples`, see `small_data`.
      hidden: width of the head's hidden layers.
      bottleneck: width of the embedding that is compared with the prototypes.
      layers: of the head's perceptron.
      norm: batch norm in the head.
      train_norms: train the prototypes' norms too; the authors do so with ViT-S only, where it is safe and better.
      temperature: of the student's predictions, > 0.
      teacher_temperature: of the targets, a number or a schedule; None leaves it to `examples` and `steps`. The same
        as `temperature` is no sharpening, and collapses to even targets.
      momentum: of the teacher's average, a number or a schedule; None leaves it to `examples` and `steps`.
      centering: subtract the centre from the teacher's scores. Without it one prototype takes all images.
      center_momentum: of the centre, the average of the teacher's scores.
      examples: number of images in the data, for what is None.
      steps: length of the run, likewise.

    The loss is the mean over pairs of a teacher's view and another view, as the authors' code. A step uses the centre
    that the steps before have left.

    Raises:
      UserError: a number is out of range, something is left to `examples` or `steps` that are not given, or (from the
        functions) a batch has fewer than two views.
    """
    if prototypes is None:
        prototypes = small_data.prototypes(small_data.known(examples, "examples", "prototypes"))
    if teacher_temperature is None:
        teacher_temperature = small_data.teacher_temperature(
            small_data.known(examples, "examples", "teacher_temperature"),
            small_data.known(steps, "steps", "teacher_temperature"),
        )
    if momentum is None:
        momentum = small_data.teacher_momentum(
            small_data.known(examples, "examples", "momentum"), small_data.known(steps, "steps", "momentum")
        )
    check_positive(prototypes=prototypes, hidden=hidden, bottleneck=bottleneck, layers=layers, temperature=temperature)
    check_positive(teacher_temperature=float(value_at(teacher_temperature, jnp.zeros((), jnp.int32))))
    check_momentum(momentum)
    check_momentum(center_momentum)
    dtype = getattr(encoder, "dtype", None) or jnp.float32
    head = PrototypeHead(prototypes, hidden, bottleneck, layers, norm, train_norms, dtype)
    calm = encoder.clone(drop_path=0.0) if getattr(encoder, "drop_path", 0.0) else encoder

    def score(network, params, state, crops, rng):
        """Scores [b v k] and features [b v f] of all views, and the next state."""
        pooled, encoder_state = functional.encode_crops(
            network, params["encoder"], state["encoder"], crops, train=True, rng=rng
        )
        b, v, _ = pooled.shape
        (scores, _), head_state = functional.apply(
            head, params["head"], state["head"], pooled.reshape(b * v, -1), train=True
        )
        state = {"encoder": encoder_state, "head": head_state}
        return scores.reshape(b, v, -1), pooled, state

    def init(rng, batch):
        encoder_rng, head_rng = jax.random.split(rng)
        image = crops_of(batch)[0][:, 0]
        encoder_params, encoder_state, pooled, _ = functional.init_encoder(encoder, encoder_rng, image)
        head_params, head_state = functional.init(head, head_rng, pooled)
        params = {"encoder": encoder_params, "head": head_params}
        state = {"encoder": encoder_state, "head": head_state}
        return params, Carry(
            model_state=state,
            teacher={"params": params, "model_state": state},
            memory={"center": jnp.zeros((prototypes,), jnp.float32)},
        )

    def loss(params, carry, batch, rng, step):
        crops, center = crops_of(batch, views=2), lax.stop_gradient(carry.memory["center"])
        scores, pooled, state = score(encoder, params, carry.model_state, crops, rng)
        seen, _, teacher_state = score(calm, carry.teacher["params"], carry.teacher["model_state"], crops[:1], rng)
        seen = lax.stop_gradient(seen)
        targets = losses.soft_targets(seen, center, value_at(teacher_temperature, step))
        value = losses.cross_view_entropy(targets, scores, temperature=temperature)
        if centering:
            center = ema(center, jnp.mean(seen, axis=(0, 1)), center_momentum)
        carry = Carry(
            model_state=state,
            teacher={**carry.teacher, "model_state": lax.stop_gradient(teacher_state)},
            memory={"center": center},
        )
        # No "embedding": what all images have in common is large at first, looks like a collapse, and is centred away.
        return value, (carry, {**losses.usage(targets, lax.stop_gradient(value)), "features": pooled[:, 0]})

    def update(params, carry, step):
        teacher = ema(carry.teacher["params"], params, value_at(momentum, step))
        return carry.replace(teacher={**carry.teacher, "params": teacher})

    def nearness(params, carry, image):
        teacher, state = carry.teacher["params"], carry.teacher["model_state"]
        pooled, _, _ = functional.encode(calm, teacher["encoder"], state["encoder"], image, train=False)
        (scores, _), _ = functional.apply(head, teacher["head"], state["head"], pooled, train=False)
        return {"prototypes": (scores - carry.memory["center"][None])[:, None, None]}

    return Method(
        name="dino",
        init=init,
        loss=loss,
        encode=functional.encode_with(encoder),
        update=update,
        warn=collapse.prototypes(prototypes),
        words=nearness,
    )
