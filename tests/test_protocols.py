"""Every protocol through the command line's door, on a run of two steps: rows for each kind of features."""

import dataclasses
import functools
import math

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from ssl_jax import augment, cli, data, evaluation, protocols, results
from ssl_jax.core import UserError
from ssl_jax.evaluate import evaluate
from ssl_jax.evaluation.trials import trial_seed
from ssl_jax.nets import ConvNet
from ssl_jax.protocols.frame import Subject, Task

pytestmark = pytest.mark.filterwarnings("ignore:the load_module")  # ml_collections, on reading a config
# What makes them quick, and how many rows each gives for one kind of features.
CHEAP = {
    "knn": ({"ks": (5, 20), "metric": "l2", "votes": "uniform"}, 2),
    "linear": ({"labels_per_class": (1,), "trials": 2, "epochs": 1}, 2),
    "augmented": ({"epochs": 1}, 1),
    "svm": ({"shots": (1, 2), "trials": 2, "costs": (0.1,)}, 3),
    "fewshot": ({"episodes": 20, "queries": 2}, 2),
    "retrieval": ({"ks": (1,)}, 5),
    "quality": ({"sample": 50, "pairs": 30}, 6),
    "semi": ({"shares": (0.01,), "trials": 1}, 1),
    "curve": ({"labels_per_class": (1,), "trials": 1}, 1),
    "finetune": ({"epochs": 1.0, "ema": 0.9, "crop": 0.5}, 2),
    "transfer": ({"data": "digits"}, 1),
    "detection": (
        {
            "train_split": "train[:40]",
            "test_split": "test[:20]",
            "steps": 1,
            "batch_size": 16,
            "maps": ("stage1", "stage2"),
        },
        4,
    ),
    "segmentation": ({"train_split": "train[:40]", "test_split": "test[:20]"}, 4),
}
LABELLED = {"linear": [1260, 10], "svm": [1260, 10, 20], "fewshot": [5, 25], "detection": [40] * 4}


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("protocols") / "run"
    flags = ["--config.steps=2", "--config.batch_size=32", "--noreport", "--config.data=digits"]
    assert cli.main(["pretrain", "--config=quickstart:test", f"--workdir={workdir}", *flags]) == 0
    return workdir


def test_all_are_here():
    assert set(CHEAP) == set(protocols.PROTOCOLS)


@pytest.mark.parametrize("name", CHEAP)
def test_protocol(workdir, name):
    options, count = CHEAP[name]
    record = evaluate(workdir, protocols=[name], options={name: options})
    rows = results.asked(record)
    kinds = ["this run", "random encoder"] + ([] if protocols.PROTOCOLS[name].network else ["raw pixels"])
    assert [row["features"] for row in rows] == [kind for kind in kinds for _ in range(count)]
    for row in rows:
        assert math.isfinite(row["value"])
        assert not row["share"] or 0 <= row["value"] <= 1
        assert (row["labels"] is None) == (name == "quality")
        assert len(row["of"].get("sets", ())) == 2 * (name in ("transfer", "detection", "segmentation"))
    table = results.table(record).splitlines()
    assert len(table) == count + 1
    assert all(kind in table[0] for kind in kinds)
    if name in LABELLED:
        assert [row["labels"] for row in rows[:count]] == LABELLED[name]
    if name == "fewshot":
        assert f" ± {100 * rows[0]['setting']['confidence']:.1f}" in table[1], "half of the interval"


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("linear", {"preset": "moko"}, "moco"),
        ("linear", {"sweep": "broad"}, "narrow or wide"),
        ("knn", {"metric": "l3"}, "l2"),
        ("finetune", {"preset": "obow"}, "obow_1percent"),
        ("fewshot", {"method": "nearest"}, "centroid"),
        ("transfer", {"data": "digit"}, "there is no data 'digit'"),
        ("detection", {"data": "digits"}, "has no boxes"),
        ("segmentation", {"data": "digits"}, "masks"),
        ("semi", {"shares": (0.0,)}, "share"),
        ("finetune", {"crop": 2.0}, "least share"),
        ("linear", {"labels_per_class": (1, 10_000)}, "asks for 10000"),
        ("curve", {"labels_per_class": (10_000,)}, "`labels_per_class` asks for 10000"),
        ("svm", {"shots": (1, 10_000)}, "`shots` asks for 10000"),
        ("svm", {"data": "digits"}, "has no boxes"),
        ("quality", {"pairs": 0}, "`pairs` must be above 0"),
        ("linear", {"preset": "moco", "trials": 2}, "'moco' of linear is for all labels"),
        ("finetune", {"trials": 0}, "`trials` must be above 0"),
        ("detection", {"trials": 0}, "`trials` must be above 0"),
        ("linear", {"epochs": "abc"}, "epochs of linear is a whole number, not 'abc'"),
        ("linear", {"preset": 3}, "preset of linear is a text, not 3"),
        ("finetune", {"ema": True}, "ema of finetune is a number, not True"),
        ("svm", {"costs": ("low",)}, "costs of svm is one or more, each a number, not"),
    ],
)
def test_bad_options(workdir, name, options, said):
    before = results.read(workdir)
    with pytest.raises(UserError, match=said):
        evaluate(workdir, protocols=[name], options={name: options})
    assert results.read(workdir) == before


