import sys

import numpy as np
import pytest

from ssl_jax.core import UserError
from ssl_jax.evaluation.box_scores import coco_ap, to_coco, to_coco_results, voc_ap
from ssl_jax.evaluation.precision import area_under, eleven_points


def truth_for(images=20, seed=0):
    """One to four boxes of three classes per image, apart from each other."""
    rng = np.random.default_rng(seed)
    corner = np.asarray([[0, 0], [50, 0], [0, 50], [50, 50]]) + rng.uniform(0, 8, (images, 4, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(16, 40, (images, 4, 2))], axis=-1).astype(np.float32)
    labels = rng.integers(0, 3, (images, 4)).astype(np.int32)
    labels[np.arange(4) >= rng.integers(1, 5, images)[:, None]] = -1
    return {"boxes": boxes, "box_labels": labels}


def perfect(truth, seed=1):
    scores = np.random.default_rng(seed).uniform(0.5, 1, truth["box_labels"].shape).astype(np.float32)
    return {"boxes": truth["boxes"], "scores": scores, "labels": truth["box_labels"]}


def scores(found, truth):
    return {**coco_ap(found, truth, classes=3), **voc_ap(found, truth)}


def test_a_perfect_detector_scores_one():
    truth = truth_for()
    found = scores(perfect(truth), truth)
    assert set(found) == {"AP", "AP50", "AP75", "AP_small", "AP_medium", "AR100", "VOC07", "VOC"}
    np.testing.assert_allclose(list(found.values()), 1.0)


def test_shifted_boxes_score_at_the_thresholds_they_still_reach():
    """A shift by a fifth of the width overlaps by 0.8 / 1.2 = 0.67: right at 0.5, 0.55, 0.6 and 0.65 of ten."""
    truth = truth_for()
    shift = 0.2 * (truth["boxes"][..., 2] - truth["boxes"][..., 0])
    moved = truth["boxes"] + np.stack([shift, 0 * shift, shift, 0 * shift], axis=-1)
    found = scores({**perfect(truth), "boxes": moved}, truth)
    np.testing.assert_allclose([found[k] for k in ("AP50", "AP75", "AP", "VOC07", "VOC")], [1, 0, 0.4, 1, 1], atol=1e-6)


def test_other_classes_and_no_detections_score_zero():
    truth = truth_for()
    wrong = {**perfect(truth), "labels": np.where(truth["box_labels"] >= 0, (truth["box_labels"] + 1) % 3, -1)}
    none = {**perfect(truth), "labels": np.full_like(truth["box_labels"], -1)}
    for found in (scores(wrong, truth), scores(none, truth)):
        assert max(found.values()) == 0


def test_voc_by_hand():
    """Three objects; in order of score right, wrong, right, again the first, and one object is never found."""
    truth = {
        "boxes": np.asarray([[[0, 0, 10, 10], [20, 20, 30, 30]], [[0, 0, 10, 10], [0, 0, 0, 0]]], np.float32),
        "box_labels": np.asarray([[0, 0], [0, -1]], np.int32),
    }
    found = {
        "boxes": np.asarray(
            [[[0, 0, 10, 10], [40, 40, 50, 50], [0, 0, 10, 9]], [[0, 1, 10, 10], [0, 0, 1, 1], [0, 0, 1, 1]]],
            np.float32,
        ),
        "scores": np.asarray([[0.9, 0.8, 0.6], [0.7, 0.0, 0.0]], np.float32),
        "labels": np.asarray([[0, 0, 0], [0, -1, -1]], np.int32),
    }
    # Precision 1, 1/2, 2/3, 1/2 at recall 1/3, 1/3, 2/3, 2/3.
    got = voc_ap(found, truth)
    assert got["VOC07"] == pytest.approx((4 * 1 + 3 * 2 / 3) / 11)
    assert got["VOC"] == pytest.approx(1 / 3 + 1 / 3 * 2 / 3)
    assert coco_ap(found, truth, classes=1)["AP50"] == pytest.approx((34 * 1 + 33 * 2 / 3) / 101)


def test_ignored_objects_count_neither_way():
    truth = truth_for()
    ignore = np.random.default_rng(3).random(truth["box_labels"].shape) < 0.3
    marked = {**truth, "box_ignore": ignore}
    np.testing.assert_allclose(list(scores(perfect(truth), marked).values()), 1.0)
    rest = {**perfect(truth), "labels": np.where(ignore, -1, truth["box_labels"])}
    np.testing.assert_allclose(list(scores(rest, marked).values()), 1.0)
    assert scores(rest, truth)["VOC"] < 0.9


def test_both_curves_on_numbers():
    recall, precision = np.asarray([0.25, 0.5, 0.5, 1.0]), np.asarray([1.0, 0.6, 0.4, 0.8])
    assert area_under(recall, precision) == pytest.approx(0.25 * 1 + 0.75 * 0.8)
    assert eleven_points(recall, precision) == pytest.approx((3 * 1 + 8 * 0.8) / 11)
    assert (area_under(recall[:0], precision[:0]), eleven_points(recall[:0], precision[:0])) == (0, 0)


def test_area_under_is_scikit_learns_where_precision_never_rises():
    from sklearn.metrics import average_precision_score

    right = np.asarray([1, 1, 1, 0, 0])
    recall, precision = np.cumsum(right) / 4, np.cumsum(right) / np.arange(1, 6)  # one of four is never detected
    expected = average_precision_score([*right, 1], [5, 4, 3, 2, 1, -100])
    found = area_under(np.append(recall, 1.0), np.append(precision, 4 / 6))
    assert found == pytest.approx(expected)


def test_the_form_of_coco():
    truth = {
        "boxes": np.asarray([[[1, 2, 4, 8], [0, 0, 0, 0]]], np.float32),
        "box_labels": np.asarray([[1, -1]], np.int32),
    }
    content = to_coco(truth, classes=2)
    assert content["images"] == [{"id": 0}]
    assert [c["id"] for c in content["categories"]] == [0, 1]
    assert content["annotations"] == [
        {"id": 1, "image_id": 0, "category_id": 1, "bbox": [1, 2, 3, 6], "area": 18, "iscrowd": 0}
    ]
    masks = to_coco({**truth, "box_area": np.asarray([[7.5, 0]], np.float32)}, classes=2)
    assert masks["annotations"][0]["area"] == 7.5
    rows = to_coco_results({"boxes": truth["boxes"], "scores": np.asarray([[0.5, 0.0]]), "labels": truth["box_labels"]})
    np.testing.assert_array_equal(rows, [[0, 1, 2, 3, 6, 0.5, 1]])


def test_it_prints_nothing(capsys):
    coco_ap(perfect(truth_for()), truth_for(), classes=3)
    assert capsys.readouterr() == ("", "")


def test_bad_input(monkeypatch):
    truth = truth_for()
    found = perfect(truth)
    with pytest.raises(UserError, match="detections of 19 images, but boxes of 20"):
        voc_ap({name: x[1:] for name, x in found.items()}, truth)
    with pytest.raises(UserError, match="no object to be found"):
        voc_ap(found, {**truth, "box_labels": np.full_like(truth["box_labels"], -1)})
    with pytest.raises(UserError, match="NaN or infinity"):
        coco_ap({**found, "scores": found["scores"] * np.float32("nan")}, truth, classes=3)
    monkeypatch.setitem(sys.modules, "pycocotools.coco", None)
    with pytest.raises(UserError, match=r'pip install "ssl_jax\[detection\]"'):
        coco_ap(found, truth, classes=3)
