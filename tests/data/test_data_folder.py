import logging
import pathlib

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_images

from ssl_jax import data
from ssl_jax.core import UserError
from ssl_jax.data import folder, lazy, tree
from ssl_jax.data.decode import decode


@pytest.fixture(scope="module")
def photos():
    """china.jpg and flower.jpg, 427 x 640."""
    return load_sample_images().images


def _fill(directory, count, size=(9, 8), first=0):
    """Write PNGs of one colour each, which is their number."""
    directory.mkdir(parents=True, exist_ok=True)
    for i in range(first, first + count):
        Image.new("RGB", size, (i, 255 - i, 7)).save(directory / f"{i}.png")


@pytest.fixture
def shapes(tmp_path):
    """Two classes of 30 images each, one of them partly further down."""
    _fill(tmp_path / "b", 30)
    _fill(tmp_path / "a" / "deep" / "er", 20, first=100)
    _fill(tmp_path / "a", 10, first=120)
    (tmp_path / "README.txt").write_text("no image")
    _fill(tmp_path / ".thumbnails", 3)
    return tmp_path


@pytest.fixture
def never_in_memory(monkeypatch):
    monkeypatch.setattr(lazy, "IN_MEMORY_BYTES", 0)


def _close(one, other, atol):
    assert one.shape == other.shape
    assert np.abs(one.astype(int) - other.astype(int)).mean() <= atol


def test_classes_and_held_out_tenth(shapes):
    train, test = (data.load(f"folder:{shapes}", split) for split in ("train", "test"))
    assert train.classes == test.classes == ("a", "b")
    assert train.in_memory
    assert 1 <= len(test) <= 15
    colour = np.concatenate([source.images[:, 0, 0, 0] for source in (train, test)])
    labels = np.concatenate([train.labels, test.labels])
    np.testing.assert_array_equal(np.sort(colour), [*range(30), *range(100, 130)])
    np.testing.assert_array_equal(labels, colour < 100)
    # Slices are samples of all classes, not the first ones.
    assert len(set(data.load(f"folder:{shapes}", "train[:50%]").labels)) == 2


def test_hold_out_ignores_what_else_is_there(shapes):
    before = set(tree.splits(shapes)["test"][1])
    _fill(shapes / "c", 40)
    after = set(tree.splits(shapes)["test"][1])
    assert {name for name in after if not name.startswith("c/")} == before
    assert len(after) > len(before)


def test_directories_of_splits(tmp_path):
    _fill(tmp_path / "train" / "x", 5)
    _fill(tmp_path / "train" / "y", 5, first=5)
    _fill(tmp_path / "val" / "y", 3, first=50)
    name = f"folder:{tmp_path}"
    assert len(data.load(name)) == 10
    for split in ("val", "validation", "test"):
        source = data.load(name, split)
        assert source.classes == ("x", "y")
        np.testing.assert_array_equal(source.labels, [1, 1, 1])
    _fill(tmp_path / "test", 2)  # without classes
    assert data.load(name, "test").labels is None
    assert len(data.load(name, "val")) == 3
    with pytest.raises(UserError, match="no split 'dev'; it has train, test, val, validation"):
        data.load(name, "dev")


def test_class_of_railway_trains(tmp_path):
    _fill(tmp_path / "train", 12)
    assert data.load(f"folder:{tmp_path}").classes is None  # alone, it is the data
    _fill(tmp_path / "ship", 12)
    assert data.load(f"folder:{tmp_path}").classes == ("ship", "train")


def test_no_classes(tmp_path):
    _fill(tmp_path, 20)
    source = data.load(f"folder:{tmp_path}")
    assert source.labels is None
    assert set(next(data.batches(source, batch_size=4))) == {"image", "id"}
    _fill(tmp_path / "more", 20)
    assert data.load(f"folder:{tmp_path}").labels is None


def test_few_images(tmp_path):
    _fill(tmp_path, 2)
    assert [len(data.load(f"folder:{tmp_path}", split)) for split in ("train", "test")] == [1, 1]
    (tmp_path / "0.png").unlink()
    assert len(data.load(f"folder:{tmp_path}")) == 1
    assert data.split_names(f"folder:{tmp_path}") == ("train",)
    assert data.split_names("folder:", tmp_path) == ("train",)
    with pytest.raises(UserError, match=r"split 'test' of .* holds no image"):
        data.load(f"folder:{tmp_path}", "test")


