"""Buckets, stood in for by fsspec's file system in memory."""

import fsspec
import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from ssl_jax import cli, data
from ssl_jax.core import UserError
from ssl_jax.data import files
from ssl_jax.pretrain import pretrain


@pytest.fixture
def folder(tmp_path):
    """Twelve images in two classes and two splits, here and in a bucket."""
    for i in range(12):
        path = tmp_path / "pets" / ("train" if i < 9 else "val") / f"class{i % 2}" / f"n_{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((6, 5, 3), i, np.uint8)).save(path)
    (tmp_path / "pets" / "train" / ".hidden").mkdir()
    (tmp_path / "pets" / "train" / ".hidden" / "x.png").write_bytes(b"x")
    memory = fsspec.filesystem("memory")
    memory.store.clear()
    for path in (tmp_path / "pets").rglob("*.png"):
        memory.pipe_file(f"/bucket/{path.relative_to(tmp_path)}", path.read_bytes())
    yield tmp_path / "pets"
    memory.store.clear()


@pytest.mark.parametrize("in_memory", [True, False])
@pytest.mark.parametrize("name", ["memory://bucket/pets", "memory://bucket/pets/", "file://{folder}"])
def test_a_folder_is_the_same_there(folder, name, in_memory):
    name = "folder:" + name.replace("{folder}", str(folder))
    for split in ("train", "test"):
        local, remote = data.load(f"folder:{folder}", split), data.load(name, split, in_memory=in_memory)
        rows = np.arange(len(local))
        np.testing.assert_array_equal(remote[rows]["image"], local.images)
        np.testing.assert_array_equal(remote.labels, local.labels)
        assert (remote.files.tolist(), remote.classes) == (local.files.tolist(), local.classes)
    assert data.split_names(name) == ("train", "val")


def test_data_dir_may_be_remote(folder):
    assert len(data.load("folder:pets", data_dir="memory://bucket")) == 9


def test_files_that_are_gone_or_no_images_are_replaced(folder):
    memory = fsspec.filesystem("memory")
    memory.pipe_file("/bucket/pets/train/class0/n_0.png", b"no image")
    source = data.load("folder:memory://bucket/pets", in_memory=False)
    assert len(source) == 8  # a sample of a hundred files is looked at before
    name = source.files[2]
    memory.rm(f"/bucket/pets/train/{name}")
    batch = source[np.arange(3)]
    np.testing.assert_array_equal(batch["label"], batch["image"][:, 0, 0, 0] % 2)
    assert (name, "empty file") in data.check(source)


def test_what_cannot_be_reached(monkeypatch):
    with pytest.raises(UserError, match="there is no directory memory://bucket/nowhere"):
        data.load("folder:memory://bucket/nowhere")
    with pytest.raises(UserError, match="there is no file system gopher://; use gs://, s3:// or a local path"):
        data.load("folder:gopher://x/y")
    for protocol, extra in (("gs", "gcs"), ("s3", "s3")):
        with pytest.raises(
            UserError, match=rf"needs a package that is not installed; pip install 'ssl_jax\[{extra}\]'"
        ):
            data.load(f"tar:{protocol}://bucket/a.tar")


def test_errors_of_the_network_are_sentences(folder, monkeypatch):
    source = data.load("folder:memory://bucket/pets", in_memory=False)

    def fail(self, path, *args, **kwargs):
        raise PermissionError("403 Forbidden")

    monkeypatch.setattr(type(fsspec.filesystem("memory")), "cat_file", fail)
    message = (
        r"memory://bucket/pets/train/class\d/n_\d.png can't be read \(PermissionError: 403 Forbidden\); check the path"
    )
    with pytest.raises(UserError, match=message):
        source[np.arange(2)]


@pytest.mark.filterwarnings("ignore:the load_module")  # ml_collections, on reading a config
@pytest.mark.parametrize(
    ("command", "what"),
    [
        ("data describe tfds:x --data_dir=gs://bucket/x", "a prepared data set"),
        ("data describe hf:s3://bucket/x", "what Hugging Face's datasets saved"),
        ("data describe coco:x --data_dir=gs://bucket", "images with boxes"),
        ("data prepare digits --out=gs://bucket", "--out"),
        ("pretrain --config=simclr:test --workdir=s3://bucket/run", "--workdir"),
        ("evaluate --workdir=memory://bucket/run", "--workdir"),
    ],
)
def test_what_must_be_on_a_disk(command, what, tmp_path, monkeypatch):
    """Such an address must not become the name of a directory here."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=f"is in a bucket, and {what} must be on a disk: mount the bucket"):
        cli.run(command.split())
    with pytest.raises(UserError, match="and a workdir must be on a disk"):
        pretrain(ConfigDict(), "gs://bucket/run")
    assert not list(tmp_path.iterdir())


def test_places_to_write_to_on_this_machine(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    for given in ("~/run", f"file://{tmp_path}/run"):
        with pytest.raises(UserError, match=rf"There is no run in {tmp_path}/run \("):
            cli.run(["evaluate", f"--workdir={given}"])


def test_places():
    assert files.locate("file:///a/b") == "/a/b"
    assert files.locate("b", "gs://x/") == "gs://x/b"
    assert files.locate("s3://y/z", "/a") == "s3://y/z"
    assert files.locate("/b", "/a") == "/b"
