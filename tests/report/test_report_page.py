"""The page: nothing foreign in it, everything escaped, and whole with any part missing."""

import html.parser
import re

import numpy as np
import pytest

from ssl_jax import report
from ssl_jax.core import UserError
from ssl_jax.report import page

ATTACK = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>{{ 7*7 }}"
CLASSES = ("shirt", "boot", ATTACK)


def images(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def everything(text: str = "plain") -> dict:
    """All inputs of `write`, with `text` in every place that holds text."""
    metrics = [{"step": i * 10, "time": 5.0 * i, "loss": 5.0 - i / 10, "knn_top1": 0.7, text: 1.0} for i in range(20)]
    result = [
        {"features": name, "protocol": "knn", "setting": {"k": 20, text: text}, "value": accuracy, "std": None}
        for name, accuracy in (("this run", 0.871), ("raw pixels", 0.859), ("random encoder", 0.9), (text, 0.5))
    ]
    return {
        "title": text,
        "run": {
            "config": {"method": {"name": text, text: text}, "widths": (8, 16), "warmup": None},
            "versions": {"jax": text},
            "command": ["ssl-jax", "pretrain", text],
            "devices": text,
            "data": {"name": text, "examples": 55000},
            "git": text,
            "created": text,
        },
        "metrics": metrics,
        "evaluation": {"step": 190, "encoder": text, "data": text, "protocols": [text], "results": result},
        "views": images(3, 3, 8, 8, 1),
        "neighbours": {
            "query": images(2, 8, 8, 3),
            "neighbours": images(2, 4, 8, 8, 3),
            "similarity": np.full((2, 4), 0.9, np.float32),
            "query_label": ["shirt", text],
            "neighbour_label": [["shirt", text, "boot", "boot"]] * 2,
        },
        "embedding_map": {
            "xy": np.random.default_rng(0).normal(size=(60, 2)).astype(np.float32),
            "label": np.arange(60) % 3,
            "classes": ("shirt", "boot", text),
            "thumbnails": images(60, 8, 8, 1),
            "method": text,
        },
        "pictures": {"input": images(9, 8, 8, 1), text: images(9, 8, 8, 1)},
        "attention": {
            "image": images(2, 8, 8, 1),
            "maps": np.random.default_rng(0).random((2, 3, 4, 4)),
            "kept": np.random.default_rng(0).random((2, 4, 4)) > 0.5,
            "mass": 0.6,
            "query": text,
            "block": text,
        },
        "words": [
            {
                "name": text,
                "size": 2000,
                "used": 2,
                "perplexity": 1.5,
                "images": 1000,
                "grid": grid,
                "word": np.array([7, 1999]),
                "frequency": np.array([0.75, 0.25]),
                "rank": np.array([1, 2]),
                "picture": images(2, 3, 8, 8, 1),
                "row": np.array([[0, 0, 0], [0, -1, -1]]),
                "column": np.array([[0, grid[1] - 1, 0], [0, -1, -1]]),
            }
            for grid in ((4, 4), (1, 1))
        ],
    }


class Elements(html.parser.HTMLParser):
    """Collects tags with their attributes, and checks that they close in order."""

    VOID = ("meta", "link", "img", "br")

    def __init__(self, text: str):
        super().__init__()
        self.found: list[tuple[str, dict]] = []
        self.open: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def render(tmp_path, **inputs) -> str:
    return report.write(tmp_path / "report.html", **inputs).read_text(encoding="utf-8")


def test_attack_is_only_ever_escaped(tmp_path):
    text = render(tmp_path, **everything(ATTACK))
    assert "<script>alert" not in text
    assert "onerror=alert(1)>" not in text.replace("onerror=alert(1)&gt;", "")
    assert text.count("&lt;script&gt;alert(1)") > 15
    assert "{{ 7*7 }}" in text  # not evaluated
    elements = Elements(text).found
    assert [tag for tag, _ in elements].count("script") == 1
    assert not any(name.startswith("on") for _, attributes in elements for name in attributes)


def test_nothing_is_loaded_from_anywhere(tmp_path):
    text = render(tmp_path, **everything())
    assert not re.search(r"https?:|//[a-z]|@import|url\(", re.sub(r"base64,[A-Za-z0-9+/=]+|// .*", "", text))
    for tag, attributes in Elements(text).found:
        for name in ("src", "href", "srcset", "data", "action", "poster"):
            value = attributes.get(name)
            assert value is None or value.startswith(("data:", "#")), (tag, name, value)


def test_policy_admits_only_the_pages_own_script(tmp_path):
    import base64
    import hashlib

    text = render(tmp_path, **everything())
    policy = next(a["content"] for tag, a in Elements(text).found if a.get("http-equiv") == "Content-Security-Policy")
    script = re.findall(r"<script>(.*?)</script>", text, re.S)
    digest = base64.b64encode(hashlib.sha256(script[0].encode()).digest()).decode()
    assert len(script) == 1
    assert policy.startswith("default-src 'none'; style-src 'unsafe-inline'; img-src data:")
    assert f"script-src 'sha256-{digest}'" in policy


def test_accessible_names_and_unique_ids(tmp_path):
    elements = Elements(render(tmp_path, **everything())).found
    assert all("alt" in a for tag, a in elements if tag == "img")
    assert all(a.get("aria-label") for tag, a in elements if tag == "svg")
    ids = [a["id"] for _, a in elements if "id" in a]
    assert len(ids) == len(set(ids))
    assert {a["href"][1:] for tag, a in elements if tag == "a"} <= set(ids)
    assert [tag for tag, _ in elements].count("h1") == 1
    assert dict(elements)["html"]["lang"] == "en"


def test_shows_the_figures(tmp_path):
    text = render(tmp_path, **everything())
    for expected in ("87.1%", "85.9%", "+1.2", "\N{MINUS SIGN}2.9", "55,000 images", "1 min 35 s", "0.90", "8, 16"):
        assert expected in text, expected
    assert "No better than random encoder: k-NN." in text
    assert text.count('class="wrong"><img') == 6  # both queries: "plain" and "boot" are not the query's class
    assert "another class" in text


@pytest.mark.parametrize(
    "missing", ["evaluation", "views", "neighbours", "embedding_map", "pictures", "attention", "words"]
)
def test_any_section_may_be_missing(tmp_path, missing):
    inputs = everything()
    inputs[missing] = None
    text = render(tmp_path, **inputs)
    Elements(text)
    assert ("Not evaluated yet" in text) == (missing == "evaluation")
    assert ('id="map"' in text) == (missing != "embedding_map")
    assert ('id="attention"' in text) == ('href="#attention"' in text) == (missing != "attention")
    assert ('id="words"' in text) == ('href="#words"' in text) == (missing != "words")
    assert ('id="pictures"' in text) == ("What it makes" in text) == (missing != "pictures")
    assert ("pulls views of one image together" in text) == (missing == "pictures")
    assert ("<script>" in text) == (missing != "embedding_map")


def test_what_the_method_makes_stands_in_rows_of_the_same_examples(tmp_path):
    inputs = everything()
    inputs["pictures"] = {"noisy & small": images(9, 8, 8, 1), "rebuilt": 255 - images(9, 8, 8, 1)}
    text = render(tmp_path, **inputs)
    section = re.search(r'<section id="pictures" class="pixels">.*?</section>', text, re.S)[0]
    alts = [a["alt"] for tag, a in Elements(section).found if tag == "img"]
    assert alts == [f"{name}, column {i}" for name in ("noisy & small", "rebuilt") for i in range(1, 9)]
    assert "noisy &amp; small" in section
    large = {"a": images(2, 64, 64, 3)}
    assert '<section id="pictures">' in render(tmp_path, **{**inputs, "pictures": large})
    for nothing in ({}, {"a": images(0, 8, 8, 1)}):
        assert 'id="pictures"' not in render(tmp_path, **{**inputs, "pictures": nothing})


@pytest.mark.parametrize(
    "metrics",
    [
        [],
        [{}],
        [{"step": 0, "loss": 1.0}],
        [{"step": i, "loss": float("nan"), "embedding_std": None} for i in range(3)],
        [{"loss": 1.0, "note": "text", "flag": True, "list": [1]}, {"loss": float("inf")}],
    ],
)
def test_almost_nothing_given(tmp_path, metrics):
    text = render(tmp_path, title="Bare", run={}, metrics=metrics)
    Elements(text)
    assert ("The loss is not finite at" in text) == (len(metrics) > 1)
    body = re.sub(r"<style>.*?</style>", "", text, flags=re.S).replace("None of", "")
    assert not re.search(r"\b(nan|None|inf)\b", body)
    assert "The command line was not recorded." in text


def test_no_labels(tmp_path):
    inputs = everything()
    inputs["neighbours"] |= {"query_label": None, "neighbour_label": None}
    inputs["embedding_map"] |= {"label": None, "classes": None, "thumbnails": None}
    text = render(tmp_path, **inputs)
    Elements(text)
    assert "another class" not in text
    assert 'class="wrong"' not in text
    assert "coloured by their class" not in text
    assert text.count('<path class="dots') == 1


def test_nan_in_the_results_is_a_dash(tmp_path):
    inputs = everything()
    for result in inputs["evaluation"]["results"]:
        result["value"] = float("nan") if result["features"] == "this run" else None
    inputs["neighbours"]["similarity"][:] = np.nan
    text = render(tmp_path, **inputs)
    assert "nan" not in re.sub(r"base64,[A-Za-z0-9+/=]+", "", text)
    assert "No better" not in text


def test_long_runs_and_large_pictures_stay_small(tmp_path):
    inputs = everything()
    rng = np.random.default_rng(0)
    inputs["metrics"] = [{"step": i, "time": i, "loss": float(rng.normal()), "knn_top1": 0.5} for i in range(10_000)]
    inputs["views"] = images(12, 3, 160, 160, 3)
    inputs["neighbours"] = {
        "query": images(12, 64, 64, 3),
        "neighbours": images(12, 10, 64, 64, 3),
        "similarity": np.ones((12, 10)),
        "query_label": None,
        "neighbour_label": None,
    }
    inputs["embedding_map"] = {"xy": rng.normal(size=(5000, 2)), "thumbnails": images(5000, 16, 16, 3)}
    text = render(tmp_path, **inputs)
    assert len(text) < 3_000_000
    Elements(text)


def test_same_input_gives_the_same_bytes_and_leaves_nothing_behind(tmp_path):
    first = render(tmp_path, **everything())
    assert report.write(tmp_path, **everything()) == tmp_path / "report.html"
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == first
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("embedding_map", "label", np.zeros(3, int)),
        ("neighbours", "similarity", np.ones((2, 3))),
        ("pictures", "other", images(9, 7, 8, 1)),
        ("attention", "kept", np.ones((2, 4, 5), bool)),
        ("words", "row", np.zeros((2, 4), int)),
    ],
)
def test_parts_that_do_not_fit_are_named(tmp_path, section, key, value):
    inputs = everything()
    part = inputs[section][0] if section == "words" else inputs[section]
    part[key] = value
    first = r"60 points but 3 entries in 'label'|2 queries, .* shape \(2, 3\)|other \(9, 7"
    with pytest.raises(UserError, match=first + r"|kept .* \(2, 4, 5\)|rows .* \(2, 4\)"):
        render(tmp_path, **inputs)