def test_links_and_loops(tmp_path, caplog):
    _fill(tmp_path / "elsewhere", 4)
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "a").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "back").symlink_to(tmp_path / "set")
    assert len(data.load(f"folder:{tmp_path / 'set'}", "train+test")) == 4
    for name in ("a/loop.png", "a/knot", "knot"):  # links to themselves: no directories, and no reason to stop
        (tmp_path / "set" / name).symlink_to(pathlib.Path(name).name)
    source = data.load(f"folder:{tmp_path / 'set'}", "train+test")
    assert len(source) == 4
    assert list(source.left_out.values()) == ["a loop of symbolic links"]
    assert "a/loop.png" in caplog.text


def test_missing_or_empty(tmp_path):
    with pytest.raises(UserError, match="there is no directory"):
        data.load(f"folder:{tmp_path / 'nowhere'}")
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(UserError, match="holds no image file"):
        data.load(f"folder:{tmp_path}")
    with pytest.raises(UserError, match="there is no directory"):
        data.load(f"folder:{tmp_path / 'notes.txt'}")


def test_relative_to_a_directory(shapes):
    assert len(data.load("folder:b", "train+test", data_dir=shapes)) == 30
    assert len(data.load("folder:", "train+test", data_dir=shapes)) == 60


@pytest.mark.parametrize("in_memory", [True, False])
def test_unreadable_files_are_skipped(tmp_path, photos, caplog, monkeypatch, in_memory):
    _fill(tmp_path / "a", 20)
    whole = tmp_path / "a" / "whole.jpg"
    Image.fromarray(photos[0]).save(whole)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "truncated.jpg").write_bytes(whole.read_bytes()[:9000])
    (tmp_path / "b" / "text.png").write_text("not an image")
    (tmp_path / "b" / "empty.jpg").write_bytes(b"")
    Image.new("RGB", (9, 8), (200, 0, 0)).save(tmp_path / "b" / "good.png")
    if not in_memory:
        monkeypatch.setattr(lazy, "IN_MEMORY_BYTES", 0)
    with caplog.at_level(logging.WARNING):
        source = data.load(f"folder:{tmp_path}", "train+test", image_size=8)
        rows = [source[np.array([row])] for row in range(len(source))]
    assert source.in_memory == in_memory
    # In memory the truncated one is left out; else its place is taken by another, with that one's label.
    assert len(source) == (22 if in_memory else 23)
    for bad in ("text.png", "empty.jpg", "truncated.jpg"):
        assert bad in caplog.text
    assert "good.png" not in caplog.text
    assert "skipped 2 of" in caplog.text or "skipped 1 of" in caplog.text
    for row in rows:
        assert (row["label"][0] == 1) == (row["image"][0, 0, 0, 0] == 200)


def test_nothing_readable(tmp_path, photos):
    for i in range(3):
        (tmp_path / f"{i}.png").write_text("not an image")
    with pytest.raises(UserError, match="is a readable image"):
        data.load(f"folder:{tmp_path}", image_size=8)
    for i in range(3):
        Image.fromarray(photos[0]).save(tmp_path / f"{i}.png")
        (tmp_path / f"{i}.png").write_bytes((tmp_path / f"{i}.png").read_bytes()[:5000])
    for size in (8, None):
        with pytest.raises(UserError, match=r"readable image|can be decoded"):
            data.load(f"folder:{tmp_path}", image_size=size)


@pytest.mark.usefixtures("never_in_memory")
def test_hundred_damaged_in_a_row(tmp_path, photos):
    Image.fromarray(photos[0]).save(tmp_path / "whole.png")
    (tmp_path / "1.png").write_bytes((tmp_path / "whole.png").read_bytes()[:5000])
    (tmp_path / "2.png").write_bytes((tmp_path / "1.png").read_bytes())
    (tmp_path / "whole.png").unlink()
    source = data.load(f"folder:{tmp_path}", image_size=8)
    with pytest.raises(UserError, match="in a row"):
        next(data.batches(source, batch_size=1))


def test_sizes(tmp_path, photos):
    _fill(tmp_path, 20, size=(9, 8))
    assert data.load(f"folder:{tmp_path}")[np.arange(3)]["image"].shape == (3, 8, 9, 3)
    Image.fromarray(photos[0]).save(tmp_path / "big.png")
    with pytest.raises(UserError, match=r"differ in size, for example .*; give image_size"):
        data.load(f"folder:{tmp_path}", "train+test")
    assert data.load(f"folder:{tmp_path}", "train+test", image_size=12)[:]["image"].shape == (21, 12, 12, 3)


