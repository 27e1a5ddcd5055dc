"""Mixing images and their labels: mixup (Zhang et al., ICLR 2018, arXiv 1710.09412), alone or in turn with CutMix."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from ssl_jax.augment.cutmix import cutmix


def mixup(
    rng: PRNGKeyArray, image: Float[Array, "b h w c"], *, alpha: float = 1.0
) -> tuple[Float[Array, "b h w c"], Float[Array, " b"]]:
    """Blend every image with the next one of the batch (the last with the first): `s x_i + (1 - s) x_{i+1}`.

    Differs from the authors' code in that each image has a share of its own, as in timm's "elem" mode, where they draw
    one for the batch.

    Args:
      rng: key; draws depend on it and the batch's size alone.
      image: any range of values.
      alpha: the shares are drawn from Beta(alpha, alpha), alpha > 0; 0.2 is the paper's for ImageNet, 1 for CIFAR-10.

    Returns:
      The images, and the share of each that is its own, 0..1; the rest is of `jnp.roll(image, -1, axis=0)`.
    """
    share = jax.random.beta(rng, alpha, alpha, (len(image),), jnp.float32)
    own = share.astype(image.dtype)[:, None, None, None]
    return own * image + (1 - own) * jnp.roll(image, -1, axis=0), share


def mix(
    rng: PRNGKeyArray, image: Float[Array, "b h w c"], *, alpha: float = 0.0, cutmix_probability: float = 0.0
) -> tuple[Float[Array, "b h w c"], Float[Array, " b"]]:
    """Mix every image with the next one: by CutMix with `cutmix_probability`, else by `mixup` if `alpha` is above 0.

    Which of the two is drawn for each image (timm draws for the batch). Returns as `mixup`.
    """
    if not alpha:
        return cutmix(rng, image, probability=cutmix_probability)
    blend_rng, paste_rng, choice_rng = jax.random.split(rng, 3)
    blended, blended_share = mixup(blend_rng, image, alpha=alpha)
    if not cutmix_probability:
        return blended, blended_share
    pasted, pasted_share = cutmix(paste_rng, image)
    paste = jax.random.uniform(choice_rng, (len(image),), jnp.float32) < cutmix_probability
    return jnp.where(paste[:, None, None, None], pasted, blended), jnp.where(paste, pasted_share, blended_share)
