"""Tar shards: the reader of headers against Python's own, and the source made of them."""

import io
import pathlib
import tarfile

import fsspec
import numpy as np
import pytest
from PIL import Image
from tars import tar

from ssl_jax import data
from ssl_jax.core import UserError
from ssl_jax.data import archive, shards


def png(number: int, size=(6, 5)) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.full((*size, 3), number, np.uint8)).save(file, "PNG")
    return file.getvalue()


def numbers(first: int, last: int, kind: str = "cls") -> dict[str, bytes]:
    """Images of one grey each, and as labels whether the grey is odd, as WebDataset has them."""
    found = {}
    for i in range(first, last):
        found[f"{i:04}.png"] = png(i)
        found[f"{i:04}.{kind}"] = (
            str(i % 2).encode() if kind == "cls" else b'{"label": "%s"}' % [b"even", b"odd"][i % 2]
        )
    return found


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "ssl_jax" / "tar"


@pytest.fixture
def two(tmp_path):
    """Two shards of 20 images."""
    for i in range(2):
        (tmp_path / f"shard-{i:03}.tar").write_bytes(tar(numbers(20 * i, 20 * i + 20)))
    return tmp_path


def greys(source) -> np.ndarray:
    return source[np.arange(len(source))]["image"][:, 0, 0, 0]


def test_images_of_one_example_are_on_the_same_side(tmp_path):
    pairs = {f"{i:04}.{side}.png": png(i) for i in range(60) for side in ("left", "right")}
    (tmp_path / "pairs.tar").write_bytes(tar(pairs))
    train, test = (greys(data.load(f"tar:{tmp_path}/pairs.tar", split)) for split in ("train", "test"))
    assert not set(train) & set(test)
    assert len(train) + len(test) == 120
    assert 0 < len(test) <= 24


LONG = "directory/" * 15 + "é" * 60 + ".png"  # longer than either field of a header
DEEP = "d" * 90 + "/" + "n" * 90 + ".png"  # fits ustar's two fields


@pytest.mark.parametrize(
    ("format", "names"),
    [
        (tarfile.USTAR_FORMAT, ["a.png", "b/c.png", DEEP]),
        (tarfile.GNU_FORMAT, ["a.png", DEEP, LONG]),
        (tarfile.PAX_FORMAT, ["a.png", DEEP, LONG]),
    ],
)
def test_members_are_those_that_pythons_reader_finds(format, names):
    content = {name: bytes([i]) * (511 + i) for i, name in enumerate(names)}
    raw = tar(content, format=format)
    found = {m.name: raw[m.offset : m.offset + m.size] for m in archive.members(io.BytesIO(raw), "x", stop=len(raw))}
    assert found == content
    with tarfile.open(fileobj=io.BytesIO(raw)) as expected:
        assert list(found) == expected.getnames()


def test_directories_links_and_devices_are_passed_over():
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as out:
        for kind in (tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE):
            info = tarfile.TarInfo(f"kind{kind.decode()}.png")
            info.type, info.linkname = kind, "/etc/passwd"
            out.addfile(info)
        info = tarfile.TarInfo("real.png")
        info.size = 3
        out.addfile(info, io.BytesIO(b"abc"))
    raw = file.getvalue()
    assert [m.name for m in archive.members(io.BytesIO(raw), "x", stop=len(raw))] == ["real.png"]


def test_a_tar_file_that_is_damaged_anywhere_is_an_error_or_read():
    """Whatever byte is wrong, nothing but a `UserError` comes out, and no member beyond the file's end."""
    raw = tar({"a.png": b"abc" * 300, LONG: b"d" * 10})
    rng = np.random.default_rng(0)
    outcomes = set()
    for _ in range(400):
        broken = bytearray(raw)
        for place in rng.integers(0, len(raw), 3):
            broken[place] = rng.integers(256)
        broken = bytes(broken[: rng.integers(1, len(raw))])
        try:
            found = list(archive.members(io.BytesIO(broken), "x", stop=len(broken)))
            assert all(m.offset + m.size <= len(broken) for m in found)
            outcomes.add("read")
        except UserError:
            outcomes.add("error")
    assert outcomes == {"read", "error"}


@pytest.mark.parametrize("kind", ["cls", "json"])
def test_images_and_labels(tmp_path, kind):
    (tmp_path / "a.tar").write_bytes(tar(numbers(0, 40, kind)))
    source = data.load(f"tar:{tmp_path}/a.tar", "train+test")
    assert source.classes == (("0", "1") if kind == "cls" else ("even", "odd"))
    np.testing.assert_array_equal(np.sort(greys(source)), np.arange(40))
    np.testing.assert_array_equal(source.labels, greys(source) % 2)
    assert source.files[0].startswith("a.tar/")
    train, test = data.load(f"tar:{tmp_path}/a.tar"), data.load(f"tar:{tmp_path}/a.tar", "test")
    assert len(train) + len(test) == 40
    assert len(test)


@pytest.mark.parametrize("pattern", ["shard-{000..001}.tar", "shard-*.tar", "shard-{000,001}.tar", "shard-00?.tar"])
def test_patterns(two, pattern):
    source = data.load(f"tar:{pattern}", "train+test", data_dir=two)
    np.testing.assert_array_equal(np.sort(greys(source)), np.arange(40))


