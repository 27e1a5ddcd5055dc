"""Colorization: predict the colours of a grey image (Zhang et al., ECCV 2016).

The encoder sees the lightness alone and a small head predicts, at every place of a coarse grid, a distribution over
quantised colours. Rare colours count more, or the answer would be a desaturated mean.

https://arxiv.org/abs/1603.08511
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from ssl_jax import collapse, color_bins
from ssl_jax.checks import check_positive, views_of
from ssl_jax.color_space import lab_to_srgb, lightness, srgb_to_lab
from ssl_jax.core import Card, Carry, Method, UserError
from ssl_jax.losses import at_least_float32
from ssl_jax.memory import ema
from ssl_jax.nets import functional
from ssl_jax.nets.dense_head import DenseHead

CARD = Card(
    family="pretext",
    papers=("1603.08511",),
    encoders="any with a map; it sees one channel",
    state=("prior",),
    published="40.1 linear, ResNet-50 (Goyal et al., 2019)",
)
UNIT = 100.0  # ab is predicted and compared in hundreds by regression


def to_srgb(image, *, mean, std):
    """Images as sRGB in 0..1, in at least float32, from what mean and std normalised."""
    if image.shape[-1] != 3:
        raise UserError(
            f"Colorization needs images in colour, but these have {image.shape[-1]} channel(s); use other data."
        )
    x = at_least_float32(image)
    return x if mean is None else x * row(std, x) + row(mean, x)


def row(values, image):
    """A number for each channel, to go with images."""
    return jnp.asarray(values, image.dtype).reshape(1, 1, 1, 3)


class OnLightness(nn.Module):
    """An encoder that is shown the lightness of images in colour; its variables are the encoder's own.

    Attributes:
      encoder: of one channel.
      mean: that the images were normalised with, or None.
      std: likewise.
    """

    encoder: nn.Module
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None

    def setup(self):
        """The variables are not under a name of their own."""
        nn.share_scope(self, self.encoder)

    def __call__(self, image, train: bool):
        """As the encoder's."""
        return self.encoder(lightness(to_srgb(image, mean=self.mean, std=self.std)), train=train)


