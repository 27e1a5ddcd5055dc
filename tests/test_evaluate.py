"""Evaluation of a run: what it records, what it does not do twice, and which features it looks at."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from ssl_jax import cli, protocols, results
from ssl_jax.configs import simclr
from ssl_jax.core import UserError
from ssl_jax.evaluate import check_apart, evaluate
from ssl_jax.experiment import Experiment

pytestmark = pytest.mark.filterwarnings("ignore:the load_module")  # ml_collections, on reading a config
CHEAP = {"linear": {"labels_per_class": (1,), "trials": 2, "epochs": 1}}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of two steps."""
    workdir = tmp_path_factory.mktemp("evaluate") / "run"
    flags = ["--config.steps=2", "--config.batch_size=32", "--noreport"]
    assert cli.main(["pretrain", "--config=quickstart:test", f"--workdir={workdir}", *flags]) == 0
    return workdir


@pytest.fixture
def workdir(run, tmp_path):
    return shutil.copytree(run, tmp_path / "run")


def names(record):
    return [(row["features"], row["protocol"]) for row in record["results"]]


def test_results_grow_and_are_not_computed_again(workdir, monkeypatch):
    checkpoints = {p: p.read_bytes() for p in (workdir / "checkpoints").rglob("*") if p.is_file()}
    first = evaluate(workdir, protocols=["knn"], options={"knn": {"ks": (5,)}})
    assert len(first["results"]) == 3
    assert first["config"]["method"] == "simclr"
    grown = evaluate(workdir, protocols=["linear"], options=CHEAP)
    assert grown["results"][:3] == first["results"]
    assert len(grown["results"]) == 9
    assert grown == json.loads((workdir / "evaluation.json").read_text())

    monkeypatch.setattr(Experiment, "embed", lambda *args, **kwargs: pytest.fail("features are made again"))
    said = []
    options = {"knn": {"ks": (5,)}, **CHEAP}
    again = evaluate(workdir, protocols=["knn", "linear"], options=options, announce=said.append)
    assert again["results"] == grown["results"]
    assert said == ["this run: kept", "random encoder: kept", "raw pixels: kept"]
    assert checkpoints == {p: p.read_bytes() for p in (workdir / "checkpoints").rglob("*") if p.is_file()}


def test_an_interrupted_evaluation_keeps_what_it_has(workdir, monkeypatch):
    whole = protocols.PROTOCOLS["linear"]
    broken = protocols.Protocol(run=lambda subject, task: pytest.fail("interrupted"))
    monkeypatch.setitem(protocols.PROTOCOLS, "linear", broken)
    with pytest.raises(pytest.fail.Exception):
        evaluate(workdir, protocols=["knn", "linear"])
    assert names(results.read(workdir)) == [("this run", "k-NN, k = 20")]
    monkeypatch.setitem(protocols.PROTOCOLS, "linear", whole)
    assert len(evaluate(workdir, protocols=["knn", "linear"], options=CHEAP)["results"]) == 9


def test_the_same_again_takes_the_place_of_what_was_there(workdir):
    evaluate(workdir, protocols=["knn"], options={"knn": {"ks": (5,)}})
    record = evaluate(workdir, protocols=["knn"], options={"knn": {"ks": (5, 20)}})
    assert [row["protocol"] for row in results.asked(record)] == ["k-NN, k = 5", "k-NN, k = 20"] * 3
    assert [row["protocol"] for row in results.current(record)] == ["k-NN, k = 5", "k-NN, k = 20"] * 3
    other = evaluate(workdir, protocols=["knn"], options={"knn": {"ks": (5,)}}, seed=1)
    assert [row["of"]["seed"] for row in results.asked(other)] == [1] * 3


def test_results_of_another_version_are_left_behind(workdir, monkeypatch):
    evaluate(workdir, protocols=["knn"])
    monkeypatch.setattr("importlib.metadata.version", lambda name: "999")
    assert {row["protocol"] for row in evaluate(workdir, protocols=["linear"], options=CHEAP)["results"]} == {
        "linear",
        "linear, 1 label per class",
    }


def test_it_is_deterministic(workdir, run, tmp_path):
    other = shutil.copytree(run, tmp_path / "other")
    first, second = (evaluate(w, protocols=["knn", "linear"], options=CHEAP) for w in (workdir, other))
    assert first == second


def test_every_layer(workdir):
    every = ["stage1", "stage2", "projector1", "pooled"]
    record = evaluate(workdir, protocols=["knn"], layers=["all"])
    assert record["layers"] == every
    assert [row["of"].get("layer") for row in record["results"] if row["features"] == "this run"] == every
    assert [row["features"] for row in record["results"]].count("raw pixels") == 1
    lines = results.table(record).splitlines()
    assert [line.split("  ")[0] for line in lines[1:]] == [f"k-NN, k = 20, {layer}" for layer in every]
    raw = [line.split()[-1] for line in lines[1:]]
    assert len(set(raw)) == 1


