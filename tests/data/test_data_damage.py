"""Images as they come: what is whole is read as it looks, what is not is named with a reason and replaced by a rule."""

import io
import logging
import os
import resource
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from sklearn.datasets import load_sample_images

from ssl_jax import data
from ssl_jax.core import UserError
from ssl_jax.data import lazy
from ssl_jax.data.damage import printable
from ssl_jax.data.decode import decode, try_decode, why_broken

FORMATS = ("jpeg", "png", "gif", "tiff", "webp", "bmp", "ppm")


def encoded(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


@pytest.fixture(scope="module")
def photo():
    return Image.fromarray(load_sample_images().images[0]).resize((64, 48))


def png_header(width, height):
    """A PNG of so many grey pixels, of which only the header is there: bombs need few bytes."""
    chunk = lambda kind, body: struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))  # noqa: E731
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


BROKEN = {
    "empty": (lambda photo: b"", "empty file"),
    "text": (lambda photo: b"not an image", "no image, or of a format that is not read"),
    "zeros": (lambda photo: bytes(5000), "no image, or of a format that is not read"),
    **{f"truncated {kind}": (lambda photo, kind=kind: encoded(photo, kind)[:800], "") for kind in FORMATS},
    "bomb": (lambda photo: png_header(20_000, 20_000), "400,000,000 pixels, more than the 89,478,485 that are taken"),
    "half a bomb": (lambda photo: png_header(10_000, 10_000), "100,000,000 pixels, more than the 89,478,485"),
    "wrong check sum": (lambda photo: encoded(photo, "png").replace(b"IHDR", b"IHDS"), "no image, or of a"),
    "postscript": (lambda photo: encoded(photo, "eps"), "no image, or of a format that is not read"),
}


@pytest.mark.parametrize("kind", BROKEN)
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_broken_images_are_named(tmp_path, photo, kind):
    make, reason = BROKEN[kind]
    (tmp_path / "a.jpg").write_bytes(make(photo))
    for image in (make(photo), tmp_path / "a.jpg", str(tmp_path / "a.jpg")):
        why = why_broken(image)
        assert why is not None
        assert why.startswith(reason)
        assert len(why) < 120
        assert "\n" not in why
        assert try_decode(image, 8, 3) is None
    if kind.startswith("truncated"):
        assert why in ("truncated", "damaged: could not create decoder object")


def test_broken_paths_are_named(tmp_path):
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    (tmp_path / "dangling.png").symlink_to(tmp_path / "nowhere.png")
    (tmp_path / "folder.png").mkdir()
    for name, reason in (
        ("loop.png", "a loop of symbolic links"),
        ("dangling.png", "no such file"),
        ("folder.png", "a directory"),
        ("a" * 300, "too long a name"),
    ):
        assert why_broken(tmp_path / name) == reason


def test_shortages_of_the_machine_are_no_damage(tmp_path, photo):
    photo.save(tmp_path / "a.png")
    kept = []
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, limits[1]))
    try:
        with pytest.raises(OSError, match="Too many open files"):  # noqa: PT012
            for _ in range(100):
                kept.append(open(os.devnull))  # noqa: SIM115
        with pytest.raises(OSError, match="Too many open files"):
            try_decode(tmp_path / "a.png", 8, 3)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        for file in kept:
            file.close()
    assert try_decode(tmp_path / "a.png", 8, 3) is not None


def test_unreadable_permission(tmp_path, photo):
    path = tmp_path / "private.png"
    photo.save(path)
    path.chmod(0)
    root = os.geteuid() == 0
    if root:  # whom no permission stops
        os.seteuid(65534)
    try:
        assert why_broken(path) == "permission denied"
    finally:
        if root:
            os.seteuid(0)


WHOLE = {
    "wrong extension": lambda photo: encoded(photo, "png"),
    "cmyk": lambda photo: encoded(photo.convert("CMYK"), "jpeg"),
    "16 bits": lambda photo: encoded(Image.fromarray(np.asarray(photo.convert("L")).astype(np.uint16) * 257), "png"),
    "animated": lambda photo: encoded(photo, "gif", save_all=True, append_images=[photo.rotate(90)]),
    "one pixel": lambda photo: encoded(photo.resize((1, 1)), "png"),
    "20,000 wide": lambda photo: encoded(photo.resize((20_000, 3)), "jpeg"),
    "20,000 high": lambda photo: encoded(photo.resize((3, 20_000)), "png"),
}


