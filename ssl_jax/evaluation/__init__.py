"""Evaluation: of frozen features, as functions of arrays, and by training an encoder further; none knows a method."""

from ssl_jax.evaluation.curve import label_curve, labels_for, labels_saved
from ssl_jax.evaluation.features import embed, layer_names, select, teacher_of, to_float
from ssl_jax.evaluation.finetune import FineTuned, classify, fine_tune
from ssl_jax.evaluation.knn import knn_accuracy, knn_predict
from ssl_jax.evaluation.labels import draw_share, rows_named
from ssl_jax.evaluation.linear import draw_labels, few_label_head, few_labels, fit_linear, linear_probe
from ssl_jax.evaluation.semi import from_scratch, semi_supervised
from ssl_jax.evaluation.transfer import transfer
from ssl_jax.evaluation.tuning import FineTuning, PRESETS

__all__ = [
    "FineTuned",
    "FineTuning",
    "PRESETS",
    "classify",
    "draw_labels",
    "draw_share",
    "embed",
    "few_label_head",
    "few_labels",
    "fine_tune",
    "fit_linear",
    "from_scratch",
    "knn_accuracy",
    "knn_predict",
    "label_curve",
    "labels_for",
    "labels_saved",
    "layer_names",
    "linear_probe",
    "rows_named",
    "select",
    "semi_supervised",
    "teacher_of",
    "to_float",
    "transfer",
]
