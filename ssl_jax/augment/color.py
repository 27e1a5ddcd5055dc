"""Brightness, contrast, saturation, hue, greyscale and solarize by torchvision's definitions.

Images are float in [0, 1], one image each, channels on `channel_axis` (last by default); `jax.vmap` makes a batch.
Every `adjust_*` clips to [0, 1]. With a number of channels other than three there is no colour: saturation, hue and
greyscale leave the image alone, and contrast pivots on the mean over channels.

Public codes differ here (TensorFlow, BYOL and dm_pix pivot contrast on each channel's mean and scale saturation in
HSV; SimCLR v1 and BYOL add brightness instead of multiplying); this is torchvision's, which most published recipes
use, and the additive brightness besides.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int, PRNGKeyArray

LUMA = (0.2989, 0.587, 0.114)  # torchvision's rounding of ITU-R 601
BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)  # torchvision's numbering of the four operations
JITTER_DRAWS = 5  # uniforms that one jitter consumes: the order and four factors

Factor = float | Float[Array, ""]


def _grey(image: Float[Array, "*s"], channel_axis: int) -> Float[Array, "*t"]:
    """Return the grey image with one channel (for other than three channels their mean)."""
    if image.shape[channel_axis] != 3:
        return jnp.mean(image, axis=channel_axis, keepdims=True)
    red, green, blue = jnp.split(image, 3, axis=channel_axis)
    return LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue


def adjust_brightness(image: Float[Array, "*s"], factor: Factor, *, additive: bool = False) -> Float[Array, "*s"]:
    """Multiply by `factor` (0: black, 1: the image), or add `factor - 1` (additive, as TensorFlow does)."""
    factor = jnp.asarray(factor, image.dtype)
    return jnp.clip(image + (factor - 1) if additive else factor * image, 0, 1)


def adjust_contrast(image: Float[Array, "*s"], factor: Factor, *, channel_axis: int = -1) -> Float[Array, "*s"]:
    """Blend with the mean of the grey image, one number per image (0: flat, 1: the image)."""
    factor = jnp.asarray(factor, image.dtype)
    return jnp.clip(factor * image + (1 - factor) * jnp.mean(_grey(image, channel_axis)), 0, 1)


def adjust_saturation(image: Float[Array, "*s"], factor: Factor, *, channel_axis: int = -1) -> Float[Array, "*s"]:
    """Blend with the grey image (0: grey, 1: the image)."""
    if image.shape[channel_axis] != 3:
        return image
    factor = jnp.asarray(factor, image.dtype)
    return jnp.clip(factor * image + (1 - factor) * _grey(image, channel_axis), 0, 1)


def adjust_hue(image: Float[Array, "*s"], shift: Factor, *, channel_axis: int = -1) -> Float[Array, "*s"]:
    """Turn the hue by `shift` of a full circle, in [-0.5, 0.5], keeping HSV's saturation and value."""
    if image.shape[channel_axis] != 3:
        return image
    red, green, blue = jnp.split(image, 3, axis=channel_axis)
    high = jnp.maximum(jnp.maximum(red, green), blue)
    low = jnp.minimum(jnp.minimum(red, green), blue)
    chroma = high - low
    inverse = 1 / jnp.where(chroma == 0, jnp.ones_like(chroma), chroma)
    # Sixths of a circle; grey pixels have no chroma, so any hue does.
    hue = jnp.where(
        high == red,
        (green - blue) * inverse,
        jnp.where(high == green, 2 + (blue - red) * inverse, 4 + (red - green) * inverse),
    )
    hue = hue + 6 * jnp.asarray(shift, image.dtype)
    hue = hue - 6 * jnp.floor(hue / 6)
    # Each channel is a trapezoid over the circle, so no case distinction by sector is needed.
    planes = [jnp.abs(hue - 3) - 1, 2 - jnp.abs(hue - 2), 2 - jnp.abs(hue - 4)]
    return jnp.concatenate([low + chroma * jnp.clip(p, 0, 1) for p in planes], axis=channel_axis)


def to_grey(image: Float[Array, "*s"], *, channel_axis: int = -1) -> Float[Array, "*s"]:
    """Replace the three channels by the grey image."""
    if image.shape[channel_axis] != 3:
        return image
    return jnp.broadcast_to(_grey(image, channel_axis), image.shape)


def solarize(image: Float[Array, "*s"], threshold: Factor = 0.5) -> Float[Array, "*s"]:
    """Invert what is at or above the threshold."""
    return jnp.where(image >= jnp.asarray(threshold, image.dtype), 1 - image, image)


def normalize(
    image: Float[Array, "*s"],
    mean: tuple[float, ...] | Float[Array, " c"],
    std: tuple[float, ...] | Float[Array, " c"],
    *,
    channel_axis: int = -1,
) -> Float[Array, "*s"]:
    """Subtract a mean and divide by a standard deviation per channel."""
    shape = [1] * image.ndim
    shape[channel_axis] = -1
    as_planes = lambda v: jnp.broadcast_to(jnp.asarray(v, image.dtype).reshape(shape), image.shape)  # noqa: E731
    return (image - as_planes(mean)) / as_planes(std)


