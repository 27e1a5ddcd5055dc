import numpy as np
import pytest
from PIL import Image

from ssl_jax import data
from ssl_jax.core import UserError
from ssl_jax.data import splits


def test_row_numbers(tmp_path):
    (tmp_path / "ids+more.txt").write_bytes(b"\xef\xbb\xbf7\r\n0\n1259\n\n")  # as of an editor of Windows
    source = data.load("digits", f"train[@{tmp_path}/ids+more.txt]")
    whole = data.load("digits")
    np.testing.assert_array_equal(source.images, whole.images[[7, 0, 1259]])
    np.testing.assert_array_equal(source.labels, whole.labels[[7, 0, 1259]])
    assert source.fingerprint != whole.fingerprint
    both = data.load("digits", f"train[@{tmp_path}/ids+more.txt]+test[:2]")
    assert len(both) == 5


@pytest.mark.parametrize("in_memory", [True, False])
def test_file_names(tmp_path, in_memory):
    for i in range(20):
        (tmp_path / "images" / f"class{i % 2}").mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((4, 4), 10 * i, np.uint8)).save(tmp_path / "images" / f"class{i % 2}" / f"n_{i}.png")
    known = data.load(f"folder:{tmp_path}/images").files
    chosen = [known[3].rpartition("/")[2], known[1]]
    (tmp_path / "1percent.txt").write_text("\n".join(chosen))
    source = data.load(f"folder:{tmp_path}/images", f"train[@{tmp_path}/1percent.txt]", in_memory=in_memory)
    assert source.files.tolist() == [known[3], known[1]]
    expected = [10 * int(name.rpartition("_")[2].removesuffix(".png")) for name in source.files]
    np.testing.assert_array_equal(source[np.arange(2)]["image"][:, 0, 0, 0], expected)
    np.testing.assert_array_equal(source.labels, [int(name[5]) for name in source.files])
    (tmp_path / "1percent.txt").write_text("a.png\n")
    with pytest.raises(UserError, match=r"1 of the 1 file names on the list, such as a.png, are not in folder:.* like"):
        data.load(f"folder:{tmp_path}/images", f"train[@{tmp_path}/1percent.txt]")
    (tmp_path / "images" / known[1]).write_text("no image")
    (tmp_path / "1percent.txt").write_text(known[1].rpartition("/")[2])
    with pytest.raises(UserError, match=r"which leaves it out \(no image, or of a .*\): take it off the list, or mend"):
        data.load(f"folder:{tmp_path}/images", f"train[@{tmp_path}/1percent.txt]", in_memory=in_memory)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1260", r"digits train has no file names, so its ids are row numbers from 0 to 1259.*such as 1260"),
        ("1\n-3\nx", "2 of the 3 in .* are none, such as -3"),
        ("", "ids.txt is empty"),
        (None, "The list of file names .*ids.txt can't be read .No such file"),
    ],
)
def test_lists_that_fit_nothing(tmp_path, text, message):
    if text is not None:
        (tmp_path / "ids.txt").write_text(text)
    with pytest.raises(UserError, match=message):
        data.load("digits", f"train[@{tmp_path}/ids.txt]")


def test_how_splits_are_written():
    Part = splits.Part
    assert splits.parse("train[@a+b.txt]+test[:10%]") == [Part("train", ids="a+b.txt"), Part("test", stop="10%")]
    assert splits.parse(" train [ @ gs://x/y.txt ] ") == [Part("train", ids="gs://x/y.txt")]
    for wrong in ("train[@]", "train[@a.txt", "train[a.txt]", "train+", "+train", "train[1:2]x"):
        with pytest.raises(UserError, match="is not understood; write for example"):
            splits.parse(wrong)
