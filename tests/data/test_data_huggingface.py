"""Sets that Hugging Face's `datasets` wrote; it is not needed to read them, and not installed here."""

import json
import pathlib
import shutil
import sys

import numpy as np
import pyarrow
import pytest
from pyarrow import parquet

from ssl_jax import data
from ssl_jax.core import UserError
from ssl_jax.data import tables

HERE = pathlib.Path(__file__).parents[1] / "fixtures" / "huggingface"


def greys(source) -> np.ndarray:
    return source[np.arange(len(source))]["image"][:, 0, 0, 0]


@pytest.mark.parametrize("in_memory", [True, False])
@pytest.mark.parametrize("kind", ["saved", "parquet"])
def test_reads_what_datasets_wrote(kind, in_memory, monkeypatch):
    monkeypatch.setattr(tables, "KEPT_BYTES", 1)  # one group of rows at a time
    source = data.load(f"hf:{HERE / kind}", "train+test", in_memory=in_memory)
    np.testing.assert_array_equal(np.sort(greys(source)), np.arange(12))
    np.testing.assert_array_equal(source.labels, greys(source) % 2)
    np.testing.assert_array_equal([f"n_{grey}.png" for grey in greys(source)], source.files)
    assert source.classes == ("even", "odd")
    assert set(data.split_names(f"hf:{HERE / kind}")) == {"train", "test"}
    order = np.array([11, 0, 7, 3, 7])
    np.testing.assert_array_equal(source[order]["image"], source[np.arange(12)]["image"][order])
    assert "datasets" not in sys.modules


def test_one_saved_dataset_is_the_training_split():
    source = data.load(f"hf:{HERE}/saved/train", "train[:50%]")
    assert len(source) == 4
    with pytest.raises(UserError, match=r"has no split 'test'; it has train"):
        data.load(f"hf:{HERE}/saved/train", "test")
    assert source.fingerprint != data.load(f"hf:{HERE}/saved/train").fingerprint


def test_lists_of_names(tmp_path):
    (tmp_path / "ids.txt").write_text("n_4.png\nn_1.png\n")
    np.testing.assert_array_equal(greys(data.load(f"hf:{HERE}/saved", f"train[@{tmp_path}/ids.txt]")), [4, 1])


def write(directory: pathlib.Path, table: dict) -> str:
    directory.mkdir()
    parquet.write_table(pyarrow.table(table), directory / "train-0.parquet")
    return f"hf:{directory}"


def test_parquet_of_others(tmp_path):
    """Without what `datasets` says of columns: bytes are images, whole numbers called label are labels."""
    saved = tables.Table([HERE / "parquet" / "data" / "train-00000-of-00001.parquet"])
    images = saved.images("image", range(4))
    source = data.load(write(tmp_path / "plain", {"id": [1, 2, 3, 4], "picture": images, "label": [2, 0, 1, 2]}))
    assert source.classes == ("0", "1", "2")
    np.testing.assert_array_equal(source.labels, [2, 0, 1, 2])
    unlabelled = data.load(write(tmp_path / "unlabelled", {"picture": images, "label": [-1] * 4}))
    assert unlabelled.labels is None
    with pytest.raises(UserError, match=r"can't be read \(label holds 4611686018427387904, more classes than"):
        data.load(write(tmp_path / "huge", {"picture": images, "label": [0, 1, 2, 2**62]}))
    broken = data.load(write(tmp_path / "broken", {"picture": [*images[:3], None]}), in_memory=False)
    assert data.check(broken) == [("3", "empty file")]
    with pytest.raises(UserError, match=r"has no image in 2 rows of text"):
        data.load(write(tmp_path / "text", {"text": ["a", "b"]}))


def test_bad_directories(tmp_path):
    with pytest.raises(UserError, match=r"is no data set of Hugging Face: .*for images in folders use folder:PATH"):
        data.load(f"hf:{tmp_path}")
    saved = tmp_path / "saved"
    shutil.copytree(HERE / "saved" / "train", saved)
    (saved / "data-00001-of-00002.arrow").write_bytes(b"ARROW")
    with pytest.raises(UserError, match=r"hf:.* can't be read .*; save or copy it again"):
        data.load(f"hf:{saved}")
    (saved / "data-00001-of-00002.arrow").unlink()
    with pytest.raises(UserError, match=r"lacks data-00001-of-00002.arrow; save or copy it again"):
        data.load(f"hf:{saved}")
    (saved / "state.json").write_text("{")
    with pytest.raises(UserError, match=r"state.json can't be read"):
        data.load(f"hf:{saved}")


def test_without_pyarrow(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UserError, match=r"needs pyarrow, which is not installed; pip install 'ssl_jax\[hf\]'"):
        data.load(f"hf:{HERE}/saved")


def test_names_in_its_files_lead_nowhere(tmp_path):
    """A saved set that names files elsewhere is read from its own directory, or not at all."""
    saved = tmp_path / "saved"
    saved.mkdir()
    secret = tmp_path / "secret.arrow"
    shutil.copy(HERE / "saved" / "train" / "data-00000-of-00002.arrow", secret)
    (saved / "state.json").write_text(json.dumps({"_data_files": [{"filename": "../secret.arrow"}]}))
    with pytest.raises(UserError, match=r"lacks secret.arrow"):
        data.load(f"hf:{saved}")