def test_sides_swapped(tmp_path):
    _fill(tmp_path, 10, size=(9, 8))
    _fill(tmp_path, 10, size=(8, 9), first=10)
    with pytest.raises(UserError, match="give image_size"):
        data.load(f"folder:{tmp_path}", "train+test")


def test_grey_unless_there_is_colour(tmp_path):
    for i in range(6):
        Image.new("L", (5, 5), i).save(tmp_path / f"{i}.png")
    assert data.load(f"folder:{tmp_path}").images.shape[-1] == 1
    assert data.load(f"folder:{tmp_path}", channels=3).images.shape[-1] == 3
    Image.new("RGB", (5, 5)).save(tmp_path / "colour.png")
    for split in ("train", "test"):  # one of them is still grey throughout
        assert data.load(f"folder:{tmp_path}", split).images.shape[-1] == 3
        assert data.load(f"folder:{tmp_path}", split, channels=1).images.shape[-1] == 1


@pytest.mark.usefixtures("never_in_memory")
def test_larger_sets_are_decoded_when_read(shapes):
    source = data.load(f"folder:{shapes}", "train", image_size=8)
    assert not source.in_memory
    batches = [next(data.batches(source, batch_size=16, start=step)) for step in (5, 5, 0)]
    np.testing.assert_array_equal(batches[0]["image"], batches[1]["image"])
    for batch in batches:
        np.testing.assert_array_equal(batch["label"], source.labels[batch["id"]])
        np.testing.assert_array_equal(batch["label"], batch["image"][:, 0, 0, 0] < 100)
    part = data.load(f"folder:{shapes}", "train[10:30]", image_size=8)
    np.testing.assert_array_equal(part[np.arange(20)]["image"], source[np.arange(10, 30)]["image"])
    np.testing.assert_array_equal(part.labels, source.labels[10:30])
    assert part.fingerprint != source.fingerprint


def test_same_from_memory_or_disk(shapes, monkeypatch):
    kept = data.load(f"folder:{shapes}", image_size=8)
    monkeypatch.setattr(lazy, "IN_MEMORY_BYTES", 0)
    read = data.load(f"folder:{shapes}", image_size=8)
    np.testing.assert_array_equal(kept.images, read[np.arange(len(read))]["image"])
    np.testing.assert_array_equal(kept.labels, read.labels)
    assert kept.fingerprint == read.fingerprint


def test_fingerprint_of_files(shapes):
    name = f"folder:{shapes}"
    first = data.load(name, image_size=8).fingerprint
    assert data.load(name, image_size=8).fingerprint == first
    assert data.load(name, image_size=6).fingerprint != first
    _fill(shapes / "b", 5, first=60)
    assert data.load(name, "train", image_size=8).fingerprint != first


def test_huge_folders_are_sampled(shapes, monkeypatch, caplog):
    monkeypatch.setattr(folder, "HEADERS", 20)
    monkeypatch.setattr(folder, "SAMPLE", 5)
    (shapes / "b" / "0.png").write_text("no image")
    with caplog.at_level(logging.WARNING):
        source = data.load(f"folder:{shapes}", "train+test", image_size=8)
    assert len(source) == 59
    assert "b/0.png" in caplog.text


@pytest.mark.parametrize(
    ("suffix", "options", "atol"),
    [
        ("png", {}, 0),
        ("bmp", {}, 0),
        ("tiff", {}, 0),
        ("ppm", {}, 0),
        ("webp", {"lossless": True}, 0),
        ("jpg", {"quality": 95}, 3),
        ("JPEG", {"quality": 95}, 3),
        ("gif", {}, 12),
    ],
)
def test_formats(tmp_path, photos, suffix, options, atol):
    path = tmp_path / f"photo.{suffix}"
    Image.fromarray(photos[1]).save(path, **options)
    _close(decode(path, None, 3), photos[1], atol)
    _close(decode(path.read_bytes(), None, 3), photos[1], atol)
    assert decode(path, None, 1).shape == (427, 640, 1)
    (source,) = [data.load(f"folder:{tmp_path}", image_size=32)]
    _close(source.images[0], decode(photos[1], 32, 3), atol)


def test_resize_and_crop(photos):
    # The shorter side becomes 64 pixels and the middle is kept: near an area average of the middle square.
    middle = photos[0][:, 106:533][:384, :384]
    image = decode(np.ascontiguousarray(middle), 64, 3)
    _close(image, middle.reshape(64, 6, 64, 6, 3).mean((1, 3)), 6)
    _close(decode(photos[0], 427, 3), photos[0][:, 106:533], 0)
    _close(decode(photos[0], 64, 3), decode(np.ascontiguousarray(photos[0][:, 106:533]), 64, 3), 0.1)


