"""Relative patch: tell where one patch of an image lies from another (Doersch et al., ICCV 2015).

Nine patches are cut out of each image; which of the eight places around the middle one a patch comes from can only be
said by one who knows the object's parts. Gaps, jitter and standardised patches take away edges that run on, and
brightness and colour that would tell the place as well. No state besides batch statistics.

https://arxiv.org/abs/1505.05192
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from ssl_jax import losses, pretext
from ssl_jax.checks import check_positive, views_of
from ssl_jax.collapse import stuck_at_chance
from ssl_jax.core import Card, Carry, Method, UserError
from ssl_jax.nets import functional
from ssl_jax.nets.heads import MLP

CARD = Card(
    family="pretext",
    papers=("1505.05192", "1901.09005"),
    encoders="any that takes a patch",
    published="40.4 linear (51.2 from stage 3), ResNet-50, 70 epochs (mmselfsup)",
)
CENTRE, PLACES = 4, 8


def relative_patch(
    encoder: nn.Module, *, patch: int = 64, gap: int = 21, jitter: int = 21, hidden: int = 4096, dropout: float = 0.5
) -> Method:
    """Build relative patch prediction; the defaults are for crops of 255 pixels, cells of 85 and patches of 64.

    Args:
      encoder: see `ssl_jax.nets.functional`. It takes single patches in training and whole images in `encode`, so it is
        convolutional, or a vision transformer whose own patches divide both.
      patch: side of a patch in pixels.
      gap: mean distance between neighbouring patches in pixels.
      jitter: pixels by which a patch may be moved, drawn for each patch.
      hidden: width of the head on two patches' features.
      dropout: of the head's hidden units, in 0..1.

    Each patch is embedded once and its features serve in all pairs of its image, the middle against its eight
    neighbours (as Kolesnikov et al., 2019, arXiv:1901.09005), where the authors draw one pair per image. The head is
    mmselfsup's: linear, batch norm, ReLU, dropout, linear. Where the authors shift or drop colours, patches are
    standardised channel by channel and the recipe turns two thirds of the images grey.

    Raises:
      UserError: impossible sizes, patches that a vision transformer can't divide, a dropout outside of 0..1, or (from
        the functions) a batch has not one view or its images are smaller than the grid.
    """
    pretext.check_tiles(grid=3, size=patch, gap=gap, jitter=jitter, encoder=encoder)
    check_positive(hidden=hidden)
    if not 0.0 <= dropout < 1.0:
        raise UserError(f"`dropout` must be at least 0 and below 1, but is {dropout}.")
    head = MLP((hidden, PLACES), dropout=dropout, dtype=getattr(encoder, "dtype", None))

    def patches(image, keys):
        tiles = pretext.tiles(image, grid=3, size=patch, gap=gap, jitter=jitter, keys=keys)
        return pretext.standardize(tiles).reshape(-1, patch, patch, image.shape[-1])

    def pairs(pooled):
        """Features of patches `[b * 9 d]` to those of pairs `[b * 8 2d]`: the middle, then its neighbour."""
        pooled = pooled.reshape(-1, PLACES + 1, pooled.shape[-1])
        around = jnp.concatenate([pooled[:, :CENTRE], pooled[:, CENTRE + 1 :]], axis=1)
        middle = jnp.broadcast_to(pooled[:, CENTRE, None], around.shape)
        return jnp.concatenate([middle, around], axis=2).reshape(-1, 2 * pooled.shape[-1])

    def init(rng, batch):
        encoder_rng, head_rng = jax.random.split(rng)
        image = patches(views_of(batch, count=1)[:, 0], None)
        params, state, pooled, _ = functional.init_encoder(encoder, encoder_rng, image)
        head_params, head_state = functional.init(head, head_rng, pairs(pooled))
        return {"encoder": params, "head": head_params}, Carry(model_state={"encoder": state, "head": head_state})

    def loss(params, carry, batch, rng, step):
        jitter_rng, encoder_rng, head_rng = jax.random.split(rng, 3)
        image, state = views_of(batch, count=1)[:, 0], carry.model_state
        b = len(image)
        pooled, _, encoder_state = functional.encode(
            encoder,
            params["encoder"],
            state["encoder"],
            patches(image, jax.random.split(jitter_rng, b)),
            train=True,
            rng=encoder_rng,
        )
        logits, head_state = functional.apply(
            head, params["head"], state["head"], pairs(pooled), train=True, rng=head_rng
        )
        places = jnp.tile(jnp.arange(PLACES, dtype=jnp.int32), b)
        metrics = {
            "place_accuracy": losses.accuracy(logits, places),
            "features": pooled.reshape(b, PLACES + 1, -1).mean(1),
        }
        carry = carry.replace(model_state={"encoder": encoder_state, "head": head_state})
        return losses.cross_entropy(logits, places), (carry, metrics)

    return Method(
        name="relative_patch",
        init=init,
        loss=loss,
        encode=functional.encode_with(encoder),
        separable=True,
        warn=stuck_at_chance(PLACES),
    )
