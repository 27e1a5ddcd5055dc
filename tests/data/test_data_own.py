import pathlib
import re

import numpy as np
import pytest
from PIL import Image

from ssl_jax import data
from ssl_jax.core import UserError


class Own:
    """Examples of any form, from arrays."""

    def __init__(self, form, n: int = 20):
        self.form, self.n = form, n

    def __len__(self):
        return self.n

    def __getitem__(self, i: int):
        if not 0 <= i < self.n:
            raise IndexError(i)
        return self.form(np.full((6, 5, 3), i, np.uint8), i % 3)


FORMS = {
    "pair of Pillow image and label": lambda pixels, label: (Image.fromarray(pixels), label),
    "dict": lambda pixels, label: {"image": pixels, "label": np.int64(label), "text": "x"},
    "list": lambda pixels, label: [pixels, label],
}


@pytest.mark.parametrize("form", FORMS)
def test_examples_with_labels(form):
    source = data.from_indexable(Own(FORMS[form]))
    batch = source[np.array([4, 0, 19])]
    np.testing.assert_array_equal(batch["image"][:, 2, 2, 0], [4, 0, 19])
    np.testing.assert_array_equal(batch["label"], [1, 0, 1])
    np.testing.assert_array_equal(source.labels, np.arange(20) % 3)
    assert source.classes == ("0", "1", "2")
    assert source[np.arange(2)]["image"].shape == (2, 6, 5, 3)


def test_images_alone_grey_or_as_files(tmp_path):
    grey = data.from_indexable(Own(lambda pixels, label: pixels[..., 0]), image_size=4)
    assert set(grey[np.arange(3)]) == {"image"}
    assert grey[np.arange(3)]["image"].shape == (3, 4, 4, 1)
    path = tmp_path / "a.png"
    Image.fromarray(np.full((6, 5, 3), 7, np.uint8)).save(path)
    for form in (path, path.read_bytes(), Image.open(path).convert("RGBA")):
        source = data.from_indexable([form] * 3)
        np.testing.assert_array_equal(source[np.arange(3)]["image"], np.full((3, 6, 5, 3), 7, np.uint8))


def test_given_labels_and_names_are_not_read_from_the_examples():
    reads = []

    def form(pixels, label):
        reads.append(1)
        return pixels, label

    source = data.from_indexable(Own(form, 240), labels=np.arange(240) % 3, classes=["a", "b", "c"])
    assert len(reads) < 120
    assert source.classes == ("a", "b", "c")
    late = data.from_indexable(Own(form, 240), classes=["a", "b", "c"])
    assert len(reads) < 240
    np.testing.assert_array_equal(late[np.array([5])]["label"], [2])
    np.testing.assert_array_equal(late.labels, source.labels)


def test_fingerprint():
    one = data.from_indexable(Own(FORMS["list"])).fingerprint
    assert one == data.from_indexable(Own(FORMS["list"])).fingerprint
    others = [
        data.from_indexable(Own(FORMS["list"], 21)),
        data.from_indexable(Own(lambda pixels, label: (pixels + 1, label))),
        data.from_indexable(Own(FORMS["list"]), fingerprint="version 2"),
    ]
    assert len({one, *(other.fingerprint for other in others)}) == 4


def test_batches():
    source = data.from_indexable(Own(FORMS["dict"]), image_size=4)
    for batch, _ in zip(data.batches(source, batch_size=8), range(5), strict=False):
        np.testing.assert_array_equal(batch["image"][:, 0, 0, 0], batch["id"])
        np.testing.assert_array_equal(batch["label"], batch["id"] % 3)


def test_what_the_documentation_says_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    page = pathlib.Path(__file__).parents[2] / "docs" / "data.md"
    blocks = re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)
    assert len(blocks) == 2
    exec("\n".join(blocks), {})
    assert capsys.readouterr().out.count("(16, 32, 32, 3) [") == 3
    prepared = data.load("tfds:noise", data_dir="prepared", image_size=32)
    assert (len(prepared), prepared.classes) == (100, ("even", "odd"))


BAD = {
    "no length": (lambda: iter([1]), "examples must have a length and give an example for each number from 0"),
    "empty": (lambda: [], "must have a length and give an example"),
    "no image": (lambda: [{"picture": 1}], "have picture, but no 'image'"),
    "floats": (lambda: [np.zeros((4, 4, 3))], "must be uint8 .* but one is float64 .4, 4, 3."),
    "text": (lambda: ["/no/such.png"], "none of 1 images of examples, looked at as a sample, is readable"),
    "other sizes": (lambda: [np.zeros((n, 4), np.uint8) for n in (4, 5)], "differ in size, .*give image_size"),
    "labels that are words": (lambda: [(np.zeros((4, 4), np.uint8), "cat")], "labels of examples must be 1 integers"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_objects(case):
    make, message = BAD[case]
    with pytest.raises(UserError, match=message):
        data.from_indexable(make())


def test_bad_classes():
    image = np.zeros((4, 4), np.uint8)
    with pytest.raises(UserError, match="has names of classes but its examples no labels"):
        data.from_indexable([image], classes=["a"])
    with pytest.raises(UserError, match="has 1 names in classes, but a label 1"):
        data.from_indexable([(image, 1)], labels=[1], classes=["a"])