def test_what_is_of_the_network_is_done_once_whatever_the_layers(workdir, monkeypatch):
    seen = []

    def count(subject, task, *, steps=3):
        """Count."""
        seen.append(subject.name)
        return [protocols.row("count", [0.5], steps=steps)]

    monkeypatch.setitem(protocols.PROTOCOLS, "count", protocols.Protocol(run=count, network=True))
    record = evaluate(workdir, protocols=["count"], layers=["stage1", "stage2"])
    assert seen == ["this run", "random encoder"]
    assert results.table(record).splitlines()[1].split() == ["count", "50.00", "50.00"]


def test_quality_needs_no_labels(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 12, 12, 3), np.uint8)
    for i, image in enumerate(pixels):
        (tmp_path / "photos").mkdir(exist_ok=True)
        Image.fromarray(image).save(tmp_path / "photos" / f"{i}.png")
    flags = ["--config.steps=2", "--config.batch_size=16", f"--config.data=folder:{tmp_path / 'photos'}", "--noreport"]
    assert cli.main(["pretrain", "--config=quickstart:test", f"--workdir={tmp_path / 'run'}", *flags]) == 0
    record = evaluate(tmp_path / "run", protocols=["quality"])
    assert len(record["results"]) == 18
    with pytest.raises(UserError, match="has no labels, without which there is no knn; for folders"):
        evaluate(tmp_path / "run", protocols=["knn", "quality"])


def test_the_table_shows_what_was_asked_for(workdir):
    evaluate(workdir, protocols=["knn"])
    record = evaluate(workdir, protocols=["linear"], options=CHEAP)
    assert "k-NN" not in results.table(record)
    assert results.table(record).count("linear") == 2


def test_the_table_is_of_the_options_asked_for(workdir):
    """Also where what was asked for is there already, and something else was evaluated since."""
    plain = results.table(evaluate(workdir, protocols=["knn"]))
    other = results.table(evaluate(workdir, protocols=["knn"], options={"knn": {"temperature": 5.0, "ks": (100,)}}))
    assert plain.splitlines()[1:] != other.splitlines()[1:]
    assert results.table(evaluate(workdir, protocols=["knn"])) == plain


def test_images_to_test_on_are_none_to_train_on(workdir):
    config = simclr.get_config("test")
    config.update(train_split="train[:100]", test_split="train[100:]")
    check_apart(config)
    for train, test in (("train+test", "test"), ("train[:100]", "train[99:]"), ("train", "train[:5]")):
        config.update(train_split=train, test_split=test)
        with pytest.raises(UserError, match="which has images of"):
            check_apart(config)
    record = json.loads((workdir / "run.json").read_text())
    record["config"]["test_split"] = "train"
    (workdir / "run.json").write_text(json.dumps(record))
    with pytest.raises(UserError, match=r"was trained on train of digits, which has images of train"):
        evaluate(workdir, protocols=["knn"])


def test_options_of_the_command_line(workdir, capsys):
    flags = ["--protocol=knn", "--set=knn.temperature=0.1", "--set=knn.ks=5,7", "--noreport"]
    assert cli.main(["evaluate", f"--workdir={workdir}", *flags]) == 0
    assert [row["setting"] for row in results.read(workdir)["results"]][:2] == [
        {"k": 5, "temperature": 0.1},
        {"k": 7, "temperature": 0.1},
    ]
    capsys.readouterr()
    for wrong, said in {
        "--set=knn.temprature=1": "Did you mean 'temperature'?",
        "--set=knn.temperature=high": "something like 0.07, not 'high'",
        "--set=knn.ks=5,some": "something like (20,), not",
        "--set=linear.trials=1": "one of the protocols asked for (knn)",
        "--set=knn.temperature": "NAME.OPTION=VALUE",
    }.items():
        assert cli.main(["evaluate", f"--workdir={workdir}", "--protocol=knn", wrong]) == 1
        assert said in capsys.readouterr().err
    assert cli.main(["evaluate", "--protocol=help"]) == 0
    assert capsys.readouterr().out == protocols.describe() + "\n"


@pytest.mark.parametrize("name", protocols.PROTOCOLS)
def test_every_protocol_describes_itself(name):
    assert f"{name}: " in protocols.describe()
    assert "=" in protocols.describe().split(f"{name}: ")[1].splitlines()[1]


def test_unknown_protocol(workdir):
    with pytest.raises(UserError, match=r"Unknown protocol 'linaer'; .* Did you mean 'linear'"):
        evaluate(workdir, protocols=["linaer"])
