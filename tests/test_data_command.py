"""`ssl-jax data` as a user types it."""

import json
import os

import numpy as np
import pytest
from PIL import Image

from ssl_jax import cli, data, data_command

pytestmark = pytest.mark.filterwarnings("ignore:the load_module")  # ml_collections, on reading a config


@pytest.fixture(scope="module")
def pets(tmp_path_factory):
    """Forty images in two classes, with one that is cut off and one that is none."""
    directory = tmp_path_factory.mktemp("data") / "My Pets"
    for i in range(40):
        path = directory / ("cat" if i % 2 else "dog") / f"n_{i:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(i).integers(0, 255, (20 + i, 24, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(path)
    whole = (directory / "cat" / "n_03.png").read_bytes()
    (directory / "cat" / "n_03.png").write_bytes(whole[: len(whole) // 2])
    (directory / "dog" / "text.jpg").write_bytes(b"hello")
    return directory


def run(capsys, *argv: str) -> tuple[int, str, str]:
    """Exit status, standard output and the end of standard error."""
    capsys.readouterr()
    try:
        status = cli.main(["data", *argv]) or 0
    except SystemExit as stop:
        status = stop.code
    out, err = capsys.readouterr()
    return status, out, err


def test_describe(capsys, pets):
    status, out, _ = run(capsys, "describe", f"folder:{pets}", "--split=train+test")
    rows = dict(line.split("  ", 1) for line in out.splitlines()[1:])
    found = {name: text.strip() for name, text in rows.items()}
    assert (status, found["images"], found["classes"]) == (0, "40", "2 (cat, dog)")
    assert (found["images per class"], found["height"]) == ("20", "20 to 59, median 40")
    assert (found["width"], found["broken of these"], found["channels"]) == ("24", "1", "3")


def test_describe_for_programs(capsys):
    status, out, _ = run(capsys, "describe", "digits", "--json")
    record = json.loads(out)
    images = data.load("digits").images / 255
    assert (status, list(record)) == (0, ["train", "test"])
    assert record["train"]["images"] == 1260
    assert record["train"]["per_class"] == np.bincount(data.load("digits").labels).tolist()
    assert record["train"]["mean"] == [round(float(images.mean()), 4)]
    assert record["train"]["std"] == [round(float(images.std()), 4)]
    assert record["test"]["heights"] == [8, 8, 8]


def test_check(capsys, pets):
    status, out, err = run(capsys, "check", f"folder:{pets}")
    assert status == 1
    assert len(out.splitlines()) == 2
    assert "dog/text.jpg: no image, or of a format that is not read" in out
    assert "cat/n_03.png: " in out
    assert err.splitlines()[-1].startswith("2 of 41 images are broken.")
    odd = os.fsencode(pets) + b"/cat/caf\xe9.png"  # no UTF-8, as many a terminal's
    with open(odd, "wb"):
        assert "cat/caf\\udce9.png: empty file" in run(capsys, "check", f"folder:{pets}")[1]
    os.remove(odd)
    for name in ("photos", "collage:fashion_mnist"):
        status, out, err = run(capsys, "check", name, "--split=test[:20]")
        assert (status, out, err) == (0, "", "All 20 images can be decoded.\n")


def test_a_split_without_images_is_left_out(capsys, tmp_path):
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "one.png")
    status, out, _ = run(capsys, "describe", f"folder:{tmp_path}")
    assert (status, out.splitlines()[0].split()) == (0, ["train"])


def test_prepare(capsys, pets, tmp_path):
    argv = ["prepare", f"folder:{pets}", f"--out={tmp_path}"]
    status, out, err = run(capsys, *argv)
    assert status == 0
    assert out.count("cat/n_03.png: ") == 1
    assert "--config.data=tfds:my_pets --config.data_dir=" in err
    assert "dog/text.jpg: no image, or of a format that is not read" in out
    assert "Left out as broken: 2." in err
    assert run(capsys, *argv)[0] == 0  # it is there already
    both = [data.load("tfds:my_pets", split, image_size=8, data_dir=tmp_path) for split in ("train", "test")]
    assert sum(map(len, both)) == 39
    status, out, _ = run(capsys, "check", "tfds:my_pets", f"--data_dir={tmp_path}")
    assert (status, out) == (0, "")


def test_preview_shows_what_the_network_sees(capsys, tmp_path):
    out = tmp_path / "sheet.png"
    argv = ["preview", "--config=simclr:test", f"--out={out}", "--images=3", "--config.augment=clean"]
    status, _, err = run(capsys, *argv, "--config.augment_args={}")
    assert status == 0
    assert "1 views of 8 x 8" in err
    with Image.open(out) as image:
        pixels = np.asarray(image)
    cell, gap = 96, 4
    assert pixels.shape == (3 * (cell + gap) + gap, 2 * (cell + gap) + gap, 3)
    rows = np.linspace(0, 1259, 3).astype(int)
    for i, digit in enumerate(data.load("digits").images[rows, ..., 0]):
        for column in range(2):  # the image, and the view that this augmentation leaves as it is
            top, left = gap + i * (cell + gap), gap + column * (cell + gap)
            np.testing.assert_array_equal(pixels[top : top + cell : 12, left : left + cell : 12, 0], digit)


@pytest.mark.parametrize(
    ("name", "called"),
    [
        ("fashion_mnist", "fashion_mnist"),
        ("folder:/data/My Pets/", "my_pets"),
        ("folder:gs://bucket/2019-photos", "images_2019_photos"),
        ("tar:/data/shards-{000..009}.tar", "shards"),
        ("tar:/data/coco/{split}-*.tar", "coco"),
        ("imagenet:/data", "imagenet2012"),
        ("hf:/data/pets", "pets"),
        ("photos:skimage", "photos_skimage"),
    ],
)
def test_default_names(name, called):
    assert data_command.default_name(name) == called


BAD = {
    "no such action": (["descibe", "digits"], "no 'descibe'; it has describe, check, preview, prepare."),
    "no data": (["check"], "which data? For example: ssl-jax data check folder:PATH."),
    "unknown data": (["describe", "digit"], "Did you mean digits?"),
    "no such split": (["describe", "digits", "--split=dev"], "digits has no split 'dev'; it has train, test."),
    "nowhere to write": (["prepare", "digits"], "The flag --out is missing."),
    "part of a split": (["prepare", "digits", "--out=x", "--split=train[:5]"], "Whole splits are prepared"),
    "bad name": (["prepare", "digits", "--out=x", "--name=A-b"], "the name 'A-b' must be lower-case letters"),
    "three of four channels": (["check", "digits", "--channels=2"], "--channels=2: value should be one of <1|3>"),
    "no config": (["preview", "--out=x.png"], "The flag --config is missing."),
    "no picture": (["preview", "--config=simclr:test", "--out=x.pdf"], "must be a file's name that ends with .png"),
    "no directory": (["preview", "--config=simclr:test", "--out=/no/such/x.png"], "in a directory that is there"),
    "boxes": (
        ["describe", "collage:fashion_mnist"],
        "collage:fashion_mnist train has boxes; this works on images with a label",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(capsys, case, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    argv, message = BAD[case]
    status, out, err = run(capsys, *argv)
    assert (status, out) == (1, "")
    assert message in err.splitlines()[-1]
    assert list(tmp_path.iterdir()) == []


def test_help(capsys):
    assert "describe NAME" in run(capsys)[1]
    assert "--shard_images" in run(capsys, "prepare", "--help")[1]
