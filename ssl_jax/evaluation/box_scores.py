"""Scores of detections: COCO's by its own scorer, pycocotools, and PASCAL VOC's two average precisions.

Ground truth is a dict of `boxes` `[n m 4]`, `box_labels` `[n m]` (-1: none) and maybe `box_ignore` and `box_area`
`[n m]`, as sources of boxes give (`ssl_jax.data.boxed`); detections are `boxes` `[n d 4]`, `scores` `[n d]`, `labels`
`[n d]` (-1: none).
"""

import contextlib
import io
from collections.abc import Mapping

import numpy as np
from jaxtyping import Bool, Float

from ssl_jax.core import UserError
from ssl_jax.evaluation.precision import area_under, eleven_points

# The first six and the ninth of pycocotools' twelve figures; small is below 32 x 32 pixels, large from 96 x 96 on.
FIGURES = {"AP": 0, "AP50": 1, "AP75": 2, "AP_small": 3, "AP_medium": 4, "AP_large": 5, "AR100": 8}
Arrays = Mapping[str, np.ndarray]


def coco_ap(detections: Arrays, truth: Arrays, *, classes: int) -> dict[str, float]:
    """Average precisions as COCO defines them, 0..1, computed by pycocotools.

    Args:
      detections: see above, in the same pixels as the truth; the best 100 of an image count.
      truth: see above; an object's size is its `box_area`, or its box's where there is none; ignored boxes are COCO's
        crowds, what is detected there counts neither way.
      classes: number of classes; the mean is over those that occur in the truth.

    Returns:
      `AP` (mean over IoU 0.5, 0.55, ..., 0.95), `AP50`, `AP75`, `AP_small`, `AP_medium`, `AP_large` and `AR100`; those
      of a size that no object has are left out.

    Raises:
      UserError: pycocotools is not installed, there is no object in the truth, or arrays don't fit each other.
    """
    try:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    except ImportError as error:
        raise UserError('Scores of detections need pycocotools; run `pip install "ssl_jax[detection]"`.') from error
    _check(detections, truth)
    rows = to_coco_results(detections)
    with contextlib.redirect_stdout(io.StringIO()):  # it prints its progress
        gold = COCO()
        gold.dataset = to_coco(truth, classes=classes)
        gold.createIndex()
        scorer = COCOeval(gold, gold.loadRes(rows) if len(rows) else COCO(), "bbox")
        # Without detections there is nothing to take the images from.
        scorer.params.imgIds = sorted(gold.getImgIds())
        scorer.params.catIds = sorted(gold.getCatIds())
        scorer.evaluate()
        scorer.accumulate()
        scorer.summarize()
    return {name: float(scorer.stats[i]) for name, i in FIGURES.items() if scorer.stats[i] >= 0}


def to_coco(truth: Arrays, *, classes: int) -> dict[str, list[dict]]:
    """Ground truth as COCO's `images`, `annotations` and `categories`; ids count from 1 and classes from 0."""
    boxes, labels = np.asarray(truth["boxes"], np.float64), truth["box_labels"]
    ignore = truth.get("box_ignore", np.zeros(labels.shape, bool))
    areas = np.asarray(truth.get("box_area", np.prod(boxes[..., 2:] - boxes[..., :2], axis=-1)), np.float64)
    annotations: list[dict] = []
    for image, j in zip(*np.nonzero(labels >= 0), strict=True):
        x0, y0, x1, y1 = boxes[image, j].tolist()
        annotations.append(
            {
                "id": len(annotations) + 1,
                "image_id": int(image),
                "category_id": int(labels[image, j]),
                "bbox": [x0, y0, x1 - x0, y1 - y0],
                "area": float(areas[image, j]),
                "iscrowd": int(ignore[image, j]),
            }
        )
    return {
        "images": [{"id": i} for i in range(len(labels))],
        "annotations": annotations,
        "categories": [{"id": i} for i in range(classes)],
    }


