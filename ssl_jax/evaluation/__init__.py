"""Evaluation of frozen features: functions of arrays, none of which knows a method."""

from ssl_jax.evaluation.augmented import linear_probe_augmented
from ssl_jax.evaluation.features import embed, embed_layers, teacher_of, to_float
from ssl_jax.evaluation.few_labels import draw_labels, few_label_head, few_labels
from ssl_jax.evaluation.fewshot import few_shot_accuracy
from ssl_jax.evaluation.knn import knn_accuracy, knn_predict
from ssl_jax.evaluation.layers import concatenate_layers, linear_probe_layers
from ssl_jax.evaluation.linear import fit_linear, linear_probe
from ssl_jax.evaluation.neighbors import nearest
from ssl_jax.evaluation.precision import average_precision
from ssl_jax.evaluation.presets import PRESETS, Recipe, linear_probe_preset
from ssl_jax.evaluation.quality import (
    alignment,
    effective_rank,
    participation_ratio,
    rankme,
    representation_quality,
    uniformity,
)
from ssl_jax.evaluation.retrieval import retrieval_scores
from ssl_jax.evaluation.svm import linear_svm, low_shot_svm

__all__ = [
    "PRESETS",
    "Recipe",
    "alignment",
    "average_precision",
    "concatenate_layers",
    "draw_labels",
    "effective_rank",
    "embed",
    "embed_layers",
    "few_label_head",
    "few_labels",
    "few_shot_accuracy",
    "fit_linear",
    "knn_accuracy",
    "knn_predict",
    "linear_probe",
    "linear_probe_augmented",
    "linear_probe_layers",
    "linear_probe_preset",
    "linear_svm",
    "low_shot_svm",
    "nearest",
    "participation_ratio",
    "rankme",
    "representation_quality",
    "retrieval_scores",
    "teacher_of",
    "to_float",
    "uniformity",
]