@pytest.mark.parametrize("kind", WHOLE)
def test_odd_images_are_whole(tmp_path, photo, kind):
    path = tmp_path / "a.jpg"
    path.write_bytes(WHOLE[kind](photo))
    assert why_broken(path) is None
    for channels in (1, 3):
        assert decode(path, 8, channels).shape == (8, 8, channels)
        crops = (data.Crop(size=8), data.Crop(size=4))
        source = data.CroppedSource(lazy_source([path.read_bytes()], channels), crops, seed=0)
        assert [x.shape for x in source[:]["image"]] == [(1, 1, 8, 8, channels), (1, 1, 4, 4, channels)]


def lazy_source(files, channels=3):
    array = np.empty(len(files), object)
    array[:] = [f"{i}.png" for i in range(len(files))]
    return lazy.LazySource(
        array,
        lambda names: ([files[int(name.split(".")[0])] for name in names], None),
        labels=np.arange(len(files), dtype=np.int32),
        classes=tuple(map(str, range(len(files)))),
        shape=(8, 8, channels),
        image_size=8,
        name="some",
        fingerprint=lambda: "some",
    )


def one_colour(value):
    return encoded(Image.new("RGB", (12, 10), (value, value, value)), "png")


def some(photo, damaged=(1, 2, 6)):
    """Eight images of one colour each, some of them damaged."""
    bad = encoded(photo, "png")[:700]
    return lazy_source([bad if i in damaged else one_colour(10 * i) for i in range(8)])


def test_damaged_are_replaced_by_the_next_whole_one(photo, caplog):
    expected = np.array([0, 3, 3, 3, 4, 5, 7, 7])
    source = some(photo)
    with caplog.at_level(logging.WARNING):
        whole = source[:]
        crops = data.CroppedSource(source, (data.Crop(size=4),), seed=0)
        cut = crops.at_step(5, np.arange(8))
    np.testing.assert_array_equal(whole["label"], expected)
    np.testing.assert_array_equal(whole["image"][:, 0, 0, 0], 10 * expected)
    np.testing.assert_array_equal(cut["image"][:, 0, 0, 0, 0], 10 * expected)
    assert source.damaged == crops.damaged == dict.fromkeys(("1.png", "2.png", "6.png"), "truncated")
    assert sorted(r.getMessage().partition("next one: ")[2] for r in caplog.records) == [
        f"{name}.png (truncated)" for name in (1, 2, 6)
    ]


def test_labels_are_those_of_the_images_that_were_read(photo):
    """Or features of one image would be scored by the label of another."""
    source = some(photo)
    odd, all_ = data.Subset(source, np.arange(1, 8, 2)), data.combine.Joined([source, some(photo)], "two")
    np.testing.assert_array_equal(all_.labels, [*range(8), *range(8)])
    np.testing.assert_array_equal(odd.labels, [1, 3, 5, 7])
    np.testing.assert_array_equal(odd[:]["label"], odd.labels)
    np.testing.assert_array_equal(odd.labels, [3, 3, 5, 7])
    np.testing.assert_array_equal(source[:]["label"], source.labels)
    np.testing.assert_array_equal(all_.labels, [0, 3, 3, 3, 4, 5, 7, 7, *range(8)])
    part = source.select(np.asarray([6, 0]))  # where another image is the next one
    np.testing.assert_array_equal(part.labels, [6, 0])
    np.testing.assert_array_equal(part[:]["label"], part.labels)


@pytest.mark.parametrize("count", [1, 2, 4])
def test_replacement_is_the_same_on_any_number_of_hosts(photo, count):
    read = lambda **kwargs: next(data.batches(some(photo), batch_size=8, start=3, prefetch=0, **kwargs))  # noqa: E731
    parts = [read(process_index=i, process_count=count) for i in range(count)]
    for key, value in read().items():
        np.testing.assert_array_equal(np.concatenate([part[key] for part in parts]), value)


