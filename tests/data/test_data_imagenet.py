"""ImageNet's archives, in a replica of the same layout: tar files in a tar file, labels in a development kit."""

import gzip
import io
import pathlib
import warnings

import numpy as np
import pytest
from PIL import Image
from scipy import io as matlab
from tars import tar

from ssl_jax import cli, data
from ssl_jax.core import UserError
from ssl_jax.data import imagenet

WNIDS = ("n01440764", "n01443537", "n01484850")  # the first three of ImageNet
IDS = {2: "n01440764", 1: "n01443537", 3: "n01484850"}  # the kit counts in another order
TRUTH = (2, 2, 3, 1, 3)


def jpeg(number: int, size=(20, 16)) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.full((*size, 3), number, np.uint8)).save(file, "JPEG", quality=95)
    return file.getvalue()


def kit() -> bytes:
    fields = [("ILSVRC2012_ID", object), ("WNID", object), ("words", object), ("num_children", object)]
    rows = [(i, wnid, f"fish {i}", 0) for i, wnid in sorted(IDS.items())] + [(1001, "n00001740", "entity", 5)]
    meta = io.BytesIO()
    matlab.savemat(meta, {"synsets": np.array(rows, dtype=fields).reshape(-1, 1)})
    base = "ILSVRC2012_devkit_t12/data/"
    truth = "".join(f"{number}\n" for number in TRUTH).encode()
    return gzip.compress(tar({f"{base}meta.mat": meta.getvalue(), f"{base}{imagenet.TRUTH}": truth}))


@pytest.fixture(scope="module")
def archives(tmp_path_factory) -> pathlib.Path:
    """Three classes of six images for training, and five for validation."""
    directory = tmp_path_factory.mktemp("imagenet")
    classes = {}
    for c, wnid in enumerate(WNIDS):
        members = {f"{wnid}_{i}.JPEG": jpeg(80 * c + i, size=(20 + i, 16)) for i in range(6)}
        classes[f"{wnid}.tar"] = tar(members)
    (directory / imagenet.TRAIN).write_bytes(tar(classes))
    val = {f"ILSVRC2012_val_{i + 1:08}.JPEG": jpeg(10 * i) for i in reversed(range(5))}
    (directory / imagenet.VAL).write_bytes(tar(val))
    (directory / imagenet.DEVKIT).write_bytes(kit())
    return directory


def test_training_images(archives):
    source = data.load(f"imagenet:{archives}", image_size=16)
    assert (len(source), source.classes) == (18, WNIDS)
    greys = source[np.arange(18)]["image"][:, 8, 8, 0].astype(int)
    for name, label, grey in zip(source.files, source.labels, greys, strict=True):
        wnid, _, base = name.partition("/")
        number = int(base.removesuffix(".JPEG").partition("_")[2])
        assert WNIDS[label] == wnid == base.partition("_")[0]
        assert abs(grey - (80 * label + number)) <= 1


@pytest.mark.parametrize("split", ["test", "validation"])
def test_validation_images_have_the_kits_labels(archives, split):
    source = data.load(f"imagenet:{archives}", split, image_size=16)
    assert source.classes == WNIDS
    greys = np.round(source[np.arange(5)]["image"][:, 8, 8, 0] / 10).astype(int)
    assert [IDS[TRUTH[i]] for i in greys] == [WNIDS[label] for label in source.labels]
    assert [f"ILSVRC2012_val_{i + 1:08}.JPEG" for i in greys] == source.files.tolist()


def test_the_fields_lists_choose_by_file_name(archives, tmp_path):
    (tmp_path / "1percent.txt").write_text("n01443537_4.JPEG\nn01440764_0.JPEG\n")
    source = data.load(f"imagenet:{archives}", f"train[@{tmp_path}/1percent.txt]", image_size=16)
    assert source.labels.tolist() == [1, 0]


def test_prepared_it_is_what_tensorflow_datasets_calls_imagenet2012(archives, tmp_path, capsys):
    assert cli.main(["data", "prepare", f"imagenet:{archives}", f"--out={tmp_path}"]) in (None, 0)
    assert "18 train, 5 validation in" in capsys.readouterr().err
    for split, theirs in (("train", "train"), ("test", "validation")):
        original = data.load(f"imagenet:{archives}", split, image_size=16)
        source = data.load("tfds:imagenet2012", split, data_dir=tmp_path, image_size=16)
        np.testing.assert_array_equal(source.images, original.images)
        assert source.files.tolist() == original.files.tolist()
        assert len(source.classes) == 1000
        assert [source.classes[i] for i in source.labels] == [original.classes[i] for i in original.labels]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import tensorflow_datasets as tfds

            records = list(tfds.data_source("imagenet2012", split=theirs, data_dir=tmp_path, download=False))
        assert [record["file_name"].decode() for record in records] == [
            name.rpartition("/")[2] for name in original.files
        ]
        assert [record["label"] for record in records] == source.labels.tolist()


def test_labels_that_tensorflow_datasets_knows():
    """Without the kit: of all 50,000 images, in the order of their names; the first is a snake (n01751748)."""
    labels = imagenet._known_labels()
    assert (len(labels), len(set(labels)), labels[0]) == (50_000, 1000, "n01751748")
    np.testing.assert_array_equal(np.unique(labels, return_counts=True)[1], 50)


def test_what_can_be_missing(archives, tmp_path):
    with pytest.raises(UserError, match=r"lacks ILSVRC2012_img_train.tar; get it from https://image-net.org"):
        data.load(f"imagenet:{tmp_path}", image_size=16)
    with pytest.raises(UserError, match=r"has no split 'dev'"):
        data.load(f"imagenet:{archives}", "dev", image_size=16)
    (tmp_path / imagenet.VAL).write_bytes((archives / imagenet.VAL).read_bytes())
    with pytest.raises(UserError, match=r"has 5 images, but the list for all of it .* 50,000 labels"):
        data.load(f"imagenet:{tmp_path}", "test", image_size=16)
    (tmp_path / imagenet.DEVKIT).write_bytes((archives / imagenet.DEVKIT).read_bytes())
    assert len(data.load(f"imagenet:{tmp_path}", "test", image_size=16)) == 5
    assert data.split_names(f"imagenet:{tmp_path}") == ("validation",)
    for content, message in (
        (b"x", "can't be unpacked"),
        (gzip.compress(tar({"a": b""})), "is not the development kit of ILSVRC 2012"),
    ):
        (tmp_path / imagenet.DEVKIT).write_bytes(content)
        with pytest.raises(UserError, match=message):
            data.load(f"imagenet:{tmp_path}", "test", image_size=16)
