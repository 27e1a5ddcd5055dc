"""Supervised: learn from the labels, as a yardstick for all others (cross-entropy; Krizhevsky et al., NeurIPS 2012).

The same loop, encoder and views as the self-supervised methods, with a linear classifier in the place of their tasks.
No state besides batch statistics.

https://papers.nips.cc/paper/4824; the recipe is that of https://arxiv.org/abs/1706.02677
"""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ssl_jax import augment, losses
from ssl_jax.checks import check_positive, labels_of, views_of
from ssl_jax.collapse import stuck_at_chance
from ssl_jax.core import Card, Carry, Method, PyTree, UserError
from ssl_jax.nets import functional
from ssl_jax.nets.heads import MLP

CARD = Card(
    family="yardstick",
    papers=("https://papers.nips.cc/paper/4824", "1512.03385", "1706.02677"),
    encoders="any",
    published="76.1 top-1, ResNet-50, 90 epochs (torchvision)",
)


def supervised(
    encoder: nn.Module,
    *,
    classes: int | None = None,
    label_smoothing: float = 0.0,
    mixup: float = 0.0,
    cutmix: float = 0.0,
    frozen_statistics: bool = False,
) -> Method:
    """Build supervised training: a linear classifier on the encoder's pooled features, trained together with it.

    Args:
      encoder: see `ssl_jax.nets.functional`.
      classes: number of classes; a run fills in that of its data.
      label_smoothing: share of a label that is spread evenly over all classes, 0..1.
      mixup: alpha of `augment.mixup`, which mixes images and labels alike; 0 for none.
      cutmix: probability with which an image is mixed by `augment.cutmix` instead.
      frozen_statistics: the encoder runs as in evaluation, by the batch statistics it came with, which stay (and
        without stochastic depth); its parameters learn all the same. For pretrained encoders and small batches.

    Raises:
      UserError: no or no positive number of classes, a share outside of 0..1, a negative alpha, or (from the
        functions) a batch has no labels or not one view.
    """
    if classes is None:
        raise UserError("Supervised training needs the number of classes: give `classes=`.")
    check_positive(classes=classes)
    for name, share in (("label_smoothing", label_smoothing), ("cutmix", cutmix)):
        if not 0.0 <= share <= 1.0:
            raise UserError(f"`{name}` must be in 0..1, but is {share}.")
    if not 0.0 <= mixup < float("inf"):
        raise UserError(f"`mixup` is the alpha of a beta distribution, 0 or above, but is {mixup}.")
    classifier = _classifier(encoder, classes)

    def init(rng, batch):
        encoder_rng, head_rng = jax.random.split(rng)
        params, state, pooled, _ = functional.init_encoder(encoder, encoder_rng, views_of(batch, count=1)[:, 0])
        head_params, _ = functional.init(classifier, head_rng, pooled)
        return {"encoder": params, "classifier": head_params}, Carry(model_state={"encoder": state})

    def loss(params, carry, batch, rng, step):
        image, labels = views_of(batch, count=1)[:, 0], labels_of(batch)
        share = None
        if mixup or cutmix:
            image, share = augment.mix(jax.random.fold_in(rng, 1), image, alpha=mixup, cutmix_probability=cutmix)
        pooled, _, state = functional.encode(
            encoder, params["encoder"], carry.model_state["encoder"], image, train=not frozen_statistics, rng=rng
        )
        logits, _ = functional.apply(classifier, params["classifier"], {}, pooled, train=True)
        metrics = {"train_accuracy": losses.accuracy(logits, labels), "features": pooled}
        if share is None:
            value = losses.cross_entropy(logits, labels, smoothing=label_smoothing)
        else:
            hit = jax.nn.one_hot(labels, classes, dtype=jnp.float32)
            target = share[:, None] * hit + (1 - share)[:, None] * jnp.roll(hit, -1, axis=0)
            value = losses.soft_cross_entropy(logits, (1 - label_smoothing) * target + label_smoothing / classes)
        return value, (carry.replace(model_state={"encoder": state}), metrics)

    return Method(
        name="supervised",
        init=init,
        loss=loss,
        encode=functional.encode_with(encoder),
        separable=not (mixup or cutmix),  # images are mixed with neighbours in the batch
        labels=True,
        warn=stuck_at_chance(classes),
    )


def classify_with(encoder: nn.Module, classes: int) -> Callable[..., Float[Array, "b k"]]:
    """`(params, model_state, image [b h w c]) -> logits [b k]` of what `supervised` trained, in evaluation."""

    def logits(params: PyTree, model_state: PyTree, image: Float[Array, "b h w c"]) -> Float[Array, "b k"]:
        pooled, _, _ = functional.encode(encoder, params["encoder"], model_state["encoder"], image, train=False)
        return functional.apply(_classifier(encoder, classes), params["classifier"], {}, pooled, train=False)[0]

    return logits


def _classifier(encoder: nn.Module, classes: int) -> nn.Module:
    return MLP((classes,), norm=False, dtype=getattr(encoder, "dtype", None))
