"""Supervised: learn from the labels, as a yardstick for all others (cross-entropy; Krizhevsky et al., NeurIPS 2012).

The same loop, encoder and views as the self-supervised methods, with a linear classifier in the place of their tasks.
No state besides batch statistics.

https://papers.nips.cc/paper/4824; the recipe is that of https://arxiv.org/abs/1706.02677
"""

import flax.linen as nn
import jax

from ssl_jax import losses
from ssl_jax.checks import check_positive, labels_of, views_of
from ssl_jax.collapse import stuck_at_chance
from ssl_jax.core import Card, Carry, Method, UserError
from ssl_jax.nets import functional
from ssl_jax.nets.heads import MLP

CARD = Card(
    family="yardstick",
    papers=("https://papers.nips.cc/paper/4824", "1512.03385", "1706.02677"),
    encoders="any",
    published="76.1 top-1, ResNet-50, 90 epochs (torchvision)",
)


def supervised(encoder: nn.Module, *, classes: int | None = None, label_smoothing: float = 0.0) -> Method:
    """Build supervised training: a linear classifier on the encoder's pooled features, trained together with it.

    Args:
      encoder: see `ssl_jax.nets.functional`.
      classes: number of classes; a run fills in that of its data.
      label_smoothing: share of a label that is spread evenly over all classes, 0..1.

    Raises:
      UserError: no or no positive number of classes, a smoothing outside of 0..1, or (from the functions) a batch has
        no labels or not one view.
    """
    if classes is None:
        raise UserError("Supervised training needs the number of classes: give `classes=`.")
    check_positive(classes=classes)
    if not 0.0 <= label_smoothing <= 1.0:
        raise UserError(f"`label_smoothing` must be in 0..1, but is {label_smoothing}.")
    classifier = MLP((classes,), norm=False, dtype=getattr(encoder, "dtype", None))

    def init(rng, batch):
        encoder_rng, head_rng = jax.random.split(rng)
        params, state, pooled, _ = functional.init_encoder(encoder, encoder_rng, views_of(batch, count=1)[:, 0])
        head_params, _ = functional.init(classifier, head_rng, pooled)
        return {"encoder": params, "classifier": head_params}, Carry(model_state={"encoder": state})

    def loss(params, carry, batch, rng, step):
        image, labels = views_of(batch, count=1)[:, 0], labels_of(batch)
        pooled, _, state = functional.encode(
            encoder, params["encoder"], carry.model_state["encoder"], image, train=True, rng=rng
        )
        logits, _ = functional.apply(classifier, params["classifier"], {}, pooled, train=True)
        metrics = {"train_accuracy": losses.accuracy(logits, labels), "features": pooled}
        value = losses.cross_entropy(logits, labels, smoothing=label_smoothing)
        return value, (carry.replace(model_state={"encoder": state}), metrics)

    return Method(
        name="supervised",
        init=init,
        loss=loss,
        encode=functional.encode_with(encoder),
        labels=True,
        warn=stuck_at_chance(classes),
    )
