"""Rotation: tell by how many quarter turns an image is rotated (RotNet; Gidaris et al., ICLR 2018).

To say which way is up, a network has to recognise what is in the picture. Every image enters the batch in all four
rotations, so that no statistic of the batch tells them apart. No state besides batch statistics.

https://arxiv.org/abs/1803.07728
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from ssl_jax import losses, pretext
from ssl_jax.checks import views_of
from ssl_jax.collapse import stuck_at_chance
from ssl_jax.core import Card, Carry, Method
from ssl_jax.nets import functional
from ssl_jax.nets.heads import MLP

CARD = Card(
    family="pretext",
    papers=("1803.07728",),
    encoders="any",
    published="47.0 linear (54.2 from stage 3), ResNet-50, 70 epochs (mmselfsup)",
)


def rotation(encoder: nn.Module) -> Method:
    """Build rotation prediction: a linear classifier of four rotations on the encoder's pooled features.

    Args:
      encoder: see `ssl_jax.nets.functional`; a vision transformer's features of the class token serve as well.

    All four rotations of each image are in the batch, as in the authors' code; VISSL draws one at random, which their
    paper found worse.

    Raises:
      UserError: (from the functions) a batch has not one view, or its images are not square.
    """
    classifier = MLP((4,), norm=False, dtype=getattr(encoder, "dtype", None))

    def init(rng, batch):
        encoder_rng, head_rng = jax.random.split(rng)
        image = views_of(batch, count=1)[:, 0]
        params, state, pooled, _ = functional.init_encoder(encoder, encoder_rng, image)
        head_params, _ = functional.init(classifier, head_rng, pooled)
        return {"encoder": params, "classifier": head_params}, Carry(model_state={"encoder": state})

    def loss(params, carry, batch, rng, step):
        turned = pretext.rotations(views_of(batch, count=1)[:, 0])
        b = len(turned)
        pooled, _, state = functional.encode(
            encoder,
            params["encoder"],
            carry.model_state["encoder"],
            turned.reshape(4 * b, *turned.shape[2:]),
            train=True,
            rng=rng,
        )
        logits, _ = functional.apply(classifier, params["classifier"], {}, pooled, train=True)
        labels = jnp.tile(jnp.arange(4, dtype=jnp.int32), b)
        metrics = {
            "rotation_accuracy": losses.accuracy(logits, labels),
            "features": pooled.reshape(b, 4, -1)[:, 0],
        }
        return losses.cross_entropy(logits, labels), (carry.replace(model_state={"encoder": state}), metrics)

    return Method(
        name="rotation",
        init=init,
        loss=loss,
        encode=functional.encode_with(encoder),
        separable=True,
        warn=stuck_at_chance(4),
    )
