import json

import numpy as np
import pytest
from PIL import Image

from ssl_jax import data
from ssl_jax.core import UserError
from ssl_jax.data import boxes, coco, combine, decode, voc

SIZES = {"a.png": (40, 20), "b.png": (30, 30), "c.png": (20, 40)}


@pytest.fixture
def root(tmp_path):
    (tmp_path / "train2017").mkdir()
    (tmp_path / "annotations").mkdir()
    for name, size in SIZES.items():
        Image.new("RGB", size, (200, 100, 50)).save(tmp_path / "train2017" / name)
    return tmp_path


def instances(annotations):
    """Ids with gaps and out of order, as in COCO itself."""
    numbers = {"a.png": 7, "b.png": 3, "c.png": 5}
    return {
        "images": [{"id": numbers[f], "file_name": f, "width": w, "height": h} for f, (w, h) in SIZES.items()],
        "categories": [{"id": 90, "name": "dog"}, {"id": 2, "name": "cat"}],
        "annotations": [
            {"id": i, "image_id": numbers[file], "category_id": category, "bbox": box, **more}
            for i, (file, category, box, more) in enumerate(annotations)
        ],
    }


GOOD = [
    ("a.png", 90, [4, 2, 10, 8], {}),
    ("a.png", 2, [0, 0, 40.5, 20], {"iscrowd": 1}),
    ("c.png", 2, [1, 2, 3, 4], {"iscrowd": 0, "area": 7.5}),
]


def write(root, content):
    path = root / "annotations" / "instances_train2017.json"
    path.write_text(json.dumps(content))
    return path


def annotate(root, name, objects, size=(40, 20), head=""):
    parts = "".join(
        f"<object><name>{label}</name><difficult>{difficult}</difficult><bndbox><xmin>{b[0]}</xmin><ymin>{b[1]}</ymin>"
        f"<xmax>{b[2]}</xmax><ymax>{b[3]}</ymax></bndbox></object>"
        for label, b, difficult in objects
    )
    text = (
        f"{head}<annotation><filename>{name}.png</filename><size><width>{size[0]}</width><height>{size[1]}</height>"
        f"<depth>3</depth></size>{parts}</annotation>"
    )
    (root / f"{name}.xml").write_text(text)
    Image.new("RGB", size, (9, 9, 9)).save(root / f"{name}.png")


def test_coco_is_read_and_scaled(root):
    write(root, instances(GOOD))
    source = data.load(f"coco:{root}", "train", image_size=80)
    assert source.box_classes == ("cat", "dog")
    assert source.files.tolist() == ["a.png", "b.png", "c.png"]
    examples = source[np.arange(3)]
    assert examples["image"].shape == (3, 80, 80, 3)
    assert examples["box_labels"].shape == (3, 100)
    np.testing.assert_array_equal(examples["box_labels"][:, :3], [[0, 1, -1], [-1, -1, -1], [0, -1, -1]])
    np.testing.assert_array_equal(examples["boxes"][0, :2], [[0, 0, 80, 40], [8, 4, 28, 20]])  # largest first, cut
    np.testing.assert_array_equal(examples["boxes"][2, 0], [2, 4, 8, 12])
    np.testing.assert_array_equal(examples["box_ignore"][0, :3], [True, False, False])
    np.testing.assert_allclose(examples["scale"], [2, 80 / 30, 2])
    np.testing.assert_array_equal(examples["box_area"][:, :3], [[800, 80, 0], [0, 0, 0], [7.5, 0, 0]])  # a mask's
    # The picture lies in the upper left, the rest is grey.
    np.testing.assert_array_equal(examples["image"][0, :40], np.broadcast_to([200, 100, 50], (40, 80, 3)))
    np.testing.assert_array_equal(examples["image"][0, 40:], 128)
    np.testing.assert_array_equal(examples["image"][2, :, 40:], 128)
    assert source.fingerprint != data.load(f"coco:{root}", "train", image_size=40).fingerprint


def test_what_is_held_out_is_the_test_set_where_there_is_no_other(root):
    """COCO has no boxes of its test images, nor has VOC 2012: evaluation asks for `test`."""
    write(root, instances(GOOD))
    with pytest.raises(UserError, match="no split 'test'; it has train2017"):
        data.load(f"coco:{root}", "test", image_size=40)
    (root / "annotations" / "instances_train2017.json").rename(root / "annotations" / "instances_val2017.json")
    (root / "train2017").rename(root / "val2017")
    assert data.load(f"coco:{root}", "test", image_size=40).files.tolist() == ["a.png", "b.png", "c.png"]

    lists = root / "ImageSets" / "Main"
    lists.mkdir(parents=True)
    for name, split in (("000001", "val"), ("000002", "test")):
        annotate(root, name, [("cat", (1, 1, 5, 5), 0)])
        (lists / f"{split}.txt").write_text(name)
        assert data.load(f"voc:{root}", "test", image_size=40).files.tolist() == [f"{name}.png"]