def test_jpeg_shortcut_looks_like_a_full_decode(tmp_path, photos):
    Image.fromarray(photos[0]).save(tmp_path / "photo.jpg", quality=95)
    _close(decode(tmp_path / "photo.jpg", 48, 3), decode(photos[0], 48, 3), 1.5)


def test_sixteen_bits(tmp_path):
    values = np.array([[0, 1, 128, 129, 257], [32767, 32768, 65278, 65534, 65535]], np.uint16)
    for name in ("a.png", "a.tiff"):
        Image.fromarray(values).save(tmp_path / name)
        np.testing.assert_array_equal(decode(tmp_path / name, None, 1)[..., 0], np.round(values / 257))
    Image.fromarray((values / 65535).astype(np.float32)).save(tmp_path / "float.tiff")
    np.testing.assert_array_equal(decode(tmp_path / "float.tiff", None, 1)[..., 0], np.round(values / 257))
    assert data.load(f"folder:{tmp_path}", "train").images.shape[-1] == 1


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path, photos, orientation):
    upright = photos[0][:200:2, :120:2]
    # How a camera stores an upright picture under each tag: the inverse of what a viewer must do.
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.swapaxes(0, 1),
        6: upright.swapaxes(0, 1)[::-1],
        7: upright.swapaxes(0, 1)[::-1, ::-1],
        8: upright.swapaxes(0, 1)[:, ::-1],
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = Image.fromarray(np.ascontiguousarray(stored))
    for name, options in (("a.png", {}), ("a.webp", {"lossless": True}), ("a.jpg", {"quality": 100, "subsampling": 0})):
        image.save(tmp_path / name, exif=exif, **options)
        _close(decode(tmp_path / name, None, 3), upright, 0 if name != "a.jpg" else 2)


def test_transparency_is_composited_on_white(tmp_path):
    alpha = np.array([[0, 51, 255]], np.uint8)
    expected = np.array([[255, 224, 100]])
    grey = np.full((1, 3), 100, np.uint8)
    images = {
        "rgba.png": Image.fromarray(np.stack([grey, grey, grey, alpha], -1)),
        "la.png": Image.fromarray(np.stack([grey, alpha], -1)),
        "rgba.webp": Image.fromarray(np.stack([grey, grey, grey, alpha], -1)),
    }
    for name, image in images.items():
        image.save(tmp_path / name, **({"lossless": True, "exact": True} if name.endswith("webp") else {}))
        for channels in (1, 3):
            pixels = decode(tmp_path / name, None, channels)
            np.testing.assert_allclose(pixels, np.broadcast_to(expected[..., None], (1, 3, channels)), atol=1)


def test_palettes(tmp_path):
    image = Image.new("P", (3, 1))
    image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    image.putdata([0, 1, 2])
    image.save(tmp_path / "plain.png")
    np.testing.assert_array_equal(decode(tmp_path / "plain.png", None, 3), [[[255, 0, 0], [0, 255, 0], [0, 0, 255]]])
    image.save(tmp_path / "bytes.png", transparency=bytes([0, 255, 51]))
    np.testing.assert_array_equal(
        decode(tmp_path / "bytes.png", None, 3), [[[255, 255, 255], [0, 255, 0], [204, 204, 255]]]
    )
    for name in ("index.png", "index.gif"):
        image.save(tmp_path / name, transparency=1)
        pixels = decode(tmp_path / name, None, 3)
        np.testing.assert_array_equal(pixels, [[[255, 0, 0], [255, 255, 255], [0, 0, 255]]])


def test_bilevel_cmyk_and_animation(tmp_path, photos):
    Image.fromarray(np.array([[0, 255, 255, 0]], np.uint8)).convert("1").save(tmp_path / "bits.png")
    np.testing.assert_array_equal(decode(tmp_path / "bits.png", None, 1)[..., 0], [[0, 255, 255, 0]])
    Image.fromarray(photos[0]).convert("CMYK").save(tmp_path / "cmyk.jpg", quality=95)
    _close(decode(tmp_path / "cmyk.jpg", None, 3), photos[0], 5)
    frames = [Image.new("RGB", (6, 6), colour) for colour in ("red", "green", "blue")]
    for name in ("moving.gif", "moving.png", "moving.webp"):
        options = {"lossless": True} if name.endswith("webp") else {}
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], **options)
        np.testing.assert_array_equal(decode(tmp_path / name, None, 3), np.full((6, 6, 3), (255, 0, 0)))
