"""Every protocol through the command line's door, on a run of two steps: rows for each kind of features."""

import math

import pytest

from ssl_jax import cli, protocols, results
from ssl_jax.core import UserError
from ssl_jax.evaluate import evaluate

pytestmark = pytest.mark.filterwarnings("ignore:the load_module")  # ml_collections, on reading a config
# What makes them quick, and how many rows each gives for one kind of features.
CHEAP = {
    "knn": ({"ks": (5, 20), "metric": "l2", "votes": "uniform"}, 2),
    "linear": ({"labels_per_class": (1, 10_000), "trials": 2, "epochs": 1}, 2),
    "augmented": ({"epochs": 1}, 1),
    "svm": ({"shots": (1, 2), "trials": 2, "costs": (0.1,)}, 3),
    "fewshot": ({"episodes": 20, "queries": 2}, 2),
    "retrieval": ({"ks": (1,)}, 5),
    "quality": ({"sample": 50}, 5),
    "semi": ({"shares": (0.01,), "trials": 1}, 1),
    "curve": ({"labels_per_class": (1,), "trials": 1}, 1),
    "finetune": ({"epochs": 1.0, "ema": 0.9}, 2),
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
    table = results.table(record).splitlines()
    assert len(table) == count + 1
    assert all(kind in table[0] for kind in kinds)


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
    ],
)
def test_bad_options(workdir, name, options, said):
    before = results.read(workdir)
    with pytest.raises(UserError, match=said):
        evaluate(workdir, protocols=[name], options={name: options})
    assert results.read(workdir) == before
