"""Autoencoder: rebuild an image, whole or perturbed, from a code (Vincent et al., ICML 2008; Pathak et al., CVPR 2016).

An encoder and a decoder are trained to give the clean image back. What makes the code worth something is that copying
is made hard: by few numbers in it, by noise or lost pixels (denoising), by a hole that has to be filled (inpainting,
"context encoders"), or by any other perturbation of the second of two aligned views. No state besides batch statistics.

https://dl.acm.org/doi/10.1145/1390156.1390294 and https://arxiv.org/abs/1604.07379
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from ssl_jax import losses
from ssl_jax.augment.holes import central_hole, random_holes
from ssl_jax.checks import check_positive, views_of
from ssl_jax.core import Card, Carry, Method, UserError
from ssl_jax.nets import functional
from ssl_jax.nets.decoders import ConvDecoder
from ssl_jax.nets.heads import MLP

CARD = Card(
    family="input space",
    papers=("https://dl.acm.org/doi/10.1145/1390156.1390294", "1604.07379"),
    encoders="any",
    published="context encoders: 56.5 Pascal VOC 2007 classification, AlexNet, fine-tuned",
)
HOLES = (None, "central", "random")


def autoencoder(
    encoder: nn.Module,
    *,
    bottleneck: int | None = 64,
    width: int = 16,
    halvings: int = 2,
    error: str = "mse",
    hole: str | None = None,
    hole_share: float = 0.25,
    hole_weight: float = 1.0,
) -> Method:
    """Build an autoencoder: plain with one view, perturb-and-reconstruct with two aligned ones, inpainting with a hole.

    Args:
      encoder: see `ssl_jax.nets.functional`.
      bottleneck: numbers in the code, a linear map of the pooled features; None decodes these features themselves.
      width: channels of the decoder at full size, see `ConvDecoder`.
      halvings: how often the image is halved down to the map where the decoder begins.
      error: "mse" or "l1", of pixels on the scale of the views.
      hole: None, or what the encoder is not shown: a "central" block, or five "random" ones. Holes hold 0, which is the
        mean of normalised images.
      hole_share: share of the image that the hole takes (random ones overlap, and take less), in 0..1.
      hole_weight: share of the loss that the hole takes, the rest going to what surrounds it; 1 as in the paper.

    View 0 is the target and the last view the input, so one view (recipe `clean`) is a plain autoencoder and two
    (recipe `perturbed`) are a denoising one. Running batch statistics are always those of clean images, which is what
    evaluation sees, at the cost of a forward pass; those of images with three quarters of their pixels lost cost half a
    point to a point of accuracy.

    Differs from context encoders in: no adversarial loss beside the reconstruction; the code is a linear map and not a
    channel-wise layer; the whole image is predicted and the hole alone counts, where the authors' central variant
    predicts only the hole. From Vincent et al. in: deep and convolutional, trained at once and not layer by layer; the
    error is squared, theirs the cross-entropy of pixels taken for probabilities.

    Raises:
      UserError: a size is not above 0, an error or a kind of hole is unknown, a share or weight is not in 0..1, or
        (from the functions) a batch has neither one view nor two.
    """
    check_positive(bottleneck=bottleneck, width=width, hole_share=hole_share)
    if hole not in HOLES:
        raise UserError(f'`hole` is None, "central" or "random", not {hole!r}.')
    if error not in ("mse", "l1"):
        raise UserError(f'`error` is "mse" or "l1", not {error!r}.')
    if halvings < 0 or not hole_share < 1 or not 0 <= hole_weight <= 1:
        raise UserError("`halvings` must not be below 0, `hole_share` lie between 0 and 1, and `hole_weight` in 0..1.")
    dtype = getattr(encoder, "dtype", jnp.float32)
    code = None if bottleneck is None else MLP((bottleneck,), norm=False, dtype=dtype)

    def decoder_of(target):
        return ConvDecoder(target.shape[1:3], target.shape[3], width, halvings, dtype)

    def pair_of(batch):
        views = views_of(batch)
        if views.shape[1] not in (1, 2):
            raise UserError(f"An autoencoder takes one view, or a clean and a perturbed one, not {views.shape[1]}.")
        return views[:, 0], views[:, -1]

    def dig(image, rng):
        b, size = len(image), image.shape[1:3]
        if hole == "central":
            mask = jnp.broadcast_to(jnp.asarray(central_hole(size, hole_share))[None], (b, *size))
        else:
            mask = jax.vmap(lambda key: random_holes(key, size, hole_share))(jax.random.split(rng, b))
        return mask, jnp.where(mask[..., None], jnp.zeros_like(image), image)

    def init(rng, batch):
        encoder_rng, code_rng, decoder_rng = jax.random.split(rng, 3)
        target, image = pair_of(batch)
        params, state = {}, {}
        params["encoder"], state["encoder"], z, _ = functional.init_encoder(encoder, encoder_rng, image)
        if code is not None:
            params["code"], _ = functional.init(code, code_rng, z)
            z, _ = functional.apply(code, params["code"], {}, z, train=False)
        params["decoder"], state["decoder"] = functional.init(decoder_of(target), decoder_rng, z)
        return params, Carry(model_state=state)

    def rebuild(params, state, image, target, *, train, rng=None):
        pooled, _, encoder_state = functional.encode(
            encoder, params["encoder"], state["encoder"], image, train=train, rng=rng
        )
        z = pooled if code is None else functional.apply(code, params["code"], {}, pooled, train=train)[0]
        rebuilt, decoder_state = functional.apply(
            decoder_of(target), params["decoder"], state["decoder"], z, train=train
        )
        return rebuilt, z, pooled, {"encoder": encoder_state, "decoder": decoder_state}

    def loss(params, carry, batch, rng, step):
        target, image = pair_of(batch)
        mask, image = (None, image) if hole is None else dig(image, rng)
        rebuilt, z, pooled, state = rebuild(params, carry.model_state, image, target, train=True, rng=rng)
        if hole is not None or batch["views"].shape[1] == 2:
            _, _, clean = functional.encode(
                encoder, params["encoder"], carry.model_state["encoder"], target, train=True, rng=rng
            )
            state = {**state, "encoder": clean}
        score = lambda made: _score(losses.pixel_error(made, target, error), mask, hole_weight)  # noqa: E731
        value = score(rebuilt)
        average = jnp.broadcast_to(jnp.mean(target, axis=0, keepdims=True), target.shape)
        metrics = {"mean_image_loss": score(average), "embedding": z, "features": pooled}
        return value, (carry.replace(model_state=state), metrics)

    def pictures(params, carry, batch, rng):
        target, image = pair_of(batch)
        shown = image if hole is None else dig(image, rng)[1]
        rebuilt, *_ = rebuild(params, carry.model_state, shown, target, train=False)
        given = {} if hole is None and batch["views"].shape[1] == 1 else {"input": shown}
        return {"image": target, **given, "reconstruction": rebuilt}

    return Method(
        name="autoencoder",
        init=init,
        loss=loss,
        encode=functional.encode_with(encoder),
        separable=hole != "random",  # holes of several sizes are averaged over the whole batch
        warn=_warn,
        pictures=pictures,
    )


def _score(error, mask, hole_weight):
    return jnp.mean(error) if mask is None else losses.inside_and_outside(error, mask, hole_weight)


def _warn(logged):
    """The sign of a dead code: every image is rebuilt as the mean of all."""
    value, mean_image = logged.get("loss"), logged.get("mean_image_loss")
    if value is None or mean_image is None or logged.get("step", 0) < 200 or value < 0.95 * mean_image:
        return None
    return f"the reconstructions are no better than the mean image (loss {value:.3f}, of the mean {mean_image:.3f})"