def colorization(
    encoder: nn.Module,
    *,
    layer: str | None = None,
    stride: int = 4,
    hidden: int = 256,
    regression: bool = False,
    grid: int = 10,
    neighbors: int = 10,
    sigma: float = 5.0,
    rebalance: float = 0.5,
    prior_momentum: float = 0.99,
    temperature: float = 0.38,
    min_chroma: float = 5.0,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
) -> Method:
    """Build colorization. It takes one view of each example, in colour and without colour jitter.

    Args:
      encoder: see `ssl_jax.nets.functional`; it is given one channel, lightness from -1 to 1, and must return maps.
      layer: the map that colours are predicted from; None is the encoder's last.
      stride: pixels of the view to one prediction along each axis.
      hidden: channels of the head.
      regression: compare ab itself by squared error (the paper's baseline) instead of classifying it.
      grid: side of a colour bin in units of ab.
      neighbors: bins that a colour is spread over: 10 as in the authors' code; the paper's text says 5.
      sigma: of that spread, in units of ab.
      rebalance: share of the uniform distribution in the prior that weights are the inverse of (lambda), in (0, 1];
        1 turns weighting off.
      prior_momentum: of the prior, a running average over batches, in [0, 1).
      temperature: of the annealed mean that turns a distribution into a colour.
      min_chroma: an image in which neither |a| nor |b| exceeds this anywhere counts as grey and teaches nothing.
      mean: that the views were normalised with; None: views are in 0..1. Runs from a config fill in what they use.
      std: likewise.

    `encode` takes colour images as any method's does, and reduces them to their lightness itself.

    Differs from the authors' code in: the prior is the running average of the encoded colours of the batches, kept in
    `carry.memory` and uniform at first, where they count ImageNet's once and smooth the counts with `sigma` (encoding
    is that smoothing); the loss is averaged over the places of coloured images, where they divide by all; ab is
    averaged around each place, with weights that fall to 0 at `stride` pixels, where they take one pixel; 309 bins
    instead of 313, see `color_bins`.

    Raises:
      UserError: an argument is out of range, or (from the functions, when they are first traced) images have not three
        channels, the encoder has no such map, or a batch has not one view.
    """
    check_positive(stride=stride, hidden=hidden, grid=grid, neighbors=neighbors, sigma=sigma)
    check_positive(rebalance=rebalance, temperature=temperature)
    if rebalance > 1 or not 0 <= prior_momentum < 1:
        raise UserError(
            f"Colorization needs `rebalance` in (0, 1] and `prior_momentum` in [0, 1), but was given {rebalance} and "
            f"{prior_momentum}."
        )
    if (mean is None) != (std is None) or any(x is not None and len(x) != 3 for x in (mean, std)):
        raise UserError(f"Colorization needs mean and std of three channels, or neither, but has {mean} and {std}.")
    centres = color_bins.bins(grid)
    count = len(centres)
    if neighbors > count:
        raise UserError(f"There are {count} bins of colour, so `neighbors` can't be {neighbors}.")

    mean, std = (x if x is None else tuple(map(float, x)) for x in (mean, std))
    colours, module = functools.partial(to_srgb, mean=mean, std=std), OnLightness(encoder, mean, std)

    def head_for(image):
        size = tuple(max(side // stride, 1) for side in image.shape[1:3])
        return DenseHead(hidden, 2 if regression else count, size, dtype=getattr(encoder, "dtype", None))

    def chosen(maps):
        if not maps or layer not in (None, *maps):
            raise UserError(
                f"Colorization predicts from a map of the encoder, but there is no {layer or 'map'}: it returns "
                f"{', '.join(maps) or 'none'}."
            )
        return maps[layer or list(maps)[-1]]

    def predict(params, state, rgb, *, train, rng=None):
        """Predictions `[b p q o]`, pooled features, and the next state."""
        pooled, maps, encoder_state = functional.encode(
            encoder, params["encoder"], state["encoder"], lightness(rgb), train=train, rng=rng
        )
        made, head_state = functional.apply(head_for(rgb), params["head"], state["head"], chosen(maps), train=train)
        return made, pooled, {"encoder": encoder_state, "head": head_state}

    def decode(made):
        return UNIT * made if regression else color_bins.annealed_mean(made, centres, temperature=temperature)

    def init(rng, batch):
        encoder_rng, head_rng = jax.random.split(rng)
        rgb = colours(views_of(batch, count=1)[:, 0])
        params, state, _, maps = functional.init_encoder(encoder, encoder_rng, lightness(rgb))
        head_params, head_state = functional.init(head_for(rgb), head_rng, chosen(maps))
        return {"encoder": params, "head": head_params}, Carry(
            model_state={"encoder": state, "head": head_state},
            memory={"prior": jnp.full((count,), 1 / count, jnp.float32)},
        )

    def loss(params, carry, batch, rng, step):
        view = views_of(batch, count=1)[:, 0]
        rgb = colours(view)
        made, pooled, state = predict(params, carry.model_state, rgb, train=True, rng=rng)
        full = srgb_to_lab(rgb)[..., 1:]
        ab = jax.image.resize(full, (*made.shape[:3], 2), "linear")
        coloured = jnp.any(jnp.abs(full) > min_chroma, axis=(1, 2, 3)).astype(ab.dtype)
        share = coloured / jnp.maximum(coloured.sum(), 1.0) / (made.shape[1] * made.shape[2])
        share = jnp.broadcast_to(share[:, None, None], made.shape[:3])  # of each place in the means below
        memory, metrics = lax.stop_gradient(carry.memory), {}
        if regression:
            value = 0.5 * jnp.sum(share * jnp.sum((made - ab / UNIT) ** 2, axis=-1))
        else:
            target = color_bins.soft_encode(ab, centres, neighbors=neighbors, sigma=sigma)
            prior = memory["prior"].astype(ab.dtype)
            weight = color_bins.class_weights(prior, mix=rebalance)[color_bins.nearest(ab, centres)]
            entropies = -jnp.sum(target * jax.nn.log_softmax(made), axis=-1)
            value = jnp.sum(share * weight * entropies)
            metrics["cross_entropy"] = jnp.sum(share * entropies)
            seen = jnp.where(coloured.sum() > 0, jnp.sum(share[..., None] * target, axis=(0, 1, 2)), prior)
            memory = {"prior": ema(memory["prior"], seen, prior_momentum)}
        found = lax.stop_gradient(decode(made))
        metrics["ab_error"] = jnp.sum(share * jnp.linalg.norm(found - ab, axis=-1))
        metrics["chroma"] = jnp.sum(share * jnp.linalg.norm(found, axis=-1))
        metrics["true_chroma"] = jnp.sum(share * jnp.linalg.norm(ab, axis=-1))
        metrics["view_range"] = jnp.max(jnp.abs(rgb - 0.5))
        return value, (Carry(model_state=state, memory=memory), {**metrics, "features": pooled})

    def pictures(params, carry, batch, rng):
        view = views_of(batch, count=1)[:, 0]
        lab = srgb_to_lab(colours(view))
        ab = decode(predict(params, carry.model_state, colours(view), train=False)[0])
        ab = jax.image.resize(ab, (*lab.shape[:3], 2), "linear")

        def painted(ab):
            rgb = lab_to_srgb(jnp.concatenate((lab[..., :1], ab), axis=-1))
            made = rgb if mean is None else (rgb - row(mean, rgb)) / row(std, rgb)
            return made.astype(view.dtype)

        return {"grey": painted(jnp.zeros_like(ab)), "colorized": painted(ab), "original": view}

    return Method(
        name="colorization",
        init=init,
        loss=loss,
        encode=functional.encode_with(module),
        module=module,
        pictures=pictures,
        warn=collapse.any_of(_not_in_range, _grey, collapse.stuck_at_chance(count, key="cross_entropy")),
    )


def _not_in_range(logged):
    """Views that were normalised, and the method not told."""
    if logged.get("view_range", 0.0) < 0.51:
        return None
    return (
        f"views reach {logged['view_range']:.2f} from 0.5 where 0..1 allows 0.50, so their colours are wrong: don't "
        "normalise them, or build the method with the same mean and std"
    )


def _grey(logged):
    """Nearly no colour is predicted, long after the start."""
    chroma, true = logged.get("chroma"), logged.get("true_chroma")
    if chroma is None or true is None or logged.get("step", 0) < 200 or chroma > 0.1 * true:
        return None
    return f"predictions are nearly grey (chroma {chroma:.1f}, of the images {true:.1f})"
