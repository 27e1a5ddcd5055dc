"""Evaluation of frozen features: functions of arrays, none of which knows a method."""

from ssl_jax.evaluation.features import embed, layer_names, select, teacher_of, to_float
from ssl_jax.evaluation.knn import knn_accuracy, knn_predict
from ssl_jax.evaluation.linear import draw_labels, few_label_head, few_labels, fit_linear, linear_probe

__all__ = [
    "draw_labels",
    "embed",
    "few_label_head",
    "few_labels",
    "fit_linear",
    "knn_accuracy",
    "knn_predict",
    "layer_names",
    "linear_probe",
    "select",
    "teacher_of",
    "to_float",
]
