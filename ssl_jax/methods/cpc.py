"""CPC: predict the features of patches from those above them (van den Oord et al., 2018; v2: Henaff et al., 2020).

An image becomes a grid of overlapping patches, each encoded on its own. A masked convolutional network sums up the rows
above each place; linear maps of that predict the patches some rows below, told from all other patches of the batch
by InfoNCE. In all four directions. No state besides the parameters: normalisation over the batch would leak what is to
be predicted.

https://arxiv.org/abs/1807.03748 and https://arxiv.org/abs/1905.09272
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax import augment, losses, pretext
from ssl_jax.checks import check_positive, views_of
from ssl_jax.collapse import guess_among_candidates
from ssl_jax.core import Card, Carry, Method, UserError
from ssl_jax.nets import functional
from ssl_jax.nets.context import Context
from ssl_jax.nets.heads import MLP

CARD = Card(
    family="contrastive",
    papers=("1807.03748", "1905.09272"),
    encoders='any without batch norm that takes a patch, for example norm="layer"',
    published="63.8 linear, ResNet-50; 71.5, ResNet-161 (v2)",
)
DIRECTIONS = ("down", "right", "up", "left")  # entry k is "down" after k quarter turns


def cut(image, *, patch, stride, ahead):
    """Patches `[b * n * n p p c]` of images, and n, which is above `ahead`."""
    height, width = image.shape[1:3]
    n = (min(height, width) - patch) // stride + 1
    if n <= ahead:
        raise UserError(
            f"Images of {height} x {width} hold {max(n, 0)} row(s) of {patch}-pixel patches, one every {stride}; "
            f"to predict {ahead} rows ahead they must hold at least {ahead + 1}."
        )
    tiles = pretext.tiles(image, grid=n, size=patch, gap=stride - patch)
    return tiles.reshape(-1, patch, patch, image.shape[-1]), n


class OnPatches(nn.Module):
    """An encoder of patches on images: the mean over an image's patches, with its variables the encoder's own.

    Attributes:
      encoder: of patches.
      patch: as in `cpc`, and so `stride`.
      ahead: the largest distance there.
    """

    encoder: nn.Module
    patch: int
    stride: int
    ahead: int

    def setup(self):
        """The variables are not under a name of their own."""
        nn.share_scope(self, self.encoder)

    def __call__(self, image, train: bool):
        """Pooled features, and maps of a place for each patch: "patches", and the encoder's own, averaged."""
        tiles, n = cut(image, patch=self.patch, stride=self.stride, ahead=self.ahead)
        output = self.encoder(tiles, train=train)
        pooled, maps = output if isinstance(output, tuple) else (output, {})
        averaged = {name: x.mean(tuple(range(1, x.ndim - 1))) for name, x in {**maps, "patches": pooled}.items()}
        grids = {name: x.reshape(len(image), n, n, -1) for name, x in averaged.items()}
        return grids["patches"].mean((1, 2)), grids


