import itertools

import numpy as np
import pytest

from ssl_jax import data
from ssl_jax.core import UserError
from ssl_jax.data import combine, splits


def _arrays(n=20, size=4, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (n, size, size, 3), np.uint8), rng.integers(0, 3, n)


def test_from_arrays():
    images, labels = _arrays()
    source = data.from_arrays(images, labels, ["a", "b", "c"], name="mine")
    assert (len(source), source.classes, source.name) == (20, ("a", "b", "c"), "mine")
    assert source.labels.dtype == np.int32
    rows = np.array([3, 3, 0])
    np.testing.assert_array_equal(source[rows]["image"], images[rows])
    np.testing.assert_array_equal(source[rows]["label"], labels[rows])
    assert repr(source) == "<mine: 20 images, 3 classes>"


def test_from_arrays_without_labels_and_grey():
    source = data.from_arrays(np.zeros((5, 4, 3), np.uint8))
    assert set(source[np.arange(2)]) == {"image"}
    assert source.images.shape == (5, 4, 3, 1)
    assert source.labels is None
    assert source.classes is None


def test_classes_are_numbered_if_unnamed():
    assert data.from_arrays(np.zeros((3, 2, 2), np.uint8), [0, 2, 1]).classes == ("0", "1", "2")


@pytest.mark.parametrize(
    ("images", "labels", "classes", "message"),
    [
        (np.zeros((2, 4, 4), np.float32), None, None, "scale floats by 255"),
        (np.zeros((4, 4), np.uint8), None, None, "uint8"),
        (np.zeros((0, 4, 4), np.uint8), None, None, "no pixel"),
        (np.zeros((2, 4, 4), np.uint8), [0, 1, 2], None, "must be 2 integers"),
        (np.zeros((2, 4, 4), np.uint8), [0.0, 1.0], None, "must be 2 integers"),
        (np.zeros((2, 4, 4), np.uint8), [0, 2], ["a", "b"], "count from 0 to 1"),
        (np.zeros((2, 4, 4), np.uint8), [-1, 0], None, "count from 0"),
    ],
)
def test_bad_arrays(images, labels, classes, message):
    with pytest.raises(UserError, match=message):
        data.from_arrays(images, labels, classes)


def test_fingerprint_is_of_content():
    images, labels = _arrays()
    source = data.from_arrays(images, labels)
    assert source.fingerprint == "6ea59e0b101870b5"  # as in every other run
    assert data.from_arrays(images.copy(), labels, name="other").fingerprint == source.fingerprint
    assert data.from_arrays(images[::-1], labels).fingerprint != source.fingerprint
    assert data.from_arrays(images, labels[::-1].copy()).fingerprint != source.fingerprint
    assert data.from_arrays(images.reshape(20, 2, 8, 3), labels).fingerprint != source.fingerprint
    changed = images.copy()
    changed[-1, -1, -1, -1] += 1
    assert data.from_arrays(changed, labels).fingerprint != source.fingerprint


def test_subset():
    source = data.from_arrays(*_arrays())
    rows = np.array([5, 2, 19])
    subset = data.Subset(source, rows, name="three")
    assert (len(subset), subset.name, subset.in_memory) == (3, "three", True)
    np.testing.assert_array_equal(subset.labels, source.labels[rows])
    np.testing.assert_array_equal(subset[np.array([2, 0])]["image"], source.images[[19, 5]])
    assert len({source.fingerprint, subset.fingerprint, data.Subset(source, rows[::-1]).fingerprint}) == 3
    for batch in data.epoch(subset, 2):
        np.testing.assert_array_equal(batch["label"], source.labels[rows[batch["id"]]])


def test_joined():
    parts = [data.from_arrays(*_arrays(n, seed=n), "abc") for n in (4, 9, 2)]
    for joined in (combine.Joined(parts, "all"), combine.join(parts, "all")):
        images, labels = (np.concatenate([getattr(part, key) for part in parts]) for key in ("images", "labels"))
        rows = np.random.default_rng(1).permutation(15)
        assert (len(joined), joined.name) == (15, "all")
        np.testing.assert_array_equal(joined[rows]["image"], images[rows])
        np.testing.assert_array_equal(joined[rows]["label"], labels[rows])
        np.testing.assert_array_equal(joined.labels, labels)
    assert combine.Joined(parts, "all").fingerprint == combine.join(parts, "all").fingerprint


def test_joined_parts_that_differ():
    one, other = data.from_arrays(*_arrays(4)), data.from_arrays(_arrays(4, size=6)[0])
    joined = combine.join([one, other], "both")
    assert joined.labels is None
    assert set(joined[np.arange(4)]) == {"image"}
    with pytest.raises(UserError, match="give an image_size"):
        joined[np.arange(5)]


@pytest.mark.parametrize(
    ("split", "expected"),
    [
        ("train", (0, 60_000)),
        ("train[:55000]", (0, 55_000)),
        ("train[90%:]", (54_000, 60_000)),
        ("train[:10%]", (0, 6_000)),
        ("train[-1000:]", (59_000, 60_000)),
        ("train[10%:-10%]", (6_000, 54_000)),
        (" train[ 5 : 7 ] ", (5, 7)),
        ("train[:]", (0, 60_000)),
    ],
)
def test_split_slices(split, expected):
    ((name, start, stop, _),) = splits.parse(split)
    assert name == "train"
    assert splits.span(60_000, start, stop, split) == expected


def test_percentages_tile_a_split():
    edges = [splits.span(1797, f"{i}%", f"{i + 1}%", "") for i in range(100)]
    assert edges[0][0] == 0
    assert edges[-1][1] == 1797
    assert all(one[1] == other[0] for one, other in itertools.pairwise(edges))


@pytest.mark.parametrize("split", ["train[:70000]", "train[:101%]", "train[-70000:]", "train[5:5]", "train[50%:10%]"])
def test_empty_or_outside_slices(split):
    ((_, start, stop, _),) = splits.parse(split)
    with pytest.raises(UserError, match=r"reaches outside|holds no example"):
        splits.span(60_000, start, stop, split)


@pytest.mark.parametrize("split", ["", "train[", "train[1]", "train[:5.5%]", "train[::2]", "train++test", "a b"])
def test_splits_not_understood(split):
    with pytest.raises(UserError, match="not understood"):
        splits.parse(split)
