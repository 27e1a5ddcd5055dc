"""Distillation: agree with a frozen network about the very same view (Hinton et al., 2015; Beyer et al., CVPR 2022).

A teacher, trained before and never changed, sees each view that the student sees; the student imitates its features,
or the classes that it gives. The teacher may be larger than the student, or of the student's own kind with a head from
a few labels, which then labels all other images (SimCLR v2's self-distillation).

https://arxiv.org/abs/1503.02531, https://arxiv.org/abs/2106.05237 and https://arxiv.org/abs/2006.10029
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from ssl_jax import losses
from ssl_jax.checks import check_positive, labels_of, views_of
from ssl_jax.core import Card, Carry, Method, PyTree, UserError
from ssl_jax.nets import functional
from ssl_jax.nets.heads import MLP

CARD = Card(
    family="teacher and student",
    papers=("1503.02531", "2106.05237", "2006.10029"),
    encoders="any",
    state=("teacher",),
    published="82.8 of the student itself, ResNet-50 from BiT-M R152x2",
)
LOSSES = ("features", "soft")


def distillation(
    encoder: nn.Module,
    *,
    teacher: nn.Module,
    variables: PyTree,
    head: dict[str, Any] | None = None,
    loss: str = "features",
    temperature: float = 1.0,
    labels_weight: float = 0.0,
    mixup: bool = False,
    layers: int = 1,
    hidden: int | None = None,
) -> Method:
    """Build distillation from a frozen teacher.

    Args:
      encoder: the student, see `ssl_jax.nets.functional`.
      teacher: the teacher's encoder, likewise; it may be of another architecture.
      variables: the teacher's, `{"params": ..., "model_state": ...}`, see `ssl_jax.interop.load_encoder`. They are
        stored in the initial `carry.teacher`, and read from there.
      head: the teacher's linear classifier, `{"kernel": [d c], "bias": [c]}`; "soft" needs it. What stands for a class
        is free: the rows of a kernel may be prototypes.
      loss: "features": BYOL's `2 - 2 cos` between the student's projection and the teacher's pooled features, the
        latter standardised over the batch, since features after a ReLU have a large mean in common. "soft": see
        `losses.soft_labels`.
      temperature: of the soft labels, > 0.
      labels_weight: 0..1: weight a of the true labels, `(1 - a) soft + a cross-entropy`; above 0 needs "soft".
      mixup: teacher and student see views mixed in pairs, `w x + (1 - w) x'` with w uniform in 0..1 for each example,
        as the "function matching" of arXiv:2106.05237. True labels then count by the same shares, `w` and `1 - w`.
      layers: of the student's projector; 1 is a linear map, and a linear classifier for soft labels.
      hidden: width of its hidden layers; None takes the encoder's.

    The teacher runs with its running statistics; it gets neither gradients nor updates. Every view is seen by both
    networks, however many there are.

    Raises:
      UserError: a setting out of its range, a head that is missing or does not fit the teacher.
    """
    check_positive(temperature=temperature, layers=layers, hidden=hidden)
    if loss not in LOSSES:
        raise UserError(f"Distillation's loss is {' or '.join(LOSSES)}, not {loss!r}.")
    if not 0.0 <= labels_weight <= 1.0:
        raise UserError(f"`labels_weight` must be in 0..1, but is {labels_weight}.")
    if labels_weight and loss != "soft":
        raise UserError('`labels_weight` needs the classes of loss="soft"; "features" has none.')
    if loss == "soft" and head is None:
        raise UserError(
            "Soft labels need a teacher with a classifier, and this one has none: give `head`, in a config "
            "teacher.labels_per_class, or imitate its features."
        )
    soft, dtype = loss == "soft", getattr(encoder, "dtype", None)

    def projector(target):
        return MLP((hidden,) * (layers - 1) + (target.shape[-1],), dtype=dtype)

    def aim(frozen, image):
        """What the teacher makes of images: its logits, or its pooled features."""
        params, state = frozen["params"], frozen["model_state"]
        pooled, _, _ = functional.encode(teacher, params["encoder"], state["encoder"], image, train=False)
        if not soft:
            return lax.stop_gradient(losses.at_least_float32(pooled))
        kernel, bias = (params["head"][name].astype(pooled.dtype) for name in ("kernel", "bias"))
        if len(kernel) != pooled.shape[-1]:
            raise UserError(f"The classifier takes {len(kernel)} features, but the teacher gives {pooled.shape[-1]}.")
        return lax.stop_gradient(jnp.matmul(pooled, kernel, precision="highest") + bias[None])

    def init(rng, batch):
        encoder_rng, head_rng = jax.random.split(rng)
        image = views_of(batch)[:, 0]
        frozen = {
            "params": {"encoder": variables["params"], **({"head": head} if soft else {})},
            "model_state": {"encoder": variables["model_state"]},
        }
        frozen = jax.tree.map(jnp.asarray, frozen)
        params, state, pooled, _ = functional.init_encoder(encoder, encoder_rng, image)
        head_params, head_state = functional.init(projector(aim(frozen, image)), head_rng, pooled)
        return {"encoder": params, "projector": head_params}, Carry(
            model_state={"encoder": state, "projector": head_state}, teacher=frozen
        )

    def compute(params, carry, batch, rng, step):
        views, state = views_of(batch), carry.model_state
        b, v = views.shape[:2]
        mix_rng, rng = jax.random.split(rng)
        if mixup:
            weight = jax.random.uniform(mix_rng, (b, 1, 1, 1, 1), views.dtype)
            views = weight * views + (1 - weight) * views[::-1]
        image = views.reshape(b * v, *views.shape[2:])
        target = aim(carry.teacher, image)
        pooled, _, encoder_state = functional.encode(
            encoder, params["encoder"], state["encoder"], image, train=True, rng=rng
        )
        output, head_state = functional.apply(
            projector(target), params["projector"], state["projector"], pooled, train=True
        )
        metrics = {"embedding": output.reshape(b, v, -1)[:, 0], "features": pooled.reshape(b, v, -1)[:, 0]}
        if soft:
            value = losses.soft_labels(output, target, temperature=temperature)
            agree = jnp.argmax(output, axis=-1) == jnp.argmax(target, axis=-1)
            metrics |= {"soft_labels": value, "agreement": jnp.mean(agree.astype(value.dtype))}
        else:
            value = losses.normalized_mse(output, standardize(target))
        if labels_weight:
            log_q, label = jax.nn.log_softmax(output).reshape(b, v, -1), labels_of(batch)[:, None, None]
            found = jnp.take_along_axis(log_q, label, axis=-1)
            if mixup:
                share = weight.reshape(b, 1, 1).astype(log_q.dtype)
                found = share * found + (1 - share) * jnp.take_along_axis(log_q, label[::-1], axis=-1)
            entropy = -jnp.mean(found)
            value = (1 - labels_weight) * value + labels_weight * entropy
            metrics["cross_entropy"] = entropy
        carry = carry.replace(model_state={"encoder": encoder_state, "projector": head_state})
        return value, (carry, metrics)

    def encode(params, carry, image):
        # A teacher in the student's place, as evaluation puts it there, has no projector.
        module = encoder if "projector" in params else teacher
        pooled, maps, _ = functional.encode(module, params["encoder"], carry.model_state["encoder"], image, train=False)
        return pooled, maps

    return Method(
        name="distillation",
        init=init,
        loss=compute,
        encode=encode,
        separable=soft and not mixup,  # features are standardised, and images mixed, over the batch
        labels=labels_weight > 0,
    )


def standardize(x):
    """Shift and scale each column to mean 0 and deviation 1 over the batch; columns that are constant become 0."""
    x = x - jnp.mean(x, axis=0, keepdims=True)
    return x * lax.rsqrt(jnp.mean(x * x, axis=0, keepdims=True) + 1e-5)
