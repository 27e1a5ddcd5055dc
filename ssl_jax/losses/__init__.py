"""Pure losses: arrays in, scalar out; computed in at least float32, over the global batch."""

from ssl_jax.losses.barlow_twins import barlow_twins, cross_correlation
from ssl_jax.losses.classification import accuracy, cross_entropy
from ssl_jax.losses.detection import focal, giou, pairwise_iou
from ssl_jax.losses.distributions import kl_divergence, soft_cross_entropy
from ssl_jax.losses.forms import WITHOUT_RING, check_form, columns_of_a_tile, is_tiled
from ssl_jax.losses.infonce import (
    infonce,
    infonce_among,
    infonce_in_batch,
    infonce_logits,
    infonce_with_accuracy,
)
from ssl_jax.losses.koleo import koleo
from ssl_jax.losses.nce import nce
from ssl_jax.losses.normalize import at_least_float32, l2_normalize
from ssl_jax.losses.ntxent import ntxent
from ssl_jax.losses.pixels import inside_and_outside, masked_patch_error, normalize_patches, pixel_error
from ssl_jax.losses.prototypes import cross_view_entropy, entropy, masked_cross_entropy, soft_targets, usage
from ssl_jax.losses.regression import cosine, negative_cosine, normalized_mse
from ssl_jax.losses.resident import logsumexp_over_resident, memory_mesh, memory_split_over, nearest
from ssl_jax.losses.sinkhorn import sinkhorn
from ssl_jax.losses.soft_labels import soft_labels
from ssl_jax.losses.streaming import logsumexp_of_others, logsumexp_over_keys
from ssl_jax.losses.tiled_patches import Patches, tiled_masked_cross_entropy, tiled_sinkhorn_center
from ssl_jax.losses.vicreg import vicreg, vicreg_terms

__all__ = [
    "WITHOUT_RING",
    "Patches",
    "accuracy",
    "at_least_float32",
    "barlow_twins",
    "check_form",
    "columns_of_a_tile",
    "cosine",
    "cross_correlation",
    "cross_entropy",
    "cross_view_entropy",
    "entropy",
    "focal",
    "giou",
    "infonce",
    "infonce_among",
    "infonce_in_batch",
    "infonce_logits",
    "infonce_with_accuracy",
    "inside_and_outside",
    "is_tiled",
    "kl_divergence",
    "koleo",
    "l2_normalize",
    "logsumexp_of_others",
    "logsumexp_over_keys",
    "logsumexp_over_resident",
    "masked_cross_entropy",
    "masked_patch_error",
    "memory_mesh",
    "memory_split_over",
    "nce",
    "nearest",
    "negative_cosine",
    "normalize_patches",
    "normalized_mse",
    "ntxent",
    "pairwise_iou",
    "pixel_error",
    "sinkhorn",
    "soft_cross_entropy",
    "soft_labels",
    "soft_targets",
    "tiled_masked_cross_entropy",
    "tiled_sinkhorn_center",
    "usage",
    "vicreg",
    "vicreg_terms",
]
