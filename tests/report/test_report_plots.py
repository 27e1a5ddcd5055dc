"""Curves, maps, tables and texts: numbers in, known coordinates and words out."""

import base64
import io
import math
import re

import numpy as np
import pytest
from PIL import Image

from ssl_jax.report import embedding, formats, images, plots, results

NAN = float("nan")


def points(path: str) -> np.ndarray:
    return np.array(re.findall(r"[ML](-?[\d.]+) (-?[\d.]+)", path), float)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"), (0.0312345, "0.03123"), (12345.6, "12,346"), (-2.5, "\N{MINUS SIGN}2.5"), (1e-7, "1e\N{MINUS SIGN}7"),
        (NAN, "\N{EN DASH}"), (None, "\N{EN DASH}"), (math.inf, "\N{EN DASH}"),
        (np.float32(0.5), "0.5"), (2000, "2,000"),
    ],
)  # fmt: skip
def test_number(value, text):
    assert formats.number(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.2, "under 1 s"), (42, "42 s"), (250, "4 min 10 s"), (3600, "1 h"), (11100, "3 h 5 min"), (187200, "2 d 4 h")],
)
def test_duration(seconds, text):
    assert formats.duration(seconds) == text


def test_date_and_command():
    assert formats.date("2026-11-23T22:50:00+00:00") == "23 November 2026, 22:50 UTC"
    assert formats.date("yesterday") == "yesterday"
    assert formats.command_line(["a", "b c"]) == "a 'b c'"
    assert formats.command_line("a  b") == "a  b"


def test_describe_counts_equal_devices_but_not_numbers():
    assert formats.describe(["TPU v4"] * 8) == "8 x TPU v4"
    assert formats.describe((2, 2)) == "2, 2"


def test_flatten_keeps_order_and_empty_records():
    nested = {"b": {"x": 1, "y": {"z": None}}, "a": (1, 2), "c": {}}
    assert list(formats.flatten(nested)) == [("b.x", "1"), ("b.y.z", "–"), ("a", "1, 2"), ("c", "–")]  # noqa: RUF001


@pytest.mark.parametrize(("low", "high"), [(0.0, 2000.0), (0.003, 0.085), (-5.0, 5.0), (1e-9, 3e-9), (99.1, 99.2)])
def test_ticks_are_inside_and_few(low, high):
    found = plots.ticks(low, high)
    assert 3 <= len(found) <= 7
    assert low - 1e-9 * high <= found[0] < found[-1] <= high * (1 + 1e-9)


def test_curve_maps_corners_to_corners():
    curve = plots.curve("loss", np.array([0.0, 50.0, 100.0]), np.array([0.0, 1.0, 0.5]))
    line = points(curve.line)
    np.testing.assert_allclose(line[[0, -1], 0], [plots.LEFT, plots.RIGHT])
    height = (plots.BOTTOM - plots.TOP) / 1.12  # 6 % of the span above and below
    np.testing.assert_allclose(line[0, 1] - line[1, 1], height, atol=0.11)
    np.testing.assert_allclose(line[2, 1], line[:2, 1].mean(), atol=0.11)
    assert curve.dot == tuple(line[-1])
    assert curve.last == "0.5"


def test_curve_is_broken_at_nan():
    curve = plots.curve("loss", np.arange(6.0), np.array([1, NAN, 2, 3, math.inf, 4]))
    assert curve.line.count("M") == 3
    assert curve.line.count("h0") == 2  # both lone points are drawn as dots
    assert curve.missing == 2


def test_all_nan_and_one_point():
    empty = plots.curve("loss", np.arange(2.0), np.array([NAN, NAN]))
    assert (empty.line, empty.dot, empty.missing) == ("", None, 2)
    assert plots.curve("knn_top1", np.zeros(1), np.array([0.5])).last == "50.0%"


def test_thinning_keeps_ends_spikes_and_means():
    values = np.sin(np.arange(10_000) / 500)
    values[1234], values[777] = 9.0, NAN
    steps = np.arange(10_000.0)
    x, low, mean, high = plots.thin(steps, values)
    assert len(x) == plots.POINTS // 2
    assert high.max() == 9.0
    assert np.isfinite(mean).all()
    assert (low <= mean).all() and (mean <= high).all()  # noqa: PT018
    curve = plots.curve("loss", steps, values)
    assert curve.band.endswith("Z")
    assert len(curve.line) + len(curve.band) < 8000


