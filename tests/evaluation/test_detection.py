import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from values import assert_close

from ssl_jax import augment, data, evaluation, nets
from ssl_jax.core import UserError
from ssl_jax.data import ArraySource
from ssl_jax.evaluation import (
    compare_detection,
    detect,
    detection_scores,
    draw_boxes,
    fcos,
    image_targets,
    train_detector,
    truth_of,
)
from ssl_jax.nets import functional
from ssl_jax.sharding import data_mesh

ENCODER = nets.ConvNet(widths=(4, 8, 8), pool=(1,))
ONE = data_mesh(jax.devices()[:1])
TX = optax.adam(1e-2)
SMALL = {"maps": 2, "width": 8, "depth": 1, "candidates": 40, "detections": 10}


@pytest.fixture(scope="module")
def source():
    return data.load("collage:fashion_mnist", "train[:16]", image_size=32, channels=1)


@pytest.fixture(scope="module")
def trunk():
    return jax.jit(lambda: functional.init(ENCODER, jax.random.key(5), jnp.zeros((2, 32, 32, 1))))()


@pytest.fixture(scope="module")
def detector():
    return fcos(ENCODER, classes=10, **SMALL)


def run(detector, source, *, steps=2, batch_size=16, tx=TX, **arguments):
    return train_detector(detector, source, tx=tx, steps=steps, batch_size=batch_size, **arguments)


def squares():
    """Bright squares and dark ones on grey, with one size and a place of its own each."""
    rng = np.random.default_rng(0)
    images = np.full((16, 32, 32, 1), 128, np.uint8)
    boxes, labels = np.zeros((16, 2, 4), np.float32), np.full((16, 2), -1, np.int32)
    for i in range(16):
        x, y = rng.integers(0, 20, 2)
        labels[i, 0] = i % 2
        images[i, y : y + 12, x : x + 12] = 255 * (i % 2)
        boxes[i, 0] = x, y, x + 12, y + 12
    extras = {"boxes": boxes, "box_labels": labels, "box_ignore": np.zeros((16, 2), bool)}
    return ArraySource(images, None, None, "squares", extras=extras, box_classes=("dark", "bright"))


def test_it_learns_what_can_be_learned():
    budget = {"steps": 120, "batch_size": 16, "learning_rate": 2e-2, "mesh": ONE}
    figures = detection_scores(ENCODER, None, None, squares(), squares(), **budget, **SMALL)
    assert figures["AP50"] > 0.9
    assert figures["VOC"] > 0.9
    assert set(figures) == {"AP", "AP50", "AP75", "AP_small", "AR100", "VOC07", "VOC", "loss"}


def test_trunks_are_compared_row_by_row(source, trunk, monkeypatch):
    seen = []
    fake = lambda encoder, *trunk, seed, steps: seen.append((trunk[0], seed, steps)) or {"AP": seed / 10}  # noqa: E731
    monkeypatch.setattr(evaluation.detection, "detection_scores", fake)
    rows = compare_detection(
        ENCODER, {"this run": trunk, "from scratch": (None, None)}, source, source, seeds=(1, 2), steps=7
    )
    assert rows == [
        {"features": name, "seed": seed, "AP": seed / 10} for name in ("this run", "from scratch") for seed in (1, 2)
    ]
    assert [(params is None, seed, steps) for params, seed, steps in seen] == [
        (False, 1, 7),
        (False, 2, 7),
        (True, 1, 7),
        (True, 2, 7),
    ]


def test_a_trunk_is_where_training_starts_and_is_left_alone(source, trunk, detector):
    params, state = trunk
    before = jax.tree.map(np.array, trunk)
    start, losses = run(detector, source, steps=0, params=params, state=state)
    jax.tree.map(np.testing.assert_array_equal, start.params["encoder"], params)
    assert len(losses) == 0
    moved, _ = run(detector, source, params=params, state=state, mesh=ONE)
    jax.tree.map(np.testing.assert_array_equal, before, trunk)  # donated buffers were copies
    assert max(jax.tree.leaves(jax.tree.map(lambda a, b: np.abs(a - b).max(), moved.params["encoder"], params))) > 1e-3
    assert np.abs(moved.carry.model_state["encoder"]["batch_stats"]["stage1_norm"]["mean"]).max() > 1e-4


def test_a_frozen_trunk_does_not_move(source, trunk):
    frozen = fcos(ENCODER, classes=10, frozen=True, **SMALL)
    after, losses = run(frozen, source, params=trunk[0], state=trunk[1], steps=3, mesh=ONE)
    jax.tree.map(np.testing.assert_array_equal, after.params["encoder"], trunk[0])
    jax.tree.map(np.testing.assert_array_equal, after.carry.model_state["encoder"], trunk[1])
    assert losses[-1] < losses[0]