def test_a_slice_is_that_of_the_images(root):
    write(root, instances(GOOD))
    part = data.load(f"coco:{root}", "train2017[2:]", image_size=40, channels=1)
    assert len(part) == 1
    assert part.files.tolist() == ["c.png"]
    assert part.images.shape == (1, 40, 40, 1)
    np.testing.assert_array_equal(part[0]["boxes"][0], [1, 2, 4, 6])


def test_sources_that_stay_on_disk_are_joined_with_their_boxes(root):
    path = write(root, instances(GOOD))
    source = coco.read_coco(root / "train2017", path, image_size=40)
    assert isinstance(source, data.BoxedSource)
    both = combine.join([source.select(np.asarray([2])), source], "both")
    assert both.box_classes == ("cat", "dog")
    examples = both[np.asarray([1, 0, 3])]
    for key, value in source[np.asarray([0, 2, 2])].items():
        np.testing.assert_array_equal(examples[key], value)


@pytest.mark.parametrize(
    ("box", "shown"),
    [
        ([4, 2, 0, 8], "x 4 to 4, y 2 to 10"),
        ([4, 2, 10, -8], "x 4 to 14, y 2 to -6"),
        ([50, 2, 10, 8], "x 50 to 60, y 2 to 10"),
        ([30, 2, 38, 8], "x 30 to 68, y 2 to 10"),  # x y x y in place of x y width height
        ([-9, 2, 30, 8], "x -9 to 21, y 2 to 10"),
        ([float("nan"), 2, 3, 8], "x nan to nan, y 2 to 10"),
    ],
)
def test_bad_boxes_are_named(root, box, shown):
    write(root, instances([*GOOD, ("a.png", 2, box, {})]))
    with pytest.raises(UserError) as error:
        data.load(f"coco:{root}", "train", image_size=40)
    assert f"1 of the 4 boxes of coco:{root} train are empty, inverted or outside" in str(error.value)
    assert f"a.png (40 x 20), box {shown}" in str(error.value)


def test_a_bad_box_in_hundreds_is_left_out_and_logged(root, caplog):
    write(root, instances([*GOOD * 40, ("c.png", 2, [1, 2, 0, 5], {})]))
    source = data.load(f"coco:{root}", "train", image_size=40)
    assert "left out 1 of 121 boxes" in caplog.text
    assert "c.png (20 x 40), box x 1 to 1" in caplog.text
    assert (source[np.arange(3)]["box_labels"] >= 0).sum(axis=1).tolist() == [80, 0, 40]


def test_what_is_wrong_with_files_is_said(root):
    with pytest.raises(UserError, match="no split 'train'; it has none"):
        data.load(f"coco:{root}", "train", image_size=40)
    path = write(root, instances(GOOD))
    with pytest.raises(UserError, match="differ in size, for example 40 x 20 and 30 x 30; give image_size"):
        data.load(f"coco:{root}", "train")
    for content in ({"images": []}, [], {**instances(GOOD), "categories": []}, "text"):
        path.write_text(json.dumps(content))
        with pytest.raises(UserError, match="no instances file in COCO's format"):
            coco.read_coco(root / "train2017", path, image_size=40)
    path.write_text("{")
    with pytest.raises(UserError, match="no instances file in COCO's format"):
        coco.read_coco(root / "train2017", path, image_size=40)
    with pytest.raises(UserError, match=r"nowhere\.json can't be read: No such file"):
        coco.read_coco(root, root / "nowhere.json")
    for outside in ("../secret.png", "/etc/passwd", "x/../../secret.png"):
        content = instances(GOOD)
        content["images"][1]["file_name"] = outside
        write(root, content)
        with pytest.raises(UserError, match=f"names the file {outside}, which is outside"):
            data.load(f"coco:{root}", "train", image_size=40)


def test_an_image_that_does_not_fit_its_annotation_is_an_error(root):
    content = instances(GOOD)
    content["images"][0]["width"] = 41
    write(root, content)
    with pytest.raises(UserError, match=r"a\.png is 40 x 20 pixels, but its annotation says 41 x 20"):
        data.load(f"coco:{root}", "train", image_size=40)
    (root / "train2017" / "a.png").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"a\.png can't be read as an image"):
        data.load(f"coco:{root}", "train", image_size=40)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_images_with_boxes_are_no_postscript_and_no_bombs(root, monkeypatch):
    """As of folders: Pillow would hand a file that begins like PostScript, whatever its name, to another program."""
    write(root, instances(GOOD))
    source = coco.read_coco(root / "train2017", root / "annotations" / "instances_train2017.json", image_size=40)
    with Image.open(root / "train2017" / "a.png") as image:
        image.save(root / "train2017" / "a.png", "eps")
    assert decode.header(str(root / "train2017" / "a.png")) is None
    with pytest.raises(UserError, match=r"a\.png can't be read as an image: cannot identify"):
        source[0]
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 850)
    with pytest.raises(UserError, match=r"b\.png can't be read as an image: 900 pixels, more than the 850"):
        source[1]