def test_splits_by_name(two):
    (two / "shard-000.tar").rename(two / "train-0.tar")
    (two / "shard-001.tar").rename(two / "val-0.tar")
    name = f"tar:{two}/{{split}}-*.tar"
    np.testing.assert_array_equal(np.sort(greys(data.load(name))), np.arange(20))
    np.testing.assert_array_equal(np.sort(greys(data.load(name, "test"))), np.arange(20, 40))
    assert data.split_names(name) == ("train", "val")
    with pytest.raises(UserError, match="has no split 'dev'; it has train, val"):
        data.load(name, "dev")


def test_read_at_random_from_disk_and_replaced_where_broken(two):
    members = numbers(0, 20)
    members["0003.png"] = members["0003.png"][:40]
    (two / "shard-000.tar").write_bytes(tar(members))
    source = data.load(f"tar:{two}/shard-*.tar", in_memory=False)
    assert not source.in_memory
    row = [name.endswith("0003.png") for name in source.files].index(True)
    batch = source[np.array([row, 0, 5])]
    np.testing.assert_array_equal(batch["label"], batch["image"][:, 0, 0, 0] % 2)
    ((name, reason),) = data.check(source)
    assert name == "shard-000.tar/0003.png"
    assert reason


def test_labels_are_optional(tmp_path):
    members = numbers(0, 10)
    del members["0004.cls"]
    (tmp_path / "a.tar").write_bytes(tar(members))
    source = data.load(f"tar:{tmp_path}/a.tar")
    assert source.labels is None
    assert set(source[np.arange(2)]) == {"image"}


def test_huge_numbers_are_words(tmp_path):
    """A label must not make a list of as many classes."""
    members = numbers(0, 10) | {"0004.cls": b"9" * 5000}
    (tmp_path / "a.tar").write_bytes(tar(members))
    assert len(data.load(f"tar:{tmp_path}/a.tar").classes) == 3


def test_pickles_and_odd_names_are_only_ignored(tmp_path):
    members = {
        **numbers(0, 6),
        "0000.pkl": b"cos\nsystem\n(S'touch owned'\ntR.",
        "0001.npy": b"x",
        "../../evil.png": png(7),
        "/etc/evil.png": png(8),
    }
    (tmp_path / "a.tar").write_bytes(tar(members))
    before = sorted(tmp_path.rglob("*"))
    source = data.load(f"tar:{tmp_path}/a.tar", "train+test")
    np.testing.assert_array_equal(np.sort(greys(source)), [0, 1, 2, 3, 4, 5, 7, 8])
    assert sorted(tmp_path.rglob("*")) == before
    assert not pathlib.Path("owned").exists()


@pytest.mark.parametrize("name", ["memory://bucket/tars/shard-{000..001}.tar", "file://{there}/shard-*.tar"])
def test_buckets(two, name):
    for path in two.glob("*.tar"):
        fsspec.filesystem("memory").pipe_file(f"/bucket/tars/{path.name}", path.read_bytes())
    local = data.load(f"tar:{two}/shard-*.tar", "train+test")
    remote = data.load("tar:" + name.replace("{there}", str(two)), "train+test")
    np.testing.assert_array_equal(remote.images, local.images)
    np.testing.assert_array_equal(remote.labels, local.labels)
    assert remote.files.tolist() == local.files.tolist()


def test_headers_are_read_once(two, cache, monkeypatch):
    monkeypatch.setattr(shards, "SLOW", -1)
    first = data.load(f"tar:{two}/shard-*.tar")
    assert len(list(cache.glob("*.npz"))) == 2
    with monkeypatch.context() as patch:
        patch.setattr(archive, "members", None)  # so that nothing is read anew
        again = data.load(f"tar:{two}/shard-*.tar")
    assert again.fingerprint == first.fingerprint
    np.testing.assert_array_equal(again.images, first.images)
    for path in cache.glob("*.npz"):  # what is damaged there is read anew
        path.write_bytes(path.read_bytes()[:200])
    assert data.load(f"tar:{two}/shard-*.tar").fingerprint == first.fingerprint
    (two / "shard-000.tar").write_bytes(tar(numbers(50, 60)))  # and so is what has changed
    assert data.load(f"tar:{two}/shard-*.tar").fingerprint != first.fingerprint


BAD = {
    "no such file": (
        "gone.tar",
        "no tar file with an image fits tar:.*gone.tar; write for example 'tar:shards-.*, with the quotes",
    ),
    "a shard missing": ("shard-{000..003}.tar", "2 of 4 shards of tar:.* are missing, such as .*shard-002.tar"),
    "counting down": ("shard-{9..0}.tar", r"\{9\.\.0\} in .* counts down; write \{0\.\.9\}"),
    "compressed": ("packed.tar", r"packed.tar is compressed \(gzip\).*unpack it to a plain .tar"),
    "cut off": ("cut.tar", "cut.tar is cut off: it ends within '0019.png', .* bytes early; copy it again"),
    "no tar file": ("text.tar", "text.tar is no tar file; give uncompressed .tar files"),
    "empty": ("empty.tar", "empty.tar is no tar file: it has 0 bytes"),
    "without images": ("other.tar", "no tar file with an image fits"),
    "directory": (".", "can't be read .*[Dd]irectory"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_tar_files(two, case):
    import gzip

    whole = (two / "shard-000.tar").read_bytes()
    (two / "packed.tar").write_bytes(gzip.compress(whole))
    (two / "cut.tar").write_bytes(whole[: whole.index(b"0019.png") + 530])
    (two / "text.tar").write_bytes(b"hello " * 200)
    (two / "empty.tar").write_bytes(b"")
    (two / "other.tar").write_bytes(tar({"a.txt": b"x"}))
    pattern, message = BAD[case]
    with pytest.raises(UserError, match=message):
        data.load(f"tar:{two}/{pattern}")