def test_what_is_made_of_sources_knows_the_damaged(photo):
    one, other = some(photo), some(photo, damaged=(0, 7))
    both = data.combine.Joined([one, data.Subset(other, np.arange(4))], "both")
    both[:]
    assert set(both.damaged) == {"0.png", "1.png", "2.png", "6.png"}
    other.name, other.left_out = "others", {"9.png": "empty file"}
    two = data.combine.Joined([one, other], "two")
    both, names = data.combine.Joined([two, some(photo)], "three"), [f"{one.name}: 1.png", "others: 0.png"]
    assert set(names) < set(two.damaged) == set(both.damaged)
    assert [two.damaged[name] for name in names] == ["truncated"] * 2
    assert dict(two.left_out) == dict(both.left_out) == {"others: 9.png": "empty file"}
    assert "0.png" not in two.damaged
    kept = some(photo).settle()
    assert isinstance(kept, data.ArraySource)
    assert set(kept.damaged) == {"1.png", "2.png", "6.png"}


def test_all_damaged(photo):
    source = some(photo, damaged=range(8))
    with pytest.raises(UserError, match="in a row"):
        data.CroppedSource(source, (data.Crop(size=4),), seed=0)[:2]


def test_names_are_printable():
    for name, text in (("a.png", "a.png"), ("b\udcff\n.png", "b\\udcff\\n.png"), ("Größe 1", "Größe 1")):
        assert printable(name) == text
        text.encode()


def test_names_that_are_no_text(tmp_path, photo, caplog, monkeypatch):
    monkeypatch.setattr(lazy, "IN_MEMORY_BYTES", 0)
    for name in (b"\xff\xfe.png", b"caf\xe9.jpg", b"new\nline.png"):
        with open(os.path.join(os.fsencode(tmp_path), name), "wb") as file:
            file.write(encoded(photo, "png")[:900] if b"\xff" in name else encoded(photo, "png"))
    with caplog.at_level(logging.WARNING):
        source = data.load(f"folder:{tmp_path}", "train+test", image_size=8)
        assert source[:]["image"].shape == (3, 8, 8, 3)
    assert list(source.damaged.values()) == ["truncated"]
    assert "\\udcff\\udcfe.png (truncated)" in caplog.text


SEEDS = [encoded(Image.new("RGB", (9, 7), "teal"), kind) for kind in FORMATS] + [
    encoded(Image.effect_noise((40, 30), 60).convert("RGB"), kind) for kind in FORMATS
]


@st.composite
def mutated(draw):
    """A small image of any format, with bytes changed, left out, doubled or cut off."""
    image = bytearray(draw(st.sampled_from(SEEDS)))
    for _ in range(draw(st.integers(0, 8))):
        at = draw(st.integers(0, max(len(image) - 1, 0)))
        kind = draw(st.sampled_from(("set", "cut", "drop", "double")))
        if kind == "set":
            image[at : at + 1] = draw(st.binary(min_size=1, max_size=4))
        elif kind == "cut":
            del image[at:]
        elif kind == "drop":
            del image[at : at + draw(st.integers(1, 40))]
        else:
            image[at:at] = image[at : at + draw(st.integers(1, 40))]
    return bytes(image)


# A longer search: SSL_JAX_FUZZ=100000 pytest -n 0 tests/data/test_data_damage.py -k bytes
EXAMPLES = int(os.environ.get("SSL_JAX_FUZZ", "200"))
bounded = settings(max_examples=EXAMPLES, derandomize=EXAMPLES == 200, deadline=None, database=None)


@pytest.mark.filterwarnings("ignore")  # Pillow has many
@bounded
@given(mutated(), st.sampled_from((None, 5)), st.sampled_from((1, 3)))
def test_whatever_the_bytes_an_image_of_the_right_shape_or_a_reason(image, size, channels):
    made = try_decode(image, size, channels)
    if made is not None:
        assert made.dtype == np.uint8
        assert made.ndim == 3
        assert made.shape[2] == channels
        assert size is None or made.shape == (size, size, channels)
    why = why_broken(image)
    assert (why is None) == (try_decode(image, None, 3) is not None)
    assert why is None or (0 < len(why) < 120 and why.isprintable())
    cut = data.CroppedSource(lazy_source([image, one_colour(7)], channels), (data.Crop(size=5),), seed=0)
    assert cut[np.array([0])]["image"].shape == (1, 1, 5, 5, channels)
