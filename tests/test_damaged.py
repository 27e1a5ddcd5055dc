"""Runs on images that are read as they are needed: crops by the host, damaged images written down, and a limit."""

import json

import numpy as np
import pytest
import recipes
from ml_collections import ConfigDict
from PIL import Image
from sklearn.datasets import load_sample_images

from ssl_jax import UserError, data, workdir
from ssl_jax.damaged import FILE, Damaged
from ssl_jax.data import lazy
from ssl_jax.experiment import build
from ssl_jax.gallery import write_report
from ssl_jax.pretrain import pretrain
from ssl_jax.progress import log_shown
from ssl_jax.verify import verify

FIELDS = {"steps": 3, "log_every": 1, "checkpoint_every": 3, "knn_every": -1, "probe": False, "view_size": 8}


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """Ninety parts of photographs, three of them cut short."""
    monkeypatch.setattr(lazy, "IN_MEMORY_BYTES", 0)
    root = tmp_path / "photos"
    root.mkdir()
    images = load_sample_images().images
    for i in range(90):
        path = root / f"{i:02}.jpg"
        Image.fromarray(images[i % 2][3 * i : 3 * i + 40, 5 * i : 5 * i + 50]).save(path)
        if i % 30 == 7:
            path.write_bytes(path.read_bytes()[:-300])
    return root


def config(photos, **fields):
    made = recipes.config("simclr", **{"data": f"folder:{photos}", "image_size": 8, **FIELDS, **fields})
    if made.augment == "perturbed":
        made.augment_args = ConfigDict()
    return made


def test_a_run_of_crops(photos, tmp_path, capsys):
    """It repeats to the bit, names what is damaged, stops above a limit, and goes on when that is raised.

    The report reads the damaged images again, shows others in their place, and says so no second time.
    """
    workdir_ = tmp_path / "run"
    train = len(data.load(f"folder:{photos}", "train", image_size=8))
    with pytest.raises(UserError, match=r"images of .* are damaged, more than the share of 0\.01 .* mend or remove"):
        pretrain(config(photos), workdir_, announce=lambda text: None)
    first = (workdir_ / FILE).read_text()
    with log_shown():
        pretrain(config(photos, max_damaged=0.5), workdir_, announce=lambda text: None)
        assert "neighbours" in write_report(workdir_).read_text()
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("damaged image of")]
    assert len(set(said)) == len(said) > 0
    rows = [json.loads(line) for line in (workdir_ / FILE).read_text().splitlines()]
    assert (workdir_ / FILE).read_text().startswith(first)
    assert {row["file"] for row in rows} <= {"07.jpg", "37.jpg", "67.jpg"}
    assert {row["why"] for row in rows} == {"truncated"}
    assert len({row["file"] for row in rows}) == len(rows) > 0.01 * train
    record, metrics = workdir.read_run(workdir_), workdir.read_metrics(workdir_)
    assert "cropped by fast (simplejpeg" in record["data"]["train"]
    assert [row["step"] for row in metrics] == [1, 2, 3]
    assert all(0 <= row["data_wait"] < 1 for row in metrics)
    assert verify(workdir_, steps=3).differs is None
    with pytest.raises(UserError, match=r"data: .* cropped by fast .* -> .* cropped by pillow"):
        pretrain(config(photos, max_damaged=0.5, decoder="pillow"), workdir_, announce=lambda text: None)


def test_who_crops(photos):
    assert isinstance(build(config(photos)).inputs, data.CroppedSource)
    for fields in ({"host_crop": "no"}, {"augment": "perturbed"}):
        parts = build(config(photos, **fields))
        assert parts.inputs is parts.source
    parts = build(recipes.config("simclr"))
    assert parts.inputs is parts.source, "in memory"
    for fields, words in (
        ({"host_crop": "maybe"}, "config.host_crop is auto, yes or no, not 'maybe'"),
        ({"host_crop": "yes", "augment": "perturbed"}, "no independent crops of the image"),
        ({"decoder": "turbo"}, "auto, pillow or fast"),
    ):
        with pytest.raises(UserError, match=words):
            build(config(photos, **fields))
    with pytest.raises(UserError, match="is in memory"):
        build(recipes.config("simclr", host_crop="yes"))


def test_limit(tmp_path):
    source = data.from_arrays(np.zeros((50, 4, 4, 1), np.uint8), name="fifty")
    source.in_memory = False
    source.damaged = {"a\udcff.png": "truncated"}
    found = Damaged(source, tmp_path, limit=0.02)
    assert found.look(5) is None
    source.damaged = {**source.damaged, "b.png": "empty file"}
    error = found.look(7)
    assert "2 of the 50 images of fifty" in str(error)
    assert "a\\udcff.png (truncated), b.png (empty file)" in str(error)
    again = Damaged(source, tmp_path, limit=0.02)
    assert again.known == source.damaged
    assert str(again.look(8)) == str(error)
    assert [json.loads(line)["step"] for line in (tmp_path / FILE).read_text().splitlines()] == [5, 7]
    assert Damaged(source, tmp_path, limit=0.0).look(0) is not None
    source.in_memory = True  # what is damaged was left out, and counts as well
    assert "2 of the 52 images" in str(Damaged(source, tmp_path, limit=0.03).look(0))
    assert Damaged(source, tmp_path, limit=0.04).look(0) is None
    with pytest.raises(UserError, match="between 0 and 1"):
        Damaged(source, tmp_path, limit=1.5)


def test_half_a_line_ends_neither_the_list_nor_the_count(tmp_path):
    """As a full disk and a loss of power leave it, the second with zeros."""
    source = data.from_arrays(np.zeros((50, 4, 4, 1), np.uint8), name="fifty")
    source.in_memory = False
    for i, half in enumerate(['{"file": "x.png", "wh', "\0" * 9]):
        with (tmp_path / FILE).open("a") as file:
            file.write(half)
        source.damaged = {f"{i}.png": "truncated"}
        assert Damaged(source, tmp_path, limit=1.0).look(i) is None
        found = Damaged(source, tmp_path, limit=0.02)
        assert list(found.known) == [f"{k}.png" for k in range(i + 1)]
    whole = (tmp_path / FILE).read_text()
    assert whole.count("\n") == 4
    assert "2 of the 50 images" in str(found.look(2))
    assert (tmp_path / FILE).read_text() == whole, "no entry twice"
