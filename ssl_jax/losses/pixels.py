"""Errors of reconstructed pixels, over whole images or a part of them."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from ssl_jax.core import UserError
from ssl_jax.losses.normalize import at_least_float32


def pixel_error(
    image: Float[Array, "b h w c"], target: Float[Array, "b h w c"], kind: str = "mse"
) -> Float[Array, "b h w"]:
    """Error of every pixel, the mean over its channels: squared ("mse") or absolute ("l1")."""
    difference = at_least_float32(image) - at_least_float32(target)
    if kind not in ("mse", "l1"):
        raise UserError(f'An error of pixels is "mse" or "l1", not {kind!r}.')
    return jnp.mean(jnp.square(difference) if kind == "mse" else jnp.abs(difference), axis=-1)


def inside_and_outside(error: Float[Array, "b h w"], hole: Bool[Array, "b h w"], weight: float) -> Float[Array, ""]:
    """`weight` times the mean error inside of the holes plus `1 - weight` times that outside, over the whole batch."""
    inside = hole.astype(error.dtype)
    means = [jnp.sum(error * part) / jnp.maximum(jnp.sum(part), 1.0) for part in (inside, 1 - inside)]
    return weight * means[0] + (1 - weight) * means[1]


def normalize_patches(
    patches: Float[Array, "b n p"], epsilon: float = 1e-6
) -> tuple[Float[Array, "b n p"], Float[Array, "b n 1"], Float[Array, "b n 1"]]:
    """Every patch with mean 0 and variance 1; and the means and deviations that undo it.

    With the unbiased variance, as torch's default that MAE's code has (numpy's and jax' is the biased one).
    """
    patches = at_least_float32(patches)
    mean = jnp.mean(patches, axis=-1, keepdims=True)
    std = jnp.sqrt(jnp.var(patches, axis=-1, keepdims=True, ddof=1) + epsilon)
    return (patches - mean) / std, mean, std


def masked_patch_error(
    prediction: Float[Array, "b n p"], target: Float[Array, "b n p"], masked: Bool[Array, "b n"]
) -> Float[Array, ""]:
    """Mean squared error of the masked patches (MAE, section 3): the mean in each patch, then over all masked ones."""
    error = jnp.mean(jnp.square(at_least_float32(prediction) - at_least_float32(target)), axis=-1)
    counted = masked.astype(error.dtype)
    return jnp.sum(error * counted) / jnp.maximum(jnp.sum(counted), 1.0)