def test_one_device_is_as_good_as_eight_and_seeds_count(source, detector):
    state, losses = run(detector, source)
    assert_close(losses, run(detector, source, mesh=ONE)[1])
    assert np.abs(run(detector, source, seed=1, mesh=ONE)[1] - losses).max() > 1e-3
    found = detect(detector, state, source, batch_size=9)
    assert {name: x.shape for name, x in found.items()} == {
        "boxes": (16, 10, 4),
        "scores": (16, 10),
        "labels": (16, 10),
    }
    alone = detect(detector, jax.device_get(state), data.Subset(source, np.arange(3, 6)), mesh=ONE)
    assert_close(found["scores"][3:6], alone["scores"])


def test_training_that_diverges_is_said(source, detector, monkeypatch):
    losses = iter([2.0, np.nan, 1.0])
    fake = lambda state, batch: (state, {"loss": jnp.float32(next(losses))})  # noqa: E731
    monkeypatch.setattr(evaluation.detection, "make_train_step", lambda *_, **__: fake)
    with pytest.raises(UserError, match="loss is nan at step 1; lower its learning rate"):
        run(detector, source, steps=3)


def test_truth_is_what_examples_hold(source):
    truth = truth_of(source)
    assert set(truth) == {"boxes", "box_labels"}
    np.testing.assert_array_equal(truth["boxes"], source.extras["boxes"])
    assert set(truth_of(squares())) == {"boxes", "box_labels", "box_ignore"}


def test_classes_of_an_image():
    source = squares()
    np.testing.assert_array_equal(image_targets(source)[:2], [[1, 0], [0, 1]])
    source.extras["box_labels"][0], source.extras["box_ignore"][0] = [0, 0], [True, True]
    source.extras["box_labels"][1], source.extras["box_ignore"][1] = [1, 1], [True, False]
    np.testing.assert_array_equal(image_targets(source)[:3], [[-1, 0], [0, 1], [1, 0]])


def test_bad_input_is_said(source, trunk, detector):
    with pytest.raises(UserError, match=r"digits test.* has no boxes to detect; use collage:fashion_mnist"):
        detection_scores(ENCODER, None, None, data.load("digits", "test[:16]"), source)
    with pytest.raises(UserError, match="different classes of objects"):
        detection_scores(ENCODER, None, None, source, squares())
    with pytest.raises(UserError, match="multiple of 8, for its group norm, but is 12"):
        fcos(ENCODER, classes=10, width=12)
    other = jax.eval_shape(lambda: functional.init(ENCODER, jax.random.key(0), jnp.zeros((2, 32, 32, 3))))
    with pytest.raises(
        UserError, match=r"number of channels: stage1_conv/kernel is \[3, 3, 3, 4\], where .* has \[3, 3, 1, 4\]"
    ):
        run(detector, source, params=other[0], state=other[1])
    with pytest.raises(UserError, match="not divisible by the 8 devices"):
        run(detector, source, batch_size=12)


@pytest.mark.parametrize(
    ("encoder", "settings", "message"),
    [
        (nets.ViT(dim=16, depth=2, heads=2, patch=8), {}, r"maps of several sizes.*block1 4 x 4, .*grid 4 x 4"),
        (
            ENCODER,
            {"maps": ("stage3", "stage1")},
            r"finest first, but was given stage3, stage1; the encoder has stage1",
        ),
        (ENCODER, {"maps": ("stage1", "stage7")}, "no feature map 'stage7'"),
        (ENCODER, {"prepare": functools.partial(augment.prepare, size=24)}, r"\(24, 24\) from \(32, 32\)"),
    ],
)
def test_encoders_and_images_that_do_not_do(source, encoder, settings, message):
    with pytest.raises(UserError, match=message):
        run(fcos(encoder, classes=10, **settings), source)


def test_pictures_of_boxes():
    image = np.full((10, 12, 1), 100, np.uint8)
    boxes = np.asarray([[2, 3, 6, 8], [0, 0, 12, 10], [7, 7, 9, 9]], np.float32)
    labels = np.asarray([0, -1, 1], np.int32)
    picture = draw_boxes(image, boxes, labels, scores=np.asarray([0.9, 1.0, 0.1]), zoom=3)
    assert picture.shape == (30, 36, 3)
    red = (picture != 100).any(axis=-1)
    y, x = np.nonzero(red)
    assert (x.min(), y.min(), x.max() + 1, y.max() + 1) == (6, 9, 18, 24)
    assert not red[12:21, 9:15].any()
    assert draw_boxes(image, boxes, labels, classes=("a", "b")).shape == (40, 48, 3)
