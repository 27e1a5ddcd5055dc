"""Jigsaw: solve a puzzle of an image's tiles (Noroozi and Favaro, ECCV 2016).

The tiles of a grid are shuffled by one of a fixed set of permutations that are far apart, each goes through the same
encoder on its own, and a classifier that sees all of them says which permutation it was. No state besides batch
statistics.

https://arxiv.org/abs/1603.09246
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from ssl_jax import losses, pretext
from ssl_jax.checks import check_positive, views_of
from ssl_jax.collapse import stuck_at_chance
from ssl_jax.core import Card, Carry, Method
from ssl_jax.nets import functional
from ssl_jax.nets.heads import MLP

CARD = Card(
    family="pretext",
    papers=("1603.09246", "1905.01235"),
    encoders="any that takes a tile",
    published="46.7 linear, ResNet-50, 2000 permutations, 105 epochs (VISSL)",
)


def jigsaw(
    encoder: nn.Module,
    *,
    permutations: int = 2000,
    per_image: int = 1,
    grid: int = 3,
    tile: int = 64,
    gap: int = 21,
    jitter: int = 21,
    dim: int = 1000,
) -> Method:
    """Build jigsaw; the defaults are VISSL's, for crops of 255 pixels, cells of 85 and tiles of 64.

    Args:
      encoder: see `ssl_jax.nets.functional`. It takes single tiles in training and whole images in `encode`, so it is
        convolutional, or a vision transformer whose own patches divide both.
      permutations: how many of the `(grid * grid)!` permutations are told apart, see `pretext.permutations`.
      per_image: permutations that are asked of each image in a step, on the same tiles and features.
      grid: tiles in a row, and rows.
      tile: side of a tile in pixels.
      gap: mean distance between neighbouring tiles in pixels.
      jitter: pixels by which a tile may be moved, drawn for each tile.
      dim: size of the embedding of a tile.

    The head is VISSL's: linear, batch norm, ReLU for each tile by itself, then a linear layer on all of them. Tiles are
    standardised one by one, as the authors do (VISSL does not). The permutations are made here, by the rule of the
    published sets, and are not the same ones.

    Raises:
      UserError: impossible sizes, more permutations than there are, tiles that a vision transformer can't divide, or
        (from the functions) a batch has not one view or its images are smaller than the grid.
    """
    pretext.check_tiles(grid=grid, size=tile, gap=gap, jitter=jitter, encoder=encoder)
    check_positive(permutations=permutations, per_image=per_image, dim=dim)
    orders = pretext.permutations(grid * grid, permutations)
    dtype = getattr(encoder, "dtype", None)
    # Its output is that of a hidden layer: normalised and not negative.
    tower, classifier = MLP((dim,), out_norm="affine", dtype=dtype), MLP((permutations,), norm=False, dtype=dtype)

    def tiles(image, keys):
        cut = pretext.tiles(image, grid=grid, size=tile, gap=gap, jitter=jitter, keys=keys)
        return pretext.standardize(cut).reshape(-1, tile, tile, image.shape[-1])

    def shuffled(embedded, which):
        """Place the embeddings of tiles, `[b n d]`, as the permutations `which` `[b k]` say: `[b * k n * d]`."""
        # As a product with permutation matrices, whose gradient does not depend on an order of additions.
        places = jax.nn.one_hot(jnp.asarray(orders)[which], grid * grid, dtype=embedded.dtype)
        placed = jnp.einsum("bkij,bjd->bkid", places, embedded, precision="highest")
        return placed.reshape(which.size, -1)

    def init(rng, batch):
        encoder_rng, tower_rng, classifier_rng = jax.random.split(rng, 3)
        image = views_of(batch, count=1)[:, 0]
        params, state, pooled, _ = functional.init_encoder(encoder, encoder_rng, tiles(image, None))
        tower_params, tower_state = functional.init(tower, tower_rng, pooled)
        classifier_params, _ = functional.init(
            classifier, classifier_rng, jnp.zeros((1, grid * grid * dim), pooled.dtype)
        )
        return {"encoder": params, "tower": tower_params, "classifier": classifier_params}, Carry(
            model_state={"encoder": state, "tower": tower_state}
        )

    def loss(params, carry, batch, rng, step):
        jitter_rng, order_rng, encoder_rng = jax.random.split(rng, 3)
        image, state = views_of(batch, count=1)[:, 0], carry.model_state
        b = len(image)
        cut = tiles(image, jax.random.split(jitter_rng, b))
        pooled, _, encoder_state = functional.encode(
            encoder, params["encoder"], state["encoder"], cut, train=True, rng=encoder_rng
        )
        embedded, tower_state = functional.apply(tower, params["tower"], state["tower"], pooled, train=True)
        embedded = nn.relu(embedded).reshape(b, grid * grid, dim)
        which = jax.random.randint(order_rng, (b, per_image), 0, permutations, jnp.int32)
        logits, _ = functional.apply(classifier, params["classifier"], {}, shuffled(embedded, which), train=True)
        metrics = {
            "permutation_accuracy": losses.accuracy(logits, which.reshape(-1)),
            "features": pooled.reshape(b, grid * grid, -1).mean(1),
        }
        carry = carry.replace(model_state={"encoder": encoder_state, "tower": tower_state})
        return losses.cross_entropy(logits, which.reshape(-1)), (carry, metrics)

    return Method(
        name="jigsaw",
        init=init,
        loss=loss,
        encode=functional.encode_with(encoder),
        separable=True,
        warn=stuck_at_chance(permutations),
    )