def test_standard_numbers_that_no_class_has_are_left_out_and_others_are_errors():
    few = functools.partial(protocols.frame.possible, option="shots", default=(1, 10, 100))
    assert few((1, 10, 100), 20) == [1, 10]
    assert few((), 0) == []
    assert few((5, 20), 20) == [5, 20]
    with pytest.raises(UserError, match="`shots` asks for 100 of each class, but the smallest class has 20"):
        few((10, 100), 20)


def test_classes_without_an_image():
    """Numbers that begin at 1, and a class that only training images have."""
    rng = np.random.default_rng(0)
    train, test = (
        data.from_arrays(rng.integers(0, 255, (30, 4, 4, 1)).astype(np.uint8), np.resize(labels, 30), "abc")
        for labels in ([1, 2], [0, 2])
    )
    task = Task(train=train, test=test, seed=0, prepare=evaluation.to_float, normalize={}, size=4, channels=1)
    subject = Subject(name="raw pixels", features=lambda s: s.images.reshape(len(s), -1).astype(np.float32))
    assert [row["protocol"] for row in protocols.frozen.svm(subject, task, costs=(0.1,))] == ["SVM"]
    [row] = protocols.frozen.fewshot(subject, task, shots=(1,), queries=2, episodes=5)
    assert row["protocol"] == "2-way 1-shot"


@pytest.fixture
def untrained():
    """A network as it was initialised, and a task for it."""
    source = data.from_arrays(np.zeros((8, 8, 8, 1), np.uint8), np.arange(8) % 2)
    task = Task(train=source, test=source, seed=3, prepare=evaluation.to_float, normalize={}, size=8, channels=1)
    network = protocols.Network(encoder=ConvNet(widths=(4,)), params={"a": 1}, state={})
    return Subject(name="random encoder", features=len, network=lambda: network, untrained=True), task


def test_what_an_untrained_network_is_trained_by(untrained, monkeypatch):
    """From random weights, at the optimizer's rate or the one given, each trial with a seed of its own."""
    seen = []

    def fine_tune(encoder, params, state, train, test, *, recipe, seed, **kwargs):
        seen.append((params, recipe.head_rate, seed))
        return evaluation.FineTuned(accuracy=0.5, ema_accuracy=None, steps=1, params={}, model_state={}, average=None)

    monkeypatch.setattr(evaluation, "fine_tune", fine_tune)
    for options in ({}, {"preset": "obow_1percent"}, {"scratch_rate": 0.5}):
        protocols.trained.finetune(*untrained, trials=2, **options)
    seeds = [trial_seed(3, 0), trial_seed(3, 1)]
    assert seen == [(None, rate, seed) for rate in (3e-3, 0.1, 0.5) for seed in seeds]

    def transfer(encoder, params, state, sets, *, scratch, **kwargs):
        seen.append((params, scratch and scratch.head_rate))
        return [{"finetune": {"accuracy": 0.5}} for _ in sets]

    monkeypatch.setattr(evaluation, "transfer", transfer)
    subject, task = untrained
    for each in (subject, dataclasses.replace(subject, untrained=False)):
        protocols.trained.transfer(each, task, protocols=("finetune",))
    assert seen[6:] == [({"a": 1}, 3e-3), ({"a": 1}, None)]


