"""What detectors are trained with: focal loss, overlap of boxes, GIoU. Boxes are x0 y0 x1 y1."""

import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from ssl_jax.losses.normalize import at_least_float32


def focal(
    logits: Float[Array, "*n"], targets: Float[Array, "*n"], *, alpha: float = 0.25, gamma: float = 2.0
) -> Float[Array, "*n"]:
    """Sigmoid focal loss of each logit: `-alpha_t (1 - p_t)^gamma log(p_t)`.

    `p_t` is the probability given to the target (0 or 1), `alpha_t` is alpha for 1 and 1 - alpha for 0; a negative
    alpha stands for no such weight.

    Lin et al., ICCV 2017 (arXiv:1708.02002), eq. 5.
    """
    logits, targets = at_least_float32(logits), at_least_float32(targets)
    return optax.sigmoid_focal_loss(logits, targets, alpha=None if alpha < 0 else alpha, gamma=gamma)


def area(boxes: Float[Array, "*n 4"]) -> Float[Array, "*n"]:
    """Areas of boxes; 0 for inverted ones."""
    sides = jnp.maximum(boxes[..., 2:] - boxes[..., :2], 0.0)
    return sides[..., 0] * sides[..., 1]


def _join(a: Array, b: Array) -> tuple[Array, Array]:
    """Intersection and union of boxes that broadcast."""
    common = jnp.concatenate([jnp.maximum(a[..., :2], b[..., :2]), jnp.minimum(a[..., 2:], b[..., 2:])], axis=-1)
    inside = area(common)
    return inside, area(a) + area(b) - inside


def pairwise_iou(a: Float[Array, "n 4"], b: Float[Array, "m 4"]) -> Float[Array, "n m"]:
    """Intersection over union of all pairs, 0..1; 0 for empty boxes."""
    common, union = _join(a[:, None], b[None])
    return common / jnp.maximum(union, 1e-9)


def giou(a: Float[Array, "*n 4"], b: Float[Array, "*n 4"]) -> Float[Array, "*n"]:
    """Generalised intersection over union of boxes one by one, -1..1: `IoU - (hull - union) / hull`.

    The hull is the smallest box around both. Unlike IoU it has a gradient where boxes don't meet; the loss is 1 - GIoU.

    Rezatofighi et al., CVPR 2019 (arXiv:1902.09630), algorithm 1.
    """
    a, b = at_least_float32(a), at_least_float32(b)
    common, union = _join(a, b)
    hull = jnp.concatenate([jnp.minimum(a[..., :2], b[..., :2]), jnp.maximum(a[..., 2:], b[..., 2:])], axis=-1)
    around = jnp.maximum(area(hull), 1e-9)
    return common / jnp.maximum(union, 1e-9) - (around - union) / around
