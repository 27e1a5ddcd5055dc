"""Evaluation of frozen features: functions of arrays, none of which knows a method."""

from ssl_jax.evaluation.augmented import linear_probe_augmented
from ssl_jax.evaluation.features import embed, embed_layers, teacher_of, to_float
from ssl_jax.evaluation.few_labels import draw_labels, few_label_head, few_labels
from ssl_jax.evaluation.knn import knn_accuracy, knn_predict
from ssl_jax.evaluation.layers import concatenate_layers, linear_probe_layers
from ssl_jax.evaluation.linear import fit_linear, linear_probe
from ssl_jax.evaluation.neighbors import nearest
from ssl_jax.evaluation.precision import average_precision
from ssl_jax.evaluation.presets import PRESETS, Recipe, linear_probe_preset
from ssl_jax.evaluation.svm import low_shot_svm, svm

__all__ = [
    "PRESETS",
    "Recipe",
    "average_precision",
    "concatenate_layers",
    "draw_labels",
    "embed",
    "embed_layers",
    "few_label_head",
    "few_labels",
    "fit_linear",
    "knn_accuracy",
    "knn_predict",
    "linear_probe",
    "linear_probe_augmented",
    "linear_probe_layers",
    "linear_probe_preset",
    "low_shot_svm",
    "nearest",
    "svm",
    "teacher_of",
    "to_float",
]
