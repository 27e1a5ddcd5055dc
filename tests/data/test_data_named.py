import gzip

import numpy as np
import pytest

from ssl_jax import data
from ssl_jax.core import UserError
from ssl_jax.data import fashion_mnist


@pytest.fixture(scope="module")
def train():
    return data.load("fashion_mnist")


@pytest.fixture(scope="module")
def test():
    return data.load("fashion_mnist", "test")


def _idx(array):
    header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
    return header + array.tobytes()


def _copy(directory, train, compress):
    for stem, source in (("train", train), ("t10k", train)):
        for kind, array in (("images-idx3", source.images[:50, ..., 0]), ("labels-idx1", source.labels[:50])):
            raw = _idx(array.astype(np.uint8))
            name = f"{stem}-{kind}-ubyte"
            if compress:
                (directory / f"{name}.gz").write_bytes(gzip.compress(raw))
            else:
                (directory / name).write_bytes(raw)


def test_fashion_mnist_is_the_published_data(train, test):
    assert train.images.shape == (60_000, 28, 28, 1)
    assert test.images.shape == (10_000, 28, 28, 1)
    np.testing.assert_array_equal(np.bincount(train.labels), [6000] * 10)
    np.testing.assert_array_equal(np.bincount(test.labels), [1000] * 10)
    assert abs(train.images.mean() / 255 - 0.2860) < 1e-4  # the mean and deviation that everybody normalises with
    assert abs(train.images.std() / 255 - 0.3530) < 1e-4
    assert train.classes[train.labels[0]] == "Ankle boot"
    # Of pixels and labels alone, so it holds for every repacked copy of the files.
    assert (train.fingerprint, test.fingerprint) == ("76704e3cd579f182", "ed2fb2e398948e85")


def test_slices_are_parts_of_the_whole(train):
    first, last = data.load("fashion_mnist", "train[:55000]"), data.load("fashion_mnist", "train[55000:]")
    assert (len(first), len(last)) == (55_000, 5_000)
    np.testing.assert_array_equal(np.concatenate([first.labels, last.labels]), train.labels)
    np.testing.assert_array_equal(last.images, train.images[55_000:])
    assert first.name == "fashion_mnist train[:55000]"
    assert len({train.fingerprint, first.fingerprint, last.fingerprint}) == 3


def test_splits_add_up(train, test):
    both = data.load("fashion_mnist", "train[:10]+test")
    np.testing.assert_array_equal(both.labels, np.concatenate([train.labels[:10], test.labels]))


@pytest.mark.parametrize("compress", [True, False])
def test_fashion_mnist_of_a_directory(tmp_path, train, compress):
    _copy(tmp_path, train, compress)
    for source in (
        data.load(f"fashion_mnist:{tmp_path}"),
        data.load("fashion_mnist", data_dir=tmp_path),
        data.load("fashion_mnist", "test", data_dir=str(tmp_path)),
    ):
        np.testing.assert_array_equal(source.images, train.images[:50])
        np.testing.assert_array_equal(source.labels, train.labels[:50])


def test_missing_or_damaged_fashion_mnist(tmp_path, train, monkeypatch):
    with pytest.raises(UserError, match="apt-get install dataset-fashion-mnist"):
        data.load(f"fashion_mnist:{tmp_path}")
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    monkeypatch.delenv("FASHION_MNIST_DIR", raising=False)
    monkeypatch.setattr(fashion_mnist, "DEBIAN", tmp_path / "nowhere")
    with pytest.raises(UserError, match="nowhere; run `apt-get install dataset-fashion-mnist`"):
        data.load("fashion_mnist")
    _copy(tmp_path, train, True)
    labels = tmp_path / "train-labels-idx1-ubyte.gz"
    whole = labels.read_bytes()
    for damage in (whole[: len(whole) // 2], b"", gzip.compress(_idx(train.labels[:50].astype(np.uint8))[:-1])):
        labels.write_bytes(damage)
        with pytest.raises(UserError, match=r"train-labels-idx1-ubyte.gz is not a complete IDX file"):
            data.load("fashion_mnist", data_dir=tmp_path)
    labels.write_bytes(gzip.compress(_idx(train.labels[:49].astype(np.uint8))))
    with pytest.raises(UserError, match="do not fit each other"):
        data.load("fashion_mnist", data_dir=tmp_path)
    labels.unlink()
    with pytest.raises(UserError, match="lacks train-labels"):
        data.load("fashion_mnist", data_dir=tmp_path)


def test_digits():
    from sklearn.datasets import load_digits

    train, test = data.load("digits"), data.load("digits", "test")
    assert (len(train), len(test)) == (1260, 537)
    assert train.classes == tuple("0123456789")
    counts = np.bincount(load_digits().target)
    assert np.abs(np.bincount(train.labels) / counts - 0.7).max() < 0.01
    assert (train.images.min(), train.images.max()) == (0, 255)
    whole = np.sort(np.concatenate([train.images, test.images]).reshape(1797, 64) / 255 * 16, axis=0)
    np.testing.assert_allclose(whole, np.sort(load_digits().data, axis=0), atol=0.5 * 16 / 255 + 1e-9)
    # Of pixels and labels alone, so it holds for every repacked copy of the files.
    assert (train.fingerprint, test.fingerprint) == ("f369a1b3507dfbb5", "235636ca6e3cb097")


def test_digits_are_learnable():
    from sklearn.neighbors import KNeighborsClassifier

    train, test = data.load("digits"), data.load("digits", "test")
    flat = [source.images.reshape(len(source), -1) / 255 for source in (train, test)]
    assert KNeighborsClassifier(3).fit(flat[0], train.labels).score(flat[1], test.labels) > 0.97


def test_size_and_channels():
    small = data.load("digits")
    assert data.load("digits", image_size=8, channels=1).fingerprint == small.fingerprint
    large = data.load("digits", image_size=16)
    assert large.images.shape == (1260, 16, 16, 1)
    assert np.abs(large.images.mean((1, 2)) - small.images.mean((1, 2))).max() < 5
    colour = data.load("digits", channels=3)
    np.testing.assert_array_equal(colour.images, np.repeat(small.images, 3, axis=3))
    for source in (large, colour):
        np.testing.assert_array_equal(source.labels, small.labels)
        assert source.classes == small.classes
    assert len({source.fingerprint for source in (small, large, colour)}) == 3
    with pytest.raises(UserError, match="channels=2"):
        data.load("digits", channels=2)
    with pytest.raises(UserError, match="image_size=0"):
        data.load("digits", image_size=0)


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("fashionmnist", "Did you mean fashion_mnist?"),
        ("Fashion-MNIST", "Did you mean fashion_mnist?"),
        ("digit", "Did you mean digits?"),
        ("folders:pets", "Did you mean folder:PATH?"),
        ("folder", "Did you mean folder:PATH?"),
        ("tfds", "Did you mean tfds:NAME?"),
        ("imagenet", "Did you mean imagenet:PATH?"),
        ("cifar10", "there is fashion_mnist, digits, photos, folder:PATH, tar:PATTERN, tfds:NAME, hf:PATH, "),
    ],
)
def test_unknown_names(name, near):
    with pytest.raises(UserError) as error:
        data.load(name)
    assert near in str(error.value)


def test_a_bare_path_is_recognised(tmp_path):
    with pytest.raises(UserError, match="Did you mean folder:"):
        data.load(str(tmp_path))


def test_unknown_split():
    with pytest.raises(UserError, match="no split 'validation'; it has train, test"):
        data.load("digits", "validation")