def cpc(
    encoder: nn.Module,
    *,
    patch: int = 80,
    stride: int = 36,
    ahead: tuple[int, ...] = (3,),
    dim: int = 64,
    width: int = 256,
    depth: int = 5,
    scale: float = 0.1,
    flip: float = 0.5,
    jitter: tuple[float, float, float, float] = (0.4, 0.4, 0.4, 0.1),
    jitter_prob: float = 0.8,
    grey_prob: float = 0.25,
    drop_prob: float = 0.25,
) -> Method:
    """Build CPC v2; the defaults are for images of 260 pixels, which hold 6 x 6 patches.

    Args:
      encoder: see `ssl_jax.nets.functional`; it takes single patches and has no batch norm.
      patch: side of a patch in pixels.
      stride: from the beginning of one patch to the next one's; below `patch` they overlap.
      ahead: by how many rows to predict. From `patch / stride` on, the patches share no pixels.
      dim: size of predictions and targets.
      width: channels inside the context network's blocks.
      depth: its number of blocks.
      scale: of predictions, before their products with the targets.
      flip: probability of mirroring a patch, see `augment.random_patch`, as for what follows.
      jitter: strengths of a patch's brightness, contrast, saturation and hue.
      jitter_prob: probability of the jitter.
      grey_prob: probability of grey.
      drop_prob: probability of dropping two of three colours.

    Views have values in 0..1 (`config.normalize="none"`): colours are changed patch by patch here. `encode` gives the
    mean of an image's patches, each encoded as in training but not augmented, and as maps the patches' features
    "patches" `[b n n d]` and each of the encoder's maps averaged over a patch.

    Differs from the authors' pseudocode in: each direction has a context network of its own, and the loss is the mean
    over directions and distances rather than a sum. Of their patch augmentations there are mirroring and colours, not
    shearing, rotation and deformation; their probabilities are not verified.

    Raises:
      UserError: impossible sizes or distances, patches that a vision transformer can't divide, or (from the functions)
        an encoder with batch norm, a batch without exactly one view, or images that hold too few patches.
    """
    pretext.check_tiles(grid=1, size=patch, encoder=encoder)
    check_positive(stride=stride, dim=dim, width=width, depth=depth, scale=scale)
    if not ahead or min(ahead) < 1:
        raise UserError(f"`ahead` must name one or more distances of at least 1 row, but is {tuple(ahead)}.")
    dtype = getattr(encoder, "dtype", jnp.float32)
    context, target = Context(width, depth, dtype), MLP((dim,), norm=False, dtype=dtype)
    predictor = MLP((len(ahead) * dim,), norm=False, dtype=dtype)
    augmented = functools.partial(
        augment.random_patch,
        flip=flip,
        jitter=jitter,
        jitter_prob=jitter_prob,
        grey_prob=grey_prob,
        drop_prob=drop_prob,
    )

    patches = functools.partial(cut, patch=patch, stride=stride, ahead=max(ahead))
    module = OnPatches(encoder, patch, stride, max(ahead))

    def on_grid(module, params, grid):
        """A head on every place of a grid `[b n n d]`."""
        output, _ = functional.apply(module, params, {}, grid.reshape(-1, grid.shape[-1]), train=True)
        return output.reshape(*grid.shape[:-1], -1)

    def init(rng, batch):
        encoder_rng, target_rng, *rngs = jax.random.split(rng, 2 + 2 * len(DIRECTIONS))
        image, n = patches(views_of(batch, count=1)[:, 0])
        params, state, pooled, _ = functional.init_encoder(encoder, encoder_rng, image)
        if "batch_stats" in state:
            raise UserError('CPC needs an encoder without batch norm, which would leak; for example norm="layer".')
        grid = pooled.reshape(-1, n, n, pooled.shape[-1])
        directions = {
            name: {
                "context": functional.init(context, rngs[2 * k], grid)[0],
                "predictor": functional.init(predictor, rngs[2 * k + 1], pooled)[0],
            }
            for k, name in enumerate(DIRECTIONS)
        }
        target_params, _ = functional.init(target, target_rng, pooled)
        return {"encoder": params, "target": target_params, **directions}, Carry(model_state={"encoder": state})

    def predict(params, grid, targets):
        """Losses and hits of predicting rows further down, one of each per distance."""
        b, n = grid.shape[:2]
        seen, _ = functional.apply(context, params["context"], {}, grid, train=True)
        predictions = scale * on_grid(predictor, params["predictor"], seen).reshape(b, n, n, len(ahead), dim)
        places = np.arange(b * n * n, dtype=np.int32).reshape(b, n, n)
        found = []
        for i, rows in enumerate(ahead):
            prediction = predictions[:, : n - rows, :, i].reshape(-1, dim)
            place = jnp.asarray(places[:, rows:].reshape(-1))
            found.append(losses.infonce_among(prediction, targets.reshape(-1, dim), place))
        return found

    def loss(params, carry, batch, rng, step):
        patch_rng, encoder_rng = jax.random.split(rng)
        image = views_of(batch, count=1)[:, 0]
        tiles, n = patches(image)
        tiles = jax.vmap(augmented)(jax.random.split(patch_rng, len(tiles)), tiles)
        pooled, _, state = functional.encode(
            encoder, params["encoder"], carry.model_state["encoder"], tiles, train=True, rng=encoder_rng
        )
        grid = pooled.reshape(len(image), n, n, -1)
        targets = on_grid(target, params["target"], grid)
        found = []
        for k, name in enumerate(DIRECTIONS):
            turned = (jnp.rot90(x, k, axes=(1, 2)) for x in (grid, targets))
            found += predict(params[name], *turned)
        values, hits = (jnp.stack(x).mean() for x in zip(*found, strict=True))
        metrics = {
            "contrastive_accuracy": hits,
            "candidates": jnp.full((), len(pooled), jnp.float32),
            "embedding": targets.reshape(-1, dim),
            "features": grid.mean((1, 2)),
        }
        return values, (carry.replace(model_state={"encoder": state}), metrics)

    encode = functional.encode_with(module)
    return Method(name="cpc", init=init, loss=loss, encode=encode, module=module, warn=guess_among_candidates())