def test_series_sorts_steps_and_keeps_the_last_of_a_repeated_one():
    lines = [{"step": 2, "a": 1.0}, {"step": 1, "a": None}, {"step": 3}, {"step": 2, "a": 5}, {"step": 4, "a": "x"}]
    steps, values = plots.series(lines, "a")
    np.testing.assert_array_equal(steps, [1, 2])
    np.testing.assert_array_equal(values, [NAN, 5])


def test_known_curves_come_first():
    titles = [c.title for c in plots.curves([{"step": 0, "time": 1.0, "zeta": 1, "teacher_entropy": 2, "loss": 3}])]
    assert titles == ["Loss", "Teacher entropy", "Zeta"]


def test_baseline_with_another_setting_is_its_best_and_says_so():
    def result(features, accuracy, l2):
        return {"features": features, "protocol": "linear", "setting": {"l2": l2}, "value": accuracy}

    rows = results.table([result("this run", 0.9, 1), result("raw pixels", 0.8, 2), result("raw pixels", 0.85, 3)])
    assert len(rows) == 1
    assert (rows[0].cells["raw pixels"].text, rows[0].cells["raw pixels"].note) == ("85.0%", "l2 3")
    assert rows[0].gains == {"raw pixels": "+5.0", "random encoder": ""}
    same = results.table([result("this run", 0.9, 1), result("raw pixels", 0.95, 2), result("raw pixels", 0.8, 1)])
    assert (same[0].cells["raw pixels"].text, same[0].cells["raw pixels"].note) == ("80.0%", "")


def test_settings_leave_out_what_the_name_says_and_what_they_were_chosen_by():
    setting = {"k": 20, "labels_per_class": 3, "held_out_accuracy": 0.9, "fresh_start": True}
    found = results.settings({"protocol": "k-NN, k = 20", "setting": setting})
    assert found == {"labels per class": 3, "fresh start": True}
    assert results.title("k-NN, k = 20") == "k-NN, k = 20"
    assert results.title("linear, 1 label per class") == "Linear, 1 label per class"


def test_map_orders_thumbnails_as_its_dots():
    label = np.array([1, 0, 1, 0, 1])
    xy = np.array([[0, 0], [1, 0], [NAN, 1], [3, 3], [4, 1]])
    pictures = np.full((5, 8, 8, 1), 10, np.uint8) * np.arange(5, dtype=np.uint8)[:, None, None, None]
    found = embedding.layout({"xy": xy, "label": label, "classes": ("a", "b"), "thumbnails": pictures})
    assert found is not None
    assert [(g.name, g.count, g.colour) for g in found.groups] == [("a", 2, 1), ("b", 2, 2)]
    file = base64.b64decode(found.sheet.split(",")[1])
    cells = np.asarray(Image.open(io.BytesIO(file))).reshape(found.rows, 8, found.columns, 8)[:, 0, :, 0].ravel()
    np.testing.assert_array_equal(cells, [10, 30, 0, 40])
    assert points(found.groups[1].path)[:, 0].tolist() == [24.0, 576.0]


def test_map_with_many_classes_greys_the_rare_ones():
    label = np.repeat(np.arange(30), np.arange(30) + 1)
    xy = np.random.default_rng(0).normal(size=(len(label), 2))
    found = embedding.layout({"xy": xy, "label": label})
    assert [g.colour for g in found.groups] == list(range(embedding.COLOURS + 1))
    assert found.groups[0].name == "other classes"
    assert sum(g.count for g in found.groups) == len(label) == found.count
    assert [g.name for g in found.groups[1:]] == [str(c) for c in range(18, 30)]


def test_map_of_nothing_or_of_one_place():
    assert embedding.layout({"xy": np.full((3, 2), NAN)}) is None
    assert embedding.layout({"xy": np.ones((3, 2))}).groups[0].path.count("M300.0") == 3


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_png_keeps_the_pixels(channels):
    picture = np.random.default_rng(0).integers(0, 256, (5, 7, channels), dtype=np.uint8)
    back = np.asarray(Image.open(io.BytesIO(images.png(picture))))
    expected = picture[..., 0] if channels < 3 else picture[..., :3]
    np.testing.assert_array_equal(back, expected)