def to_coco_results(detections: Arrays) -> Float[np.ndarray, "r 7"]:
    """Detections as rows of image id, x, y, width, height, score and category id, which `COCO.loadRes` reads."""
    image, j = np.nonzero(detections["labels"] >= 0)
    boxes = np.asarray(detections["boxes"], np.float64)[image, j]
    sides = boxes[:, 2:] - boxes[:, :2]
    rest = np.stack([detections["scores"][image, j], detections["labels"][image, j]], axis=1)
    return np.concatenate([image[:, None], boxes[:, :2], sides, rest], axis=1).astype(np.float64)


def voc_ap(detections: Arrays, truth: Arrays, *, overlap: float = 0.5) -> dict[str, float]:
    """Mean average precision as PASCAL VOC defines it, 0..1.

    Going down the detections of a class by score, one is right if the box of its class that it overlaps most does so by
    IoU of at least `overlap` and was not found before; where that box is ignored ("difficult"), it counts neither way.
    The mean is over the classes that occur in the truth. The development kit counts pixels from 1 and includes the last
    one; our boxes hold its right and lower edge, which comes to the same.

    Returns:
      `VOC07`, precision averaged over the recalls 0, 0.1, ..., 1, as until 2009, and `VOC`, the area under the curve.

    Raises:
      UserError: there is no object in the truth, or arrays don't fit each other.
    """
    _check(detections, truth)
    ignore = truth.get("box_ignore", np.zeros(truth["box_labels"].shape, bool))
    figures = []
    for label in np.unique(truth["box_labels"][(truth["box_labels"] >= 0) & ~ignore]):
        correct, total = _matches(detections, truth, ignore, int(label), overlap)
        recall = np.cumsum(correct) / total
        precision = np.cumsum(correct) / np.arange(1, len(correct) + 1)
        figures.append((eleven_points(recall, precision), area_under(recall, precision)))
    eleven, areas = np.mean(figures, axis=0)
    return {"VOC07": float(eleven), "VOC": float(areas)}


def _matches(
    detections: Arrays, truth: Arrays, ignore: Bool[np.ndarray, "n m"], label: int, overlap: float
) -> tuple[Bool[np.ndarray, " r"], int]:
    """Which detections of a class are right, best first, and how many objects there are to be found."""
    mine = truth["box_labels"] == label
    image, j = np.nonzero(detections["labels"] == label)
    order = np.argsort(-detections["scores"][image, j], kind="stable")
    found, correct = np.zeros(mine.shape, bool), []
    for i, k in zip(image[order], j[order], strict=True):
        own = np.flatnonzero(mine[i])
        overlaps = _iou(detections["boxes"][i, k], truth["boxes"][i, own])
        best = own[np.argmax(overlaps)] if len(own) else None
        hit = best is not None and overlaps.max() >= overlap
        if hit and ignore[i, best]:
            continue
        correct.append(hit and not found[i, best])
        if hit:
            found[i, best] = True
    return np.asarray(correct, bool), int((mine & ~ignore).sum())


def _iou(box: Float[np.ndarray, "4"], boxes: Float[np.ndarray, "m 4"]) -> Float[np.ndarray, " m"]:
    box, boxes = box.astype(np.float64), boxes.astype(np.float64)
    sides = np.minimum(box[2:], boxes[:, 2:]) - np.maximum(box[:2], boxes[:, :2])
    common = np.prod(np.maximum(sides, 0), axis=1)
    union = np.prod(box[2:] - box[:2]) + np.prod(boxes[:, 2:] - boxes[:, :2], axis=1) - common
    return common / np.maximum(union, 1e-12)


def _check(detections: Arrays, truth: Arrays) -> None:
    if len(detections["labels"]) != len(truth["box_labels"]):
        images = len(detections["labels"]), len(truth["box_labels"])
        raise UserError(f"There are detections of {images[0]} images, but boxes of {images[1]}.")
    ignore = truth.get("box_ignore", np.zeros(truth["box_labels"].shape, bool))
    if not ((truth["box_labels"] >= 0) & ~ignore).any():
        raise UserError("There is no object to be found in these images, so detections have no score.")
    there = detections["labels"] >= 0
    if not np.isfinite(detections["boxes"][there]).all() or not np.isfinite(detections["scores"][there]).all():
        raise UserError("Detections hold NaN or infinity: training diverged; lower its learning rate.")
