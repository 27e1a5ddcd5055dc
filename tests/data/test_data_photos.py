import hashlib
import types

import numpy as np
import pytest
from sklearn.datasets import load_sample_image

from ssl_jax import data
from ssl_jax.core import UserError
from ssl_jax.data import photos

SIZES = {"photos": (2250, 750), "photos:skimage": (8875, 2800)}


@pytest.mark.parametrize("name", SIZES)
def test_sizes_and_classes(name):
    train, test = data.load(name), data.load(name, "test")
    assert (len(train), len(test)) == SIZES[name]
    assert train.images.shape[1:] == test.images.shape[1:] == (32, 32, 3)
    assert train.classes == test.classes
    assert train.classes[:2] == ("china", "flower")
    assert len(train.classes) == {"photos": 2, "photos:skimage": 8}[name]
    for source in (train, test):
        assert set(source.labels) == set(range(len(source.classes)))
        assert source.fingerprint == data.load(name, source.name.split()[1]).fingerprint


def test_no_pixel_is_in_both_splits():
    """On photographs whose pixels all differ, patches show where they were cut."""
    for shape in ((427, 640), (512, 512), (130, 200)):
        number = np.arange(shape[0] * shape[1], dtype=np.uint32)
        photo = np.stack([(number >> shift) & 255 for shift in (0, 8, 16)], axis=1).astype(np.uint8)
        seen = []
        for split in ("train", "test"):
            cut = photos.patches(photo.reshape(*shape, 3), split).reshape(-1, 3).astype(np.uint32)
            seen.append(set((cut[:, 0] | cut[:, 1] << 8 | cut[:, 2] << 16).tolist()))
        assert not seen[0] & seen[1]
        used = (shape[0] // 64) * (shape[1] // 64) * 64 * 64
        assert len(seen[0]) + len(seen[1]) == used


def test_patches_are_the_photographs_own_pixels():
    china, flower = (load_sample_image(name) for name in ("china.jpg", "flower.jpg"))
    train, test = data.load("photos"), data.load("photos", "test")
    np.testing.assert_array_equal(train.images[0], china[:32, :32])
    np.testing.assert_array_equal(train.images[1], china[:32, 8:40])
    np.testing.assert_array_equal(train.images[1125], flower[:32, :32])
    np.testing.assert_array_equal(test.images[0], china[:32, 192:224])


def test_the_photographs_of_scikit_image():
    from skimage import data as originals

    train = data.load("photos:skimage")
    first = {name: train.images[train.labels == i][0] for i, name in enumerate(train.classes)}
    for name in ("astronaut", "chelsea", "coffee", "rocket"):
        np.testing.assert_array_equal(first[name], getattr(originals, name)()[:32, :32])
    np.testing.assert_array_equal(first["ihc"], originals.immunohistochemistry()[:32, :32])
    np.testing.assert_array_equal(first["motorcycle_left"], originals.stereo_motorcycle()[0][:32, :32])
    np.testing.assert_array_equal(train.images[:2250], data.load("photos").images)


def test_photographs_cannot_be_told_by_their_place_or_by_raw_pixels_alone():
    """A task worth having: far above chance from raw pixels, and far from solved."""
    from sklearn.neighbors import KNeighborsClassifier

    train, test = data.load("photos:skimage"), data.load("photos:skimage", "test")
    flat = [source.images.reshape(len(source), -1) / np.float32(255) for source in (train, test)]
    assert 0.4 < KNeighborsClassifier(20).fit(flat[0], train.labels).score(flat[1], test.labels) < 0.7
    digests = [{hashlib.sha1(image.tobytes()).digest() for image in source.images} for source in (train, test)]
    assert len(digests[0] & digests[1]) < 20  # black areas


def test_size_and_channels():
    small = data.load("photos", image_size=16, channels=1)
    assert small.images.shape == (2250, 16, 16, 1)
    colour, grey = data.load("photos", "test[:5]"), data.load("photos", "test[:5]", channels=1)
    luma = colour.images @ np.asarray([0.299, 0.587, 0.114])
    np.testing.assert_allclose(grey.images[..., 0], luma, atol=1)


def test_without_scikit_image(monkeypatch):
    found = photos.importlib.util.find_spec
    for spec in (None, types.SimpleNamespace(origin="/nowhere/__init__.py")):
        photos.photograph.cache_clear()
        with monkeypatch.context() as patch:
            patch.setattr(
                photos.importlib.util, "find_spec", lambda name, spec=spec: spec if name == "skimage" else found(name)
            )
            assert len(data.load("photos")) == 2250
            with pytest.raises(UserError, match=r"astronaut\.png from scikit-image.*pip install scikit-image"):
                data.load("photos:skimage")


@pytest.mark.parametrize("name", ["photos:more", "photo", "photos:"])
def test_unknown_names(name):
    with pytest.raises(UserError, match=r"there is no data .* Did you mean photos"):
        data.load(name)
