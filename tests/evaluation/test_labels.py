import numpy as np
import pytest

from ssl_jax import data
from ssl_jax.core import UserError
from ssl_jax.evaluation import draw_share, rows_named
from ssl_jax.evaluation.labels import count_classes

FILES = ("n01/n01_1.JPEG", "n01/n01_2.JPEG", "n02/n02_1.JPEG", "n02/x.JPEG", "n01/x.JPEG")


class Files(data.Source):
    """Images that are files, none of which is opened."""

    name, classes, files = "photos", ("n01", "n02"), np.asarray(FILES, object)
    labels = np.asarray([0, 0, 1, 1, 0], np.int32)
    fingerprint = "0"

    def __len__(self):
        return len(self.files)

    def __getitem__(self, index):
        raise AssertionError


def test_a_share_is_of_each_class_and_never_none_of_one():
    labels = np.repeat(np.arange(3), [200, 51, 4]).astype(np.int32)
    rows = draw_share(labels, share=0.1)
    np.testing.assert_array_equal(np.bincount(labels[rows]), [20, 5, 1])
    assert len(set(rows.tolist())) == len(rows)
    np.testing.assert_array_equal(np.sort(draw_share(labels, share=1.0)), np.arange(255))


def test_draws_are_by_seed_share_and_trial():
    labels = np.repeat(np.arange(2), 100).astype(np.int32)
    draw = lambda **kwargs: draw_share(labels, **{"share": 0.1, **kwargs}).tolist()  # noqa: E731
    assert draw() == draw(seed=0, trial=0)
    others = [draw(seed=1), draw(trial=1), draw(share=0.099999)]
    assert all(draw() != other for other in others)


def test_draws_look_at_labels_alone_and_gaps_between_classes_do_not_matter():
    labels = np.asarray([0, 5] * 20, np.int32)
    np.testing.assert_array_equal(np.bincount(labels[draw_share(labels, share=0.1)], minlength=6), [2, 0, 0, 0, 0, 2])


@pytest.mark.parametrize("share", [0.0, 1.5, float("nan")])
def test_impossible_shares_are_refused(share):
    with pytest.raises(UserError, match=r"`share` of the labels must be above 0 and at most 1 \(0\.01 for 1 %\)"):
        draw_share(np.zeros(3, np.int32), share=share)


@pytest.mark.parametrize("written", ["list", "file"])
def test_names_fit_the_end_of_a_path_in_the_lists_order(written, tmp_path):
    names = ["n02_1.JPEG", "n01/x.JPEG", "n01_1.JPEG"]
    if written == "file":
        (tmp_path / "1percent.txt").write_text("\n".join(names) + "\n\n")
        names = tmp_path / "1percent.txt"
    np.testing.assert_array_equal(rows_named(Files(), names), [2, 4, 0])


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            ["n01_1.JPEG", "a.png", "b.png"],
            "2 of the 3 file names on the list, such as a.png, are not in photos",
        ),
        (["1.JPEG"], "1 of the 1 file names.* named like n01/n01_1.JPEG"),
        (["x.JPEG"], "x.JPEG on the list fits both n02/x.JPEG and n01/x.JPEG; write the folder before it"),
        ([], "The list of file names is empty"),
        ("/no/such/list.txt", "The list of file names /no/such/list.txt can't be read"),
    ],
)
def test_lists_that_do_not_fit_are_errors(names, message):
    with pytest.raises(UserError, match=message):
        rows_named(Files(), names)


def test_images_without_files_have_no_names():
    with pytest.raises(UserError, match="digits test has no file names, so a list of names can't choose"):
        rows_named(data.load("digits", "test"), ["a.png"])


def test_classes_are_counted_by_name_or_label():
    image = np.zeros((3, 2, 2, 1), np.uint8)
    make = lambda labels, classes=None: data.from_arrays(image, np.asarray(labels), classes)  # noqa: E731
    assert count_classes(make([0, 1, 1], "abc"), make([0, 0, 0], "abc")) == 3
    with pytest.raises(UserError, match="different classes"):
        count_classes(make([0, 1, 1]), make([0, 1, 2]))
