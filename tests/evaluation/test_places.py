import functools

import jax
import jax.numpy as jnp
import numpy as np
from values import assert_close

from ssl_jax.evaluation.places import around_zero, centreness, decode, mirror, places, suppress, targets

GRID = places((32, 32), ((8, 8), (4, 4)))  # strides 4 and 8; objects up to 32 and from 32 pixels

assign = jax.jit(functools.partial(targets, GRID), static_argnames="radius")
suppressed = jax.jit(suppress, static_argnames="overlap")
finish = jax.jit(functools.partial(decode, GRID, (32, 32), candidates=60, detections=20, overlap=0.5))


def test_places_are_centres_of_cells():
    assert GRID.centres.shape == (80, 2)
    np.testing.assert_array_equal(GRID.centres[[0, 1, 8, 64, 79]], [[2, 2], [6, 2], [2, 6], [4, 4], [28, 28]])
    np.testing.assert_array_equal(np.unique(GRID.strides[:64]), [4])
    assert (GRID.low[0], GRID.high[0], GRID.low[64], GRID.high[64]) == (0, 32, 32, np.inf)
    three = places((64, 48), ((32, 24), (16, 12), (8, 6)))
    ranges = np.unique(np.stack([three.strides, three.low, three.high], axis=1), axis=0)
    np.testing.assert_array_equal(ranges, [[2, 0, 16], [4, 16, 32], [8, 32, np.inf]])
    np.testing.assert_array_equal(three.centres[24], [1, 3])


def by_hand(boxes, labels, ignore, radius):
    """The paper's rules, place by place."""
    expected = []
    for (x, y), stride, low, high in zip(GRID.centres, GRID.strides, GRID.low, GRID.high, strict=True):
        mine, skipped = [], False
        for (x0, y0, x1, y1), label, ignored in zip(boxes, labels, ignore, strict=True):
            sides = np.array([x - x0, y - y0, x1 - x, y1 - y])
            if label < 0 or sides.min() <= 0:
                continue
            if ignored:
                skipped = True
            elif max(abs(x - (x0 + x1) / 2), abs(y - (y0 + y1) / 2)) < radius * stride and low <= sides.max() <= high:
                mine.append(((x1 - x0) * (y1 - y0), label, tuple(sides / stride)))
        expected.append(min(mine)[1:] if mine else (-2 if skipped else -1, None))
    return expected


def test_targets_are_the_papers():
    rng = np.random.default_rng(0)
    seen = set()
    for _ in range(20):
        corner, sides = rng.uniform(0, 24, (5, 2)), rng.uniform(3, 20, (5, 2))
        boxes = np.concatenate([corner, corner + sides], axis=1).astype(np.float32)
        labels, ignore = rng.integers(-1, 3, 5).astype(np.int32), rng.random(5) < 0.2
        found, distances = assign(jnp.asarray(boxes), jnp.asarray(labels), jnp.asarray(ignore), radius=1.5)
        for label, own, (wanted, sides) in zip(found, distances, by_hand(boxes, labels, ignore, 1.5), strict=True):
            assert label == wanted
            seen.add(int(label))
            if sides is not None:
                np.testing.assert_allclose(own, sides, rtol=1e-5)
    assert seen == {-2, -1, 0, 1, 2}


def test_large_objects_belong_to_the_coarse_level():
    box = jnp.asarray([[0, 0, 32, 60]], jnp.float32)  # its furthest side is more than 32 away from every place
    found, _ = assign(box, jnp.asarray([1]), jnp.asarray([False]), radius=100.0)
    assert set(np.asarray(found[64:])) == {1}
    below = GRID.centres[:64, 1] < 28
    assert set(np.asarray(found[:64])[below]) == {-1}


def test_centreness():
    sides = jnp.asarray([[1, 1, 1, 1], [1, 1, 4, 1], [1, 2, 4, 8], [0, 1, 1, 1]], jnp.float32)
    assert_close(centreness(sides), [1, 0.5, 0.25, 0.001], 1e-5)


