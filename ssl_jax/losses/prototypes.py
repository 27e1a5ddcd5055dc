"""Agreement of views on prototypes: the cross-entropy of DINO, iBOT and SwAV, and what tells whether it collapsed."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from ssl_jax.losses.normalize import at_least_float32


def soft_targets(
    logits: Float[Array, "... k"], center: Float[Array, " k"], temperature: float | Float[Array, ""]
) -> Float[Array, "... k"]:
    """DINO's targets `softmax((logits - center) / temperature)` (Caron et al., ICCV 2021, section 3.1).

    Centring keeps one prototype from taking all images, a low temperature (sharpening) keeps the images from being
    spread evenly over the prototypes.
    """
    logits = at_least_float32(logits)
    logits = logits - center.astype(logits.dtype).reshape((1,) * (logits.ndim - 1) + (-1,))
    return jax.nn.softmax(logits / jnp.asarray(temperature, logits.dtype))


def cross_view_entropy(
    targets: Float[Array, "b t k"], logits: Float[Array, "b v k"], *, temperature: float = 0.1
) -> Float[Array, ""]:
    """Cross-entropy between the targets of some views and the predictions of the others, a mean over pairs of views.

    Args:
      targets: probabilities from the first t of the v views; a constant for the gradient.
      logits: scores of all v views.
      temperature: divides the scores; > 0.

    A view is never compared with itself: of t * v pairs, t are left out. The mean over pairs is DINO's and SwAV's;
    DINOv2's class sums them, and its training loop divides.
    """
    logits = at_least_float32(logits) / temperature
    log_probabilities = jax.nn.log_softmax(logits)
    targets = jax.lax.stop_gradient(targets).astype(logits.dtype)
    pairs = -jnp.einsum("btk,bvk->tv", targets, log_probabilities, precision="highest") / len(logits)
    t, v = pairs.shape
    other = 1.0 - jnp.eye(t, v, dtype=pairs.dtype)
    return jnp.sum(pairs * other) / (t * v - min(t, v))


def masked_cross_entropy(
    targets: Float[Array, "b v n k"], logits: Float[Array, "b v n k"], mask: Bool[Array, "b v n"], *, temperature: float
) -> Float[Array, ""]:
    """Cross-entropy of the patches of each view where `mask` is true: their mean, then the mean over all views.

    Views without such patches count as 0 (iBOT, Zhou et al., ICLR 2022, eq. 2, and DINOv2). Targets are constants.
    """
    log_probabilities = jax.nn.log_softmax(at_least_float32(logits) / temperature)
    targets = jax.lax.stop_gradient(targets).astype(log_probabilities.dtype)
    each = -jnp.sum(targets * log_probabilities, axis=-1)
    weight = mask.astype(each.dtype)
    return jnp.mean(jnp.sum(each * weight, axis=-1) / jnp.maximum(jnp.sum(weight, axis=-1), 1.0))


def entropy(probabilities: Float[Array, "... k"]) -> Float[Array, "..."]:
    """Shannon entropy over the last axis in nats, 0..ln k."""
    return jnp.sum(jax.scipy.special.entr(probabilities), axis=-1)


def usage(targets: Float[Array, "... k"], loss: Float[Array, ""]) -> dict[str, Float[Array, ""]]:
    """The signs of collapse (DINO, figure 7), for `collapse.prototypes`.

    Returns:
      "target_entropy": mean entropy of the targets, ln k if they say nothing.
      "target_kl": `loss`, a cross-entropy with these targets, less that entropy: what the student has to learn; 0 in
        either collapse.
      "prototypes_used": the number of prototypes that the batch falls on, exp of the mean target's entropy, 1..k.
    """
    mean = jnp.mean(targets.reshape(-1, targets.shape[-1]), axis=0)
    mean_entropy = jnp.mean(entropy(targets))
    return {
        "target_entropy": mean_entropy,
        "target_kl": loss - mean_entropy,
        "prototypes_used": jnp.exp(entropy(mean)),
    }
