"""Evaluation: of frozen features, as functions of arrays, and by training an encoder further; none knows a method."""

from ssl_jax.data import rows_named
from ssl_jax.evaluation.attention import attention_maps, attention_weights, keep_mass
from ssl_jax.evaluation.augmented import linear_probe_augmented
from ssl_jax.evaluation.box_scores import coco_ap, voc_ap
from ssl_jax.evaluation.curve import label_curve, labels_for, labels_saved
from ssl_jax.evaluation.detection import (
    compare_detection,
    detect,
    detection_scores,
    draw_boxes,
    image_targets,
    train_detector,
    truth_of,
)
from ssl_jax.evaluation.fcos import Fcos, fcos
from ssl_jax.evaluation.features import embed, embed_layers, layer_names, select, teacher_of, to_float
from ssl_jax.evaluation.few_labels import draw_labels, few_label_head, few_labels
from ssl_jax.evaluation.fewshot import few_shot_accuracy
from ssl_jax.evaluation.finetune import FineTuned, classify, fine_tune
from ssl_jax.evaluation.knn import knn_accuracy, knn_predict
from ssl_jax.evaluation.labels import draw_share
from ssl_jax.evaluation.linear import fit_linear, linear_probe
from ssl_jax.evaluation.neighbors import nearest
from ssl_jax.evaluation.precision import average_precision
from ssl_jax.evaluation.presets import PROBES, Recipe, linear_probe_preset
from ssl_jax.evaluation.quality import (
    alignment,
    effective_rank,
    participation_ratio,
    rankme,
    representation_quality,
    uniformity,
)
from ssl_jax.evaluation.retrieval import retrieval_scores
from ssl_jax.evaluation.segmentation import (
    confusion,
    dense_features,
    knn_segmentation,
    linear_segmentation,
    miou,
    pixel_accuracy,
    segmentation_scores,
)
from ssl_jax.evaluation.semi import from_scratch, semi_supervised
from ssl_jax.evaluation.svm import linear_svm, low_shot_svm
from ssl_jax.evaluation.transfer import transfer
from ssl_jax.evaluation.tuning import FINE_TUNING, FineTuning
from ssl_jax.evaluation.words import Assigned, Gallery, assign_words, word_gallery

__all__ = [
    "FINE_TUNING",
    "PROBES",
    "Assigned",
    "Fcos",
    "FineTuned",
    "FineTuning",
    "Gallery",
    "Recipe",
    "alignment",
    "assign_words",
    "attention_maps",
    "attention_weights",
    "average_precision",
    "classify",
    "coco_ap",
    "compare_detection",
    "confusion",
    "dense_features",
    "detect",
    "detection_scores",
    "draw_boxes",
    "draw_labels",
    "draw_share",
    "effective_rank",
    "embed",
    "embed_layers",
    "fcos",
    "few_label_head",
    "few_labels",
    "few_shot_accuracy",
    "fine_tune",
    "fit_linear",
    "from_scratch",
    "image_targets",
    "keep_mass",
    "knn_accuracy",
    "knn_predict",
    "knn_segmentation",
    "label_curve",
    "labels_for",
    "labels_saved",
    "layer_names",
    "linear_probe",
    "linear_probe_augmented",
    "linear_probe_preset",
    "linear_segmentation",
    "linear_svm",
    "low_shot_svm",
    "miou",
    "nearest",
    "participation_ratio",
    "pixel_accuracy",
    "rankme",
    "representation_quality",
    "retrieval_scores",
    "rows_named",
    "segmentation_scores",
    "select",
    "semi_supervised",
    "teacher_of",
    "to_float",
    "train_detector",
    "transfer",
    "truth_of",
    "uniformity",
    "voc_ap",
    "word_gallery",
]
