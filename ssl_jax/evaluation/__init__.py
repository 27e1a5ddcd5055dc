"""Evaluation of frozen features: functions of arrays, none of which knows a method."""

from ssl_jax.evaluation.average_precision import coco_ap, voc_ap
from ssl_jax.evaluation.detection import (
    compare_detection,
    detect,
    detection_scores,
    draw_boxes,
    train_detector,
    truth_of,
)
from ssl_jax.evaluation.fcos import Fcos, fcos
from ssl_jax.evaluation.features import embed, teacher_of, to_float
from ssl_jax.evaluation.knn import knn_accuracy, knn_predict
from ssl_jax.evaluation.linear import draw_labels, few_label_head, few_labels, fit_linear, linear_probe
from ssl_jax.evaluation.segmentation import (
    confusion,
    dense_features,
    knn_segmentation,
    linear_segmentation,
    miou,
    pixel_accuracy,
    segmentation_scores,
)

__all__ = [
    "Fcos",
    "coco_ap",
    "compare_detection",
    "confusion",
    "dense_features",
    "detect",
    "detection_scores",
    "draw_boxes",
    "draw_labels",
    "embed",
    "fcos",
    "few_label_head",
    "few_labels",
    "fit_linear",
    "knn_accuracy",
    "knn_predict",
    "knn_segmentation",
    "linear_probe",
    "linear_segmentation",
    "miou",
    "pixel_accuracy",
    "segmentation_scores",
    "teacher_of",
    "to_float",
    "train_detector",
    "truth_of",
    "voc_ap",
]
