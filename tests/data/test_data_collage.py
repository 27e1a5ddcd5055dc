import numpy as np
import pytest
from PIL import Image, ImageDraw

from ssl_jax import data
from ssl_jax.core import UserError
from ssl_jax.data import collage, photos

FASHION = "collage:fashion_mnist"


@pytest.fixture(scope="module")
def source():
    return data.load(FASHION, "train[:60]")


@pytest.fixture(scope="module")
def stamps(tmp_path_factory):
    """Two classes of opaque discs and squares, each of a colour of its own, and a folder with too few."""
    root = tmp_path_factory.mktemp("stamps")
    for number, (folder, count) in enumerate((("discs", 40), ("few", 5), ("squares", 30))):
        (root / folder / "inside").mkdir(parents=True)
        for i in range(count):
            image = Image.new("RGBA", (50, 40), (0, 0, 0, 0))
            draw = ImageDraw.Draw(image)
            draw_shape = draw.ellipse if folder == "discs" else draw.rectangle
            draw_shape((10, 5, 40, 35), fill=(6 * i + 5, 100 * number, 0, 255))
            image.save(root / folder / "inside" / f"{i:02}.png")
    return root


def test_shapes_kinds_and_values(source):
    examples = source[np.arange(60)]
    found = {key: (value.dtype.name, value.shape[1:]) for key, value in examples.items()}
    assert found == {
        "image": ("uint8", (64, 64, 3)),
        "boxes": ("float32", (4, 4)),
        "box_labels": ("int32", (4,)),
        "mask": ("uint8", (64, 64)),
    }
    assert source.labels is None
    assert source.classes is None
    assert source.box_classes[9] == "Ankle boot"
    there = examples["box_labels"] >= 0
    assert set(there.sum(axis=1)) == {1, 2, 3, 4}
    assert (np.diff(there.astype(int), axis=1) <= 0).all()  # padding comes last
    np.testing.assert_array_equal(examples["boxes"][~there], 0)
    boxes = examples["boxes"][there]
    assert (boxes >= 0).all()
    assert (boxes <= 64).all()
    assert (boxes[:, 2:] > boxes[:, :2]).all()
    assert set(examples["box_labels"][there]) == set(range(10))


def test_boxes_hold_their_masks_and_nothing_more(source):
    """Of images where no two objects have the same class: box and mask say the same."""
    checked = 0
    for example in (source[i] for i in range(60)):
        labels = example["box_labels"][example["box_labels"] >= 0]
        if len(set(labels)) < len(labels):
            continue
        assert set(np.unique(example["mask"])) == {0, *(labels + 1)}
        for box, label in zip(example["boxes"], labels, strict=False):
            y, x = np.nonzero(example["mask"] == label + 1)
            np.testing.assert_array_equal(box, [x.min(), y.min(), x.max() + 1, y.max() + 1])
            checked += 1
    assert checked > 50


def test_objects_overlap_little():
    boxes = [(0, 0, 10, 10), (5, 5, 15, 15), (20, 0, 30, 10), (2, 2, 4, 4)]
    assert [collage._share(boxes[0], box) for box in boxes] == [1, 0.25, 0, 1]
    examples = data.load(FASHION, "test[:80]")[np.arange(80)]
    for boxes, labels in zip(examples["boxes"], examples["box_labels"], strict=True):
        there = [tuple(map(int, box)) for box in boxes[labels >= 0]]
        # Boxes are of what is seen, a little smaller than those that were placed.
        assert all(collage._share(a, b) < 0.45 for i, a in enumerate(there) for b in there[:i])


def test_an_image_is_a_function_of_split_and_number(source):
    again = data.load(FASHION, "train[10:14]")
    for key, value in again[np.arange(4)].items():
        np.testing.assert_array_equal(value, source[np.arange(10, 14)][key])
    assert again.fingerprint == data.load(FASHION, "train[10:14]").fingerprint
    assert len({again.fingerprint, source.fingerprint, data.load(FASHION, "test[10:14]").fingerprint}) == 3
    assert not np.array_equal(source.images[0], data.load(FASHION, "test[:1]").images[0])
    assert [len(collage.read("fashion_mnist", s, None, None)) for s in ("train", "test")] == [5000, 1000]
    both = data.load(FASHION, "train[:3]+test[:2]")
    assert both.box_classes == source.box_classes
    np.testing.assert_array_equal(both[np.arange(5)]["boxes"][:3], source[np.arange(3)]["boxes"])


def test_size_and_channels():
    small, grey = data.load(FASHION, "train[:4]", image_size=96), data.load(FASHION, "train[:4]", channels=1)
    assert small.images.shape == (4, 96, 96, 3)
    assert grey.images.shape == (4, 64, 64, 1)
    colour = data.load(FASHION, "train[:4]")
    luma = colour.images @ np.array([0.299, 0.587, 0.114])
    np.testing.assert_allclose(grey.images[..., 0], luma, atol=1.0)
    np.testing.assert_array_equal(grey.extras["boxes"], colour.extras["boxes"])
    with pytest.raises(UserError, match="image_size=16 is too small"):
        data.load(FASHION, image_size=16)


def test_no_object_and_no_background_is_in_both_splits(stamps):
    """Every stamp here has a colour of its own, which tells where it was used."""
    seen = {}
    for split in ("train", "test"):
        source = data.load("collage:stamps", f"{split}[:150]", data_dir=stamps)
        assert source.box_classes == ("discs", "squares")
        examples = source[np.arange(len(source))]
        for label in (0, 1):
            colours, counts = np.unique(examples["image"][examples["mask"] == label + 1], axis=0, return_counts=True)
            own = (colours[:, 1] == 200 * label) & (colours[:, 2] == 0) & (counts > 40)
            seen[split, label] = {(red - 5) // 6 for red in colours[own, 0].tolist() if (red - 5) % 6 == 0}
    for label, count in ((0, 40), (1, 30)):
        assert seen["test", label] <= set(range(3, count, 4))
        assert len(seen["test", label]) >= 5
        assert not seen["train", label] & set(range(3, count, 4))
    parts = [[np.asarray(image) for image in collage._backgrounds(split)] for split in ("train", "test")]
    for file, left, right in zip(photos.SKLEARN, *parts, strict=True):
        np.testing.assert_array_equal(np.concatenate([left, right], axis=1), photos.photograph(file))


def test_transparency_shows_the_background(stamps):
    """A box that is not filled by its disc holds background in its corners."""
    source = data.load("collage:stamps", "train[:40]", data_dir=stamps)
    examples = source[np.arange(40)]
    shares = []
    for boxes, labels, mask in zip(examples["boxes"], examples["box_labels"], examples["mask"], strict=True):
        if (labels >= 0).sum() == 1:
            x0, y0, x1, y1 = boxes[0].astype(int)
            shares.append(((mask[y0:y1, x0:x1] > 0).mean(), labels[0]))
    assert all(abs(share - (1 if label else np.pi / 4)) < 0.12 for share, label in shares)
    assert len({label for _, label in shares}) == 2


def test_missing_packages(tmp_path):
    with pytest.raises(UserError, match=r"no stamps in .*apt-get install tuxpaint-stamps-default"):
        data.load("collage:stamps", data_dir=tmp_path)
    with pytest.raises(UserError, match="apt-get install dataset-fashion-mnist"):
        data.load(FASHION, data_dir=tmp_path)
    with pytest.raises(UserError, match=r"there is no data 'collage:cars'.*Did you mean collage:stamps"):
        data.load("collage:cars")
    with pytest.raises(UserError, match="no split 'val'"):
        data.load(FASHION, "val")
