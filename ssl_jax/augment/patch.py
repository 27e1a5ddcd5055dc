"""Augmentation of a patch by itself, so that neighbours share no colour or brightness that would give them away."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from ssl_jax.augment.color import random_color_jitter, to_grey
from ssl_jax.augment.crop import random_flip_left_right


def random_patch(
    key: PRNGKeyArray,
    image: Float[Array, "h w c"],
    *,
    flip: float = 0.5,
    jitter: tuple[float, float, float, float] = (0.4, 0.4, 0.4, 0.1),
    jitter_prob: float = 0.8,
    grey_prob: float = 0.25,
    drop_prob: float = 0.25,
) -> Float[Array, "h w c"]:
    """Mirror, jitter the colours, turn grey, drop all channels but one; each with its probability.

    The dropped channels become 0 (the color dropping of Doersch et al., 2015, which puts noise there). Images of other
    than three channels keep their channels.

    Args:
      key: of all draws.
      image: values in [0, 1].
      flip: probability of the mirror image.
      jitter: strengths of brightness, contrast, saturation and hue.
      jitter_prob: probability of the jitter.
      grey_prob: probability of grey.
      drop_prob: probability of dropping.
    """
    flip_key, jitter_key, factors_key, grey_key, drop_key, channel_key = jax.random.split(key, 6)
    image = random_flip_left_right(flip_key, image, probability=flip)
    brightness, contrast, saturation, hue = jitter
    jittered = random_color_jitter(
        factors_key, image, brightness=brightness, contrast=contrast, saturation=saturation, hue=hue
    )
    image = jnp.where(jax.random.bernoulli(jitter_key, jitter_prob), jittered, image)
    if image.shape[-1] != 3:
        return image
    image = jnp.where(jax.random.bernoulli(grey_key, grey_prob), to_grey(image), image)
    kept = jnp.arange(3, dtype=jnp.int32) == jax.random.randint(channel_key, (), 0, 3, jnp.int32)
    dropping = jax.random.bernoulli(drop_key, drop_prob)
    return jnp.where((kept | ~dropping)[None, None], image, jnp.zeros_like(image))