def test_a_turned_photograph_is_turned_if_its_annotation_is(tmp_path):
    """EXIF's orientation 6: the picture is stored on its side."""
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = np.zeros((20, 40, 3), np.uint8)
    stored[:, :20] = 255
    Image.fromarray(stored).save(tmp_path / "a.png", exif=exif)
    for size, white in (((40, 20), np.s_[:, :20]), ((20, 40), np.s_[:20])):
        pixels, scale = boxes._picture(tmp_path / "a.png", size, None, 3)
        assert scale == 1
        assert pixels.shape[:2] == size[::-1]
        assert (pixels[white] == 255).all()
        assert pixels.mean() == 127.5


def test_voc_side_by_side_and_in_its_own_layout(tmp_path):
    objects = [("dog", (1, 1, 10, 20), 0), ("cat", (5, 6, 40, 20), 1)]
    annotate(tmp_path, "one", objects)
    annotate(tmp_path, "two", [])
    source = voc.read_voc(tmp_path)
    assert source.box_classes == ("cat", "dog")
    assert source.shape == (20, 40, 3)
    example = source[0]
    np.testing.assert_array_equal(example["boxes"][:2], [[4, 5, 40, 20], [0, 0, 10, 20]])
    np.testing.assert_array_equal(example["box_labels"][:3], [0, 1, -1])
    np.testing.assert_array_equal(example["box_ignore"][:3], [True, False, False])
    assert voc.read_voc(tmp_path, classes=("dog", "bird", "cat"))[0]["box_labels"][:2].tolist() == [2, 0]
    with pytest.raises(UserError, match=r"one\.xml holds the class 'dog', which is not among cat"):
        voc.read_voc(tmp_path, classes=("cat",))

    full = tmp_path / "VOC2007"
    for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (full / folder).mkdir(parents=True)
    for path in tmp_path.glob("*.xml"):
        path.rename(full / "Annotations" / path.name)
    for path in tmp_path.glob("*.png"):
        path.rename(full / "JPEGImages" / path.name)
    (full / "ImageSets/Main/test.txt").write_text("two\none\n")
    loaded = data.load(f"voc:{full}", "test")
    assert loaded.files.tolist() == ["two.png", "one.png"]
    np.testing.assert_array_equal(loaded[1]["boxes"], example["boxes"])
    with pytest.raises(UserError, match="no split 'train'"):
        data.load(f"voc:{full}", "train")
    for outside in ("../../one", str(tmp_path / "one")):
        (full / "ImageSets/Main/train.txt").write_text(f"two\n{outside} 1\n")
        with pytest.raises(UserError, match=rf"train\.txt names {outside}, which is outside of the annotations'"):
            data.load(f"voc:{full}", "train")


def test_voc_bad_boxes_and_bad_xml(tmp_path):
    annotate(tmp_path, "one", [("dog", (10, 1, 5, 20), 0)])
    with pytest.raises(UserError, match=r"one\.png \(40 x 20\), box x 9 to 5, y 0 to 20"):
        voc.read_voc(tmp_path)
    for text in ("<annotation><size>", "<annotation></annotation>", ""):
        (tmp_path / "one.xml").write_text(text)
        with pytest.raises(UserError, match=r"one\.xml is no annotation in PASCAL VOC's format"):
            voc.read_voc(tmp_path)
    (tmp_path / "one.xml").unlink()
    with pytest.raises(UserError, match="no XML file"):
        voc.read_voc(tmp_path)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_entities_are_refused_whatever_the_encoding(tmp_path, encoding):
    secret = tmp_path / "secret"
    secret.write_text("dog")
    bombs = (
        '<!DOCTYPE a [<!ENTITY x "ha"><!ENTITY y "&x;&x;&x;&x;">]>',
        f'<!DOCTYPE a [<!ENTITY x SYSTEM "file://{secret}">]>',
        f'<!DOCTYPE a SYSTEM "file://{secret}">',
    )
    for bomb in bombs:
        head = f'<?xml version="1.0" encoding="{encoding}"?>{bomb}'
        annotate(tmp_path, "one", [("dog", (1, 1, 5, 5), 0)], head=head)
        (tmp_path / "one.xml").write_bytes((tmp_path / "one.xml").read_text().encode(encoding))
        with pytest.raises(UserError, match="declares a document type, which is refused"):
            voc.read_voc(tmp_path)