def test_a_presets_epochs_are_its_own(untrained, monkeypatch):
    seen = []
    probe = lambda *args, epochs, preset, **kwargs: seen.append((preset, epochs)) or {"accuracy": 0.5}  # noqa: E731
    monkeypatch.setattr(evaluation, "linear_probe_augmented", probe)
    protocols.trained.augmented(*untrained, preset="obow")
    protocols.trained.augmented(*untrained, epochs=3)
    assert seen == [("obow", None), (None, 3)]


@pytest.fixture(scope="module")
def voc(tmp_path_factory):
    """Dark and bright squares on pictures of two shapes; a difficult one in each third picture."""
    root = tmp_path_factory.mktemp("voc")
    for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (root / folder).mkdir(parents=True)
    for i in range(24):
        pixels, objects = np.full((40, 60) if i % 2 else (60, 40), 128, np.uint8), ""
        for label, (name, x) in enumerate((("bright", 4), ("dark", 22))):
            if (i >> label) % 2 or i % 3 == 0:
                pixels[4:20, x : x + 14] = 255 * (1 - label)
                difficult, box = 1 - (i >> label) % 2, f"<xmin>{x + 1}</xmin><ymin>5</ymin><xmax>{x + 14}</xmax>"
                objects += f"<object><name>{name}</name><difficult>{difficult}</difficult><bndbox>{box}"
                objects += "<ymax>20</ymax></bndbox></object>"
        Image.fromarray(pixels).save(root / "JPEGImages" / f"{i}.png")
        size = f"<size><width>{pixels.shape[1]}</width><height>{pixels.shape[0]}</height></size>"
        text = f"<annotation><filename>{i}.png</filename>{size}{objects}</annotation>"
        (root / "Annotations" / f"{i}.xml").write_text(text)
    for split, rows in (("trainval", range(16)), ("test", range(16, 24))):
        (root / "ImageSets/Main" / f"{split}.txt").write_text("\n".join(map(str, rows)))
    return f"voc:{root}"


def test_svm_of_the_classes_in_images(workdir, voc):
    """VOC07's protocol on VOC's files, whose images need not have labels of their own nor one size."""
    options = {"data": voc, "train_split": "trainval", "shots": (1,), "trials": 2, "costs": (1.0,)}
    rows = results.asked(evaluate(workdir, protocols=["svm"], options={"svm": {**options, "precision": "11-point"}}))
    rows = [row for row in rows if voc in row["protocol"]]
    assert [row["features"] for row in rows] == ["this run"] * 2 + ["random encoder"] * 2 + ["raw pixels"] * 2
    assert {row["metric"] for row in rows} == {"mAP (11-point)"}
    assert [row["labels"] for row in rows[:2]] == [16, 2]
    assert rows[4]["value"] > 0.99, "squares at fixed places show in the pixels"


def test_detection_on_images_of_several_sizes(workdir, voc, monkeypatch):
    seen = []

    def scores(encoder, params, state, train, test, **settings):
        seen.append((train.shape, len(train), settings["frozen"]))
        return dict.fromkeys(("AP", "AP50", "AP75", "VOC07"), 0.5)

    monkeypatch.setattr(evaluation, "detection_scores", scores)
    options = {"data": voc, "train_split": "trainval", "frozen": True}
    with pytest.raises(UserError, match="image_size=512"):
        evaluate(workdir, protocols=["detection"], options={"detection": options})
    evaluate(workdir, protocols=["detection"], options={"detection": {**options, "image_size": 32}})
    assert seen == [((32, 32, 1), 16, True)] * 2


def test_images_of_any_one_size_keep_it():
    """And their values are those of `augment.prepare`."""
    image = jnp.asarray(np.random.default_rng(0).integers(0, 256, (2, 4, 6, 1)), jnp.uint8)
    settings = {"mean": (0.5,), "std": (0.25,)}
    made = protocols.dense._prepare(image, **settings)
    assert made.shape == image.shape
    np.testing.assert_array_equal(made[:, :, :4], augment.prepare(image[:, :, :4], size=4, **settings))
    np.testing.assert_array_equal(protocols.dense._prepare(image)[:, :, :4], augment.prepare(image[:, :, :4], size=4))
