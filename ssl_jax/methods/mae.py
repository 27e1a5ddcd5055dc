"""MAE: rebuild the pixels of most patches from the few that a transformer sees (He et al., CVPR 2022).

The encoder runs on a quarter of the patches only; a light decoder gets its tokens, and a learned one in every empty
place, and predicts each missing patch, normalised by its own mean and deviation. No state.

https://arxiv.org/abs/2111.06377
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from ssl_jax import losses
from ssl_jax.checks import check_positive, views_of
from ssl_jax.core import Card, Carry, Method, UserError
from ssl_jax.nets import ViT, functional
from ssl_jax.nets.mae_decoder import MAEDecoder
from ssl_jax.nets.patches import grid_of, patchify, unpatchify

CARD = Card(
    family="input space",
    papers=("2111.06377",),
    encoders="ViT",
    published="68.0 linear, 83.6 fine-tuned, ViT-B/16, 1600 epochs",
)


def mae(
    encoder: nn.Module,
    *,
    mask_ratio: float = 0.75,
    normalize_pixels: bool = True,
    dim: int = 512,
    depth: int = 8,
    heads: int = 16,
) -> Method:
    """Build a masked autoencoder.

    Args:
      encoder: a `ViT`, with `pos="sincos"` in the paper. Linear probing there reads the class token (`pool="cls"`),
        which no loss looks at directly; `pool="gap"` gives the mean of the patches.
      mask_ratio: share of the patches that are hidden, in 0..1; at least one is, and at least one is not.
      normalize_pixels: whether targets are normalised patch by patch (better features, in the paper by half a point).
      dim: width of the decoder.
      depth: blocks of the decoder.
      heads: attention heads of the decoder.

    Masks are drawn for each example by itself: the patches with the smallest of random numbers are kept.

    Differs from the authors' code in: weights of the transformers start from a normal distribution of deviation 0.02
    instead of Xavier's uniform one. The metric "features" is of the patches that were seen; `encode` sees all.

    Raises:
      UserError: the encoder is no `ViT`, a size is not above 0, the ratio not in 0..1, the decoder's heads do not
        divide its width, or (from the functions) a batch has not one view.
    """
    if not isinstance(encoder, ViT):
        raise UserError(
            f"MAE leaves out patches, so it needs a ViT, for example --config.encoder=vit_b, not {_name(encoder)}."
        )
    check_positive(dim=dim, depth=depth, heads=heads)
    if not 0 < mask_ratio < 1:
        raise UserError(f"`mask_ratio` must lie between 0 and 1, but is {mask_ratio}.")
    if dim % heads or dim % 4:
        raise UserError(f"The decoder's `dim` must be a multiple of its `heads` and of 4, but they are {dim}, {heads}.")
    patch = encoder.patch

    def decoder_of(image):
        grid = grid_of(image.shape[1], image.shape[2], patch)
        return MAEDecoder(grid, patch * patch * image.shape[3], dim, depth, heads, encoder.dtype)

    def init(rng, batch):
        encoder_rng, decoder_rng = jax.random.split(rng)
        image = views_of(batch, count=1)[:, 0]
        params, state, _, maps = functional.init_encoder(encoder, encoder_rng, image)
        decoder_params, _ = functional.init(decoder_of(image), decoder_rng, maps["tokens"])
        return {"encoder": params, "decoder": decoder_params}, Carry(model_state={"encoder": state})

    def predict(params, state, image, rng, *, train):
        n = _count(grid_of(image.shape[1], image.shape[2], patch))
        mask_rng, encoder_rng = jax.random.split(rng)
        keep, restore = random_masks(mask_rng, len(image), n, mask_ratio)
        pooled, maps, state = functional.encode(
            encoder, params["encoder"], state["encoder"], image, train=train, rng=encoder_rng, keep=keep
        )
        prediction, _ = functional.apply(
            decoder_of(image), params["decoder"], {}, maps["tokens"], train=train, restore=restore
        )
        return prediction, restore >= keep.shape[1], pooled, {"encoder": state}

    def loss(params, carry, batch, rng, step):
        image = views_of(batch, count=1)[:, 0]
        prediction, masked, pooled, state = predict(params, carry.model_state, image, rng, train=True)
        target = patchify(image, patch)
        if normalize_pixels:
            target = losses.normalize_patches(target)[0]
        value = losses.masked_patch_error(prediction, target, masked)
        # What always answering with one mean patch would cost.
        flat = jnp.mean(target, axis=(0, 1), keepdims=True)
        constant = losses.masked_patch_error(jnp.broadcast_to(flat, target.shape), target, masked)
        return value, (carry.replace(model_state=state), {"mean_patch_loss": constant, "features": pooled})

    def pictures(params, carry, batch, rng):
        image = views_of(batch, count=1)[:, 0]
        prediction, masked, _, _ = predict(params, carry.model_state, image, rng, train=False)
        patches = patchify(image, patch)
        if normalize_pixels:  # a patch's brightness and contrast are not predicted, so they are the image's own
            _, mean, std = losses.normalize_patches(patches)
            prediction = prediction * std + mean
        back = lambda x: unpatchify(x, image.shape[1:3], patch)  # noqa: E731
        hidden = masked[:, :, None]
        return {
            "image": image,
            "masked": back(jnp.where(hidden, jnp.zeros_like(patches), patches)),
            "reconstruction": back(jnp.where(hidden, prediction.astype(patches.dtype), patches)),
        }

    return Method(
        name="mae",
        init=init,
        loss=loss,
        encode=functional.encode_with(encoder),
        separable=True,
        warn=_warn,
        pictures=pictures,
    )


def random_masks(rng, count: int, patches: int, ratio: float):
    """Patches to keep `[count k]` and where each patch stands in that order `[count patches]`: below k if it is kept.

    As many are kept as the authors' `int(patches * (1 - ratio))`, but at least one and not all.
    """
    kept = min(max(int(patches * (1 - ratio)), 1), patches - 1)
    noise = jax.vmap(lambda key: jax.random.uniform(key, (patches,), jnp.float32))(jax.random.split(rng, count))
    order = jnp.argsort(noise, axis=1, stable=True).astype(jnp.int32)
    return order[:, :kept], jnp.argsort(order, axis=1, stable=True).astype(jnp.int32)


def _warn(logged):
    """Every patch is predicted alike."""
    value, constant = logged.get("loss"), logged.get("mean_patch_loss")
    if value is None or constant is None or logged.get("step", 0) < 200 or value < 0.98 * constant:
        return None
    return f"the predictions are no better than one mean patch (loss {value:.3f}, of the mean {constant:.3f})"


def _count(grid: tuple[int, int]) -> int:
    return grid[0] * grid[1]


def _name(encoder: nn.Module) -> str:
    return type(encoder).__name__
