"""Any source as array_record files that tensorflow-datasets reads, written again after a kill."""

import errno
import json
import os
import pathlib
import signal
import subprocess
import sys
import warnings

import numpy as np
import pytest
from PIL import Image

from ssl_jax import data, lock
from ssl_jax.core import UserError
from ssl_jax.data import preparing

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import tensorflow_datasets as tfds


@pytest.fixture
def folder(tmp_path) -> pathlib.Path:
    """Thirty JPEG files of several sizes in two classes, one of them cut off."""
    for i in range(30):
        path = tmp_path / "pets" / f"class{i % 2}" / f"n_{i:02}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(i).integers(0, 255, (20 + i, 16, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(path)
    cut = tmp_path / "pets" / "class1" / "n_07.jpg"
    cut.write_bytes(cut.read_bytes()[:-200])
    return tmp_path / "pets"


def opened(name: str, splits=("train", "test")) -> dict[str, data.Source]:
    return {split: data.load(name, split, image_size=1, in_memory=False) for split in splits}


def contents(directory: pathlib.Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def by_tfds(name: str, directory: pathlib.Path, split: str, **arguments):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return list(tfds.data_source(name, data_dir=directory, split=split, download=False, **arguments))


def test_files_keep_their_bytes_names_and_labels(folder, tmp_path):
    sources, seen = opened(f"folder:{folder}"), []
    made = data.prepare(
        sources, "pets", tmp_path / "out", shard_images=8, progress=lambda done, total: seen.append((done, total))
    )
    assert sum(made.counts.values()) == 29
    ((split, name, reason),) = made.broken
    assert (split in sources, name, "truncated" in reason) == (True, "class1/n_07.jpg", True)
    assert seen[-1] == (30, 30)
    for split in sources:
        source = data.load("tfds:pets", split, data_dir=tmp_path / "out", image_size=16)
        kept = [file for file in sources[split].files if file != "class1/n_07.jpg"]
        assert source.files.tolist() == kept
        assert source.classes == ("class0", "class1")
        assert source.labels.tolist() == [int(file[5]) for file in kept]
        records = by_tfds("pets", tmp_path / "out", split, decoders={"image": tfds.decode.SkipDecoding()})
        assert [record["image"] for record in records] == [(folder / file).read_bytes() for file in kept]
        assert [record["file_name"].decode() for record in records] == kept
    assert "tensorflow" not in sys.modules
    chosen = next(file for file in sources["train"].files if file.startswith("class0"))
    (tmp_path / "ids.txt").write_text(pathlib.PurePath(chosen).name)
    listed = data.load("tfds:pets", f"train[@{tmp_path}/ids.txt]", data_dir=tmp_path / "out", image_size=4)
    assert listed.labels.tolist() == [0]


def test_arrays_are_found_again_by_the_stock_name(tmp_path):
    """Of a data set that tensorflow-datasets knows, its version and features; of others one shape if they have one."""
    train = data.load("fashion_mnist", "train[:50]")
    made = data.prepare({"train": train}, "fashion_mnist", tmp_path)
    assert made.path == tmp_path / "fashion_mnist" / "3.0.1"
    np.testing.assert_array_equal(
        [record["image"] for record in by_tfds("fashion_mnist", tmp_path, "train")], train.images
    )
    data.prepare({"train": data.load("digits", "train[:50]")}, "digits", tmp_path)
    again = data.load("tfds:digits", data_dir=tmp_path)
    np.testing.assert_array_equal(again.images, data.load("digits", "train[:50]").images)
    with pytest.raises(UserError, match=r"knows a data set 'mnist' with other classes .* such as --name=my_mnist"):
        data.prepare({"train": train}, "mnist", tmp_path)
    with pytest.raises(UserError, match=r"knows a data set 'cifar10' with id, which is not there"):
        data.prepare({"train": train}, "cifar10", tmp_path)


def test_unlabelled_joined_and_chosen(tmp_path):
    images = np.arange(12, dtype=np.uint8).reshape(12, 1, 1).repeat(4, axis=1).repeat(4, axis=2)
    plain = data.from_arrays(images)
    data.prepare({"train": data.Subset(plain, np.array([5, 1, 3]))}, "few", tmp_path)
    source = data.load("tfds:few", data_dir=tmp_path)
    assert source.labels is None
    np.testing.assert_array_equal(source.images[:, 0, 0, 0], [5, 1, 3])
    labelled = data.from_arrays(images, np.arange(12) % 2)
    data.prepare({"train": data.Mixture([labelled, labelled], [1, 2], "both")}, "both", tmp_path)
    both = data.load("tfds:both", data_dir=tmp_path)
    np.testing.assert_array_equal(both.images[:, 0, 0, 0], np.tile(np.arange(12), 2))
    np.testing.assert_array_equal(both.labels, np.tile(np.arange(12) % 2, 2))


KILLED = """
import os, signal, sys
from ssl_jax import data
name, out, stop = sys.argv[1], sys.argv[2], int(sys.argv[3])
def progress(done, total):
    if done >= stop:
        os.kill(os.getpid(), signal.SIGKILL)
sources = {s: data.load(name, s, image_size=1, in_memory=False) for s in ("train", "test")}
data.prepare(sources, "pets", out, shard_images=4, progress=progress)
"""


def test_goes_on_after_a_kill(folder, tmp_path, monkeypatch):
    name = f"folder:{folder}"
    whole = data.prepare(opened(name), "pets", tmp_path / "whole", shard_images=4)
    command = [sys.executable, "-c", KILLED, name, str(tmp_path / "out"), "18"]
    assert subprocess.run(command, capture_output=True, check=False).returncode == -signal.SIGKILL
    with pytest.raises(UserError, match="is not prepared in"):
        data.load("tfds:pets", data_dir=tmp_path / "out", image_size=4)
    unfinished = tmp_path / "out" / "pets" / "1.0.0.incomplete"
    done = {path.name: path.stat().st_mtime_ns for path in unfinished.glob("*.array_record-?????-of-?????")}
    assert 3 <= len(done) < 8
    with pytest.raises(UserError, match="was begun with other data or settings; remove it, or give another --out"):
        data.prepare(opened(name), "pets", tmp_path / "out", shard_images=5)
    made = data.prepare(opened(name), "pets", tmp_path / "out", shard_images=4)
    assert {path: (made.path / path).stat().st_mtime_ns for path in done} == done  # not written again
    assert (made.counts, made.broken) == (whole.counts, whole.broken)
    for split in ("train", "test"):
        one, other = (
            data.load("tfds:pets", split, data_dir=tmp_path / where, image_size=8) for where in ("whole", "out")
        )
        np.testing.assert_array_equal(one.images, other.images)
        assert one.files.tolist() == other.files.tolist()
    assert sorted(path.name.split(".")[-1] for path in made.path.iterdir()) == sorted(
        path.name.split(".")[-1] for path in whole.path.iterdir()
    )


def test_is_left_alone_when_it_is_there(tmp_path):
    digits = {"train": data.load("digits", "train[:20]")}
    made = data.prepare(digits, "digits", tmp_path)
    before = contents(tmp_path)
    assert data.prepare(digits, "digits", tmp_path) == made
    with pytest.raises(UserError, match="holds other data already; remove it, or give another --out or --name"):
        data.prepare({"train": data.load("digits", "train[:21]")}, "digits", tmp_path)
    assert contents(tmp_path) == before
    (tmp_path / "other" / "1.0.0.incomplete").mkdir(parents=True)
    (tmp_path / "other" / "1.0.0.incomplete" / "x").write_text("mine")
    with pytest.raises(UserError, match=r"1.0.0.incomplete is not empty; remove it"):
        data.prepare(digits, "other", tmp_path)


def test_one_at_a_time(tmp_path):
    digits, seen = {"train": data.load("digits", "train[:9]")}, []

    def second(done: int, total: int) -> None:
        with pytest.raises(
            UserError, match=r"Another run is at work in .*1\.0\.0\.incomplete \(process \d+ on .*--out or --name"
        ):
            data.prepare(digits, "digits", tmp_path)
        seen.append(done)

    data.prepare(digits, "digits", tmp_path, progress=second)
    assert seen
    assert not list(tmp_path.rglob(".lock"))


def test_goes_on_after_a_full_disk(tmp_path, monkeypatch):
    """It is full when the plan is written, and then when a file is closed."""
    digits, write = {"train": data.load("digits", "train[:9]")}, pathlib.Path.write_text

    def full(path, content, **arguments):
        write(path, content[:5], **arguments)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(pathlib.Path, "write_text", full)
        with pytest.raises(OSError, match="No space left on device"):
            data.prepare(digits, "digits", tmp_path)
    unfinished = tmp_path / "digits" / "1.0.0.incomplete"
    assert {path.name for path in unfinished.iterdir()} == {".lock", "plan.json.writing"}
    shard = unfinished / "digits-train.array_record-00000-of-00001"
    draft = shard.with_name(f"{shard.name}.writing")
    draft.symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left on device") as error:
        data.prepare(digits, "digits", tmp_path)
    assert (error.value.errno, error.value.filename) == (errno.ENOSPC, str(shard))
    draft.unlink()
    assert data.prepare(digits, "digits", tmp_path).counts == {"train": 9}


def test_what_another_process_has_finished_is_not_made_again(tmp_path, monkeypatch):
    """It ends between the first look and the lock."""
    digits, hold = {"train": data.load("digits", "train[:9]")}, lock.hold

    def late(directory, *arguments, **names):
        monkeypatch.setattr(lock, "hold", hold)
        made.append(data.prepare(digits, "digits", tmp_path))
        return hold(directory, *arguments, **names)

    made, seen = [], []
    monkeypatch.setattr(lock, "hold", late)
    assert data.prepare(digits, "digits", tmp_path, progress=lambda done, total: seen.append(done)) == made[0]
    assert not seen
    assert [path.name for path in (tmp_path / "digits").iterdir()] == [made[0].path.name]


def test_no_name_before_the_disk_has_the_bytes(tmp_path, monkeypatch):
    """So that a loss of power leaves no empty file under a final name."""
    synced, renamed, sync, replace = set(), [], os.fsync, os.replace

    def fsync(number):
        synced.add(os.fstat(number).st_ino)
        sync(number)

    def rename(old, new, **arguments):
        whole = pathlib.Path(old)
        files = [path for path in whole.iterdir() if path.name != lock.FILE] if whole.is_dir() else [whole]
        assert {path.name for path in files if path.stat().st_ino not in synced} == set()
        renamed.append(pathlib.Path(new).name)
        replace(old, new, **arguments)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(preparing.os, "replace", rename)
    data.prepare({"train": data.load("digits", "train[:9]")}, "digits", tmp_path)
    shard = "digits-train.array_record-00000-of-00001"
    assert {"plan.json", shard, f"{shard}.json", "prepared.json", "1.0.0"} <= set(renamed)


def test_what_cannot_be_prepared(tmp_path):
    digits = data.load("digits", "train[:20]")
    with pytest.raises(UserError, match="the name 'My Set' must be lower-case letters, digits and _"):
        data.prepare({"train": digits}, "My Set", tmp_path)
    with pytest.raises(UserError, match="the splits train, test differ in their classes"):
        data.prepare({"train": digits, "test": data.load("photos", "test[:9]")}, "both", tmp_path)
    boxed = data.load("collage:fashion_mnist", "train[:4]", image_size=32)
    with pytest.raises(UserError, match="has boxes; this works on images with a label or none"):
        data.prepare({"train": boxed}, "boxes", tmp_path)
    for i in range(3):
        path = tmp_path / "bad" / f"{i}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(np.random.default_rng(i).integers(0, 255, (40, 40, 3)).astype(np.uint8)).save(path)
        path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(UserError, match=r"2 images of folder:.* in a row are broken; see ssl-jax data check"):
        data.prepare(opened(f"folder:{tmp_path}/bad", ("train",)), "bad", tmp_path / "out")
    assert not json.loads((tmp_path / "out" / "bad" / "1.0.0.incomplete" / "plan.json").read_text()).get("broken")