def _blend(
    image: Float[Array, "*s"],
    factor: Float[Array, ""],
    operation: Int[Array, ""],
    active: set[int],
    channel_axis: int,
    additive: bool,
) -> Float[Array, "*s"]:
    """Apply brightness, contrast or saturation: all three are `clip(f x + (1 - f) base)` with bases 0, mean, grey.

    Additive brightness is `clip(x + (1 - f) base)` with base -1.
    """
    factor = factor.astype(image.dtype)
    grey = _grey(image, channel_axis)
    base = jnp.zeros_like(grey)
    if CONTRAST in active:
        base = jnp.where(operation == CONTRAST, jnp.mean(grey), base)
    if SATURATION in active:
        base = jnp.where(operation == SATURATION, grey, base)
    if not additive or BRIGHTNESS not in active:
        return jnp.clip(factor * image + (1 - factor) * base, 0, 1)
    brighter = operation == BRIGHTNESS
    base = jnp.where(brighter, -1, base)
    return jnp.clip(jnp.where(brighter, 1, factor) * image + (1 - factor) * base, 0, 1)


def color_jitter(
    image: Float[Array, "*s"],
    factors: Float[Array, "4"],
    order: Int[Array, " n"],
    *,
    active: tuple[int, ...] = (BRIGHTNESS, CONTRAST, SATURATION, HUE),
    channel_axis: int = -1,
    additive: bool = False,
) -> Float[Array, "*s"]:
    """Apply brightness, contrast, saturation and hue in a given order.

    The order is data, so a vmapped batch has its own order per image without branches: blends that come before the
    hue, hue once, blends that come after it, where a blend on the wrong side gets factor 1 and changes nothing.

    Args:
      image: values in [0, 1].
      factors: of brightness, contrast, saturation (1 leaves the image alone) and the hue's shift (0 does).
      order: a permutation of `active`, first operation first.
      active: the operations to apply; the others cost nothing.
      channel_axis: axis of the channels.
      additive: brightness is added, see `adjust_brightness`.
    """
    n_blends = len(active) - (HUE in active)
    if HUE not in active:
        for i in range(n_blends):
            image = _blend(image, factors[order[i]], order[i], set(active), channel_axis, additive)
        return image
    turn = jnp.argmax(order == HUE)
    blends = [jnp.where(i < turn, order[i], order[i + 1]) for i in range(n_blends)]
    for i, operation in enumerate(blends):
        factor = jnp.where(i < turn, factors[operation], 1)
        image = _blend(image, factor, operation, set(active), channel_axis, additive)
    image = adjust_hue(image, factors[HUE], channel_axis=channel_axis)
    for i, operation in enumerate(blends):
        factor = jnp.where(i < turn, 1, factors[operation])
        image = _blend(image, factor, operation, set(active), channel_axis, additive)
    return image


def color_jitter_by_branch(
    image: Float[Array, "*s"],
    factors: Float[Array, "4"],
    order: Int[Array, " n"],
    *,
    active: tuple[int, ...] = (BRIGHTNESS, CONTRAST, SATURATION, HUE),
    channel_axis: int = -1,
    additive: bool = False,
) -> Float[Array, "*s"]:
    """Do `color_jitter` with real branches, each operation once: for a loop over images; slow under vmap."""
    operations = [
        lambda x, f: adjust_brightness(x, f, additive=additive),
        lambda x, f: adjust_contrast(x, f, channel_axis=channel_axis),
        lambda x, f: adjust_saturation(x, f, channel_axis=channel_axis),
        lambda x, f: adjust_hue(x, f, channel_axis=channel_axis),
    ]
    position = np.zeros(4, np.int32)
    position[list(active)] = np.arange(len(active))
    branches = [operations[i] for i in active]
    for i in range(len(active)):
        image = lax.switch(jnp.asarray(position)[order[i]], branches, image, factors[order[i]])
    return image


def active_operations(strengths: tuple[float, float, float, float], channels: int) -> tuple[int, ...]:
    """Return the jitter operations that change an image with so many channels."""
    without_colour = (BRIGHTNESS, CONTRAST)
    return tuple(i for i, s in enumerate(strengths) if s > 0 and (channels == 3 or i in without_colour))


def jitter_from_uniforms(
    uniforms: Float[Array, "5"], strengths: tuple[float, float, float, float], active: tuple[int, ...]
) -> tuple[Float[Array, "4"], Int[Array, " n"]]:
    """Turn five uniforms into factors and an order.

    Brightness, contrast and saturation are uniform in `[max(0, 1 - s), 1 + s]`, the hue's shift in `[-s, s]`.
    """
    low = jnp.array([*(max(0.0, 1 - s) for s in strengths[:3]), -strengths[3]], jnp.float32)
    high = jnp.array([*(1 + s for s in strengths[:3]), strengths[3]], jnp.float32)
    factors = low + uniforms[1:] * (high - low)
    orders = np.array(list(itertools.permutations(active)), np.int32)
    which = jnp.minimum((uniforms[0] * len(orders)).astype(jnp.int32), len(orders) - 1)
    return factors, jnp.asarray(orders)[which]


def random_color_jitter(
    key: PRNGKeyArray,
    image: Float[Array, "*s"],
    *,
    brightness: float = 0.0,
    contrast: float = 0.0,
    saturation: float = 0.0,
    hue: float = 0.0,
    channel_axis: int = -1,
) -> Float[Array, "*s"]:
    """Jitter in random order, factors drawn as torchvision's `ColorJitter` does."""
    strengths = (brightness, contrast, saturation, hue)
    active = active_operations(strengths, image.shape[channel_axis])
    if not active:
        return image
    factors, order = jitter_from_uniforms(jax.random.uniform(key, (JITTER_DRAWS,), jnp.float32), strengths, active)
    return color_jitter(image, factors, order, active=active, channel_axis=channel_axis)