def test_mirrored_boxes_hold_the_same_pixels():
    image = jnp.zeros((2, 6, 10, 1)).at[:, 1:3, 2:7].set(1.0)
    boxes = jnp.asarray([[[2, 1, 7, 3]]] * 2, jnp.float32)
    flipped, moved = mirror(image, boxes, jnp.asarray([True, False]))
    np.testing.assert_array_equal(moved[:, 0], [[3, 1, 8, 3], [2, 1, 7, 3]])
    for x, box in zip(flipped, moved[:, 0].astype(int), strict=True):
        assert x[box[1] : box[3], box[0] : box[2]].sum() == x.sum() == 10


def output_for(boxes, labels, classes, certain=6.0):
    """What a perfect head says."""
    found, distances = assign(boxes, labels, jnp.zeros(len(labels), bool), radius=1.5)
    found, there = np.asarray(found), np.asarray(found)[:, None] >= 0
    central = np.clip(centreness(distances), 1e-4, 1 - 1e-4)
    hot = found[:, None] == np.arange(classes)
    return {
        "class_logits": jnp.asarray(np.where(there, (2 * hot - 1) * certain, -3 * certain), jnp.float32),
        "centre_logits": jnp.asarray(np.log(central / (1 - central)), jnp.float32),
        "distances": jnp.asarray(np.where(there, distances, 1.0), jnp.float32),
    }


def test_a_perfect_head_is_decoded_to_the_boxes():
    boxes = jnp.asarray([[1, 2, 13, 14], [15, 14, 31, 30], [16, 1, 27, 9]], jnp.float32)
    labels = jnp.asarray([2, 0, 2])
    found = finish(output_for(boxes, labels, 3))
    assert found["boxes"].shape == (20, 4)
    assert (np.diff(found["scores"]) <= 0).all()
    best = {tuple(np.round(np.asarray(b), 3)) for b in found["boxes"][:3]}
    assert best == {tuple(np.asarray(b)) for b in boxes}
    assert sorted(np.asarray(found["labels"][:3])) == [0, 2, 2]
    np.testing.assert_array_equal(found["labels"] < 0, found["scores"] == 0)


def test_boxes_end_at_the_edges():
    output = output_for(jnp.asarray([[-6, -6, 14, 40]], jnp.float32), jnp.asarray([0]), 1)
    found = finish(output)
    np.testing.assert_allclose(found["boxes"][0], [0, 0, 14, 32], atol=1e-4)


def greedy(boxes, labels, overlap):
    """Non-maximum suppression as it is usually written."""
    stay = []
    for i, (box, label) in enumerate(zip(boxes, labels, strict=True)):
        for j in stay:
            sides = np.minimum(box[2:], boxes[j][2:]) - np.maximum(box[:2], boxes[j][:2])
            common = np.prod(np.maximum(sides, 0))
            union = np.prod(box[2:] - box[:2]) + np.prod(boxes[j][2:] - boxes[j][:2]) - common
            if labels[j] == label and common / union > overlap:
                break
        else:
            stay.append(i)
    return stay


def test_suppression_is_greedy_and_by_class():
    rng = np.random.default_rng(2)
    for overlap in (0.3, 0.6):
        for _ in range(5):
            corner, sides = rng.uniform(0, 10, (40, 2)), rng.uniform(4, 10, (40, 2))
            boxes = np.concatenate([corner, corner + sides], axis=1).astype(np.float32)
            labels = rng.integers(0, 2, 40).astype(np.int32)
            stay = suppressed(jnp.asarray(boxes), jnp.asarray(labels), overlap=overlap)
            assert np.flatnonzero(stay).tolist() == greedy(boxes, labels, overlap)
            assert 2 < stay.sum() < 40


def test_one_that_is_suppressed_suppresses_none():
    """A chain: the second overlaps the first and the third, which don't overlap; the third stays."""
    boxes = jnp.asarray([[0, 0, 10, 10], [4, 0, 14, 10], [8, 0, 18, 10]], jnp.float32)
    assert suppressed(boxes, jnp.zeros(3, jnp.int32), overlap=0.4).tolist() == [True, False, True]


def test_boxes_around_zero():
    np.testing.assert_array_equal(around_zero(jnp.asarray([[1.0, 2.0, 3.0, 4.0]])), [[-1, -2, 3, 4]])