def test_elapsed_time_from_clock_or_stopwatch():
    def shown(times: list[float]) -> str:
        return dict(page.facts({}, [{"time": t} for t in times], None))["Time"]

    assert shown([1.7e9, 1.7e9 + 3700]) == "1 h 1 min"
    assert shown([5.0, 65.0]) == "1 min 5 s"


def test_facts_of_the_record_that_training_writes():
    run = {
        "config": {"method": "simclr", "encoder": "convnet"},
        "devices": {"platform": "tpu", "kind": "TPU v4", "count": 8},
        "data": {"train": "fashion_mnist train", "fingerprint": "ab"},
    }
    shown = dict(page.facts(run, [{"step": 400, "time": 90.0}], {"step": 400, "encoder": "student"}))
    assert shown == {
        "Method": "simclr",
        "Encoder": "convnet",
        "Data": "fashion_mnist train",
        "Steps": "400",
        "Time": "1 min 30 s",
        "Devices": "8 x TPU v4",
    }


def test_a_queue_is_told_among_the_facts():
    lines = [{"step": 1, "queue_filled": 0.25, "queue_age": 1.0}, {"step": 2, "queue_filled": 0.5, "queue_age": 2.0}]
    assert dict(page.facts({}, lines[:1], None))["Queue"] == (
        "25.0% filled, the rest as it began; the oldest entry is 1 step old"
    )
    assert dict(page.facts({}, lines, None))["Queue"].endswith("2 steps old")
    full = [*lines, {"step": 3, "queue_filled": 1.0, "queue_age": 1500.0}]
    assert dict(page.facts({}, full, None))["Queue"] == "full; the oldest entry is 1,500 steps old"
    assert "Queue" not in dict(page.facts({}, [{"step": 1, "queue_age": None}], None))


def test_words_show_patches_with_their_place_and_prototypes_whole_images(tmp_path):
    text = render(tmp_path, **everything())
    section = re.search(r'<section id="words">.*?</section>', text, re.S)[0]
    alts = [a["alt"] for tag, a in Elements(section).found if tag == "img"]
    patches = ["Patch 1 of word 7", "Patch 2 of word 7", "Patch 3 of word 7", "Patch 1 of word 1999"]
    assert [alt for alt in alts if alt.startswith("Patch")] == patches
    assert sum(alt.startswith("The image of patch") for alt in alts) == 4
    assert [alt for alt in alts if "prototype" in alt][-1] == "Image 1 of prototype 1999"
    assert len(alts) == 12
    assert section.count('class="frame"') == 4
    assert "left: 75.00%; top: 0.00%; width: 25.00%; height: 25.00%" in section
    assert "2 of 2,000 prototypes occur in 1,000 images" in section
