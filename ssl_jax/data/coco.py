"""Images with boxes in COCO's format (https://cocodataset.org/#format-data): a directory and a JSON file."""

import json
import os
import pathlib

from ssl_jax.core import UserError
from ssl_jax.data.boxed import BoxedSource
from ssl_jax.data.boxes import Annotated, Object, annotated_source
from ssl_jax.data.tree import HELD_OUT


def read_coco(
    images: str | os.PathLike[str],
    instances: str | os.PathLike[str],
    *,
    image_size: int | None = None,
    channels: int = 3,
    name: str | None = None,
) -> BoxedSource:
    """Images with boxes from an instances file; of the masks only their `area` is read.

    Every image of the file is an example, also those without objects; classes are the categories in the order of their
    ids. Crowds are marked in `box_ignore`. Of more than 100 objects of an image the largest are kept.

    Args:
      images: directory that the files' names are relative to.
      instances: JSON file with `images`, `annotations` (`bbox` is x y width height) and `categories`.
      image_size: the longer side is resized to this and the shorter filled up with grey, on the right or below; None
        keeps images, which must have one size then.
      channels: 1 or 3.
      name: for messages and records; the file's by default.

    Raises:
      UserError: a file is missing or malformed, or more than a hundredth of the boxes are bad: empty, inverted, or more
        than 2 pixels outside of the image. The sentence names file and box. Fewer bad boxes are left out and logged.
    """
    path = pathlib.Path(instances).expanduser()
    try:
        content = json.loads(path.read_bytes())
        names = {int(category["id"]): str(category["name"]) for category in content["categories"]}
        label = {number: i for i, number in enumerate(sorted(names))}
        found = {
            int(image["id"]): Annotated(str(image["file_name"]), (int(image["width"]), int(image["height"])), [])
            for image in content["images"]
        }
        for annotation in content["annotations"]:
            image = found[int(annotation["image_id"])]
            x, y, width, height = map(float, annotation["bbox"])
            category, crowd = label[int(annotation["category_id"])], bool(annotation.get("iscrowd", 0))
            area = None if annotation.get("area") is None else float(annotation["area"])
            image.objects.append(Object((x, y, x + width, y + height), category, crowd, area))
    except OSError as error:
        raise UserError(f"{path} can't be read: {error.strerror or error}.") from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        what = f"{type(error).__name__}: {error}"
        raise UserError(
            f"{path} is no instances file in COCO's format ({what}); it needs images, annotations with bbox and "
            "categories, which refer to each other by id."
        ) from error
    classes = tuple(names[number] for number in sorted(names))
    return annotated_source(images, list(found.values()), classes, image_size, channels, name or path.name)


def coco_split(root: pathlib.Path, split: str, size: int | None, channels: int) -> BoxedSource:
    """A split of a directory as COCO is unpacked: `annotations/instances_train2017.json` beside `train2017`.

    `"test"` is `"val"` or `"validation"` where there is no other: COCO keeps the boxes of its test images to itself.

    Raises:
      UserError: there is not exactly one such file for `split`, with or without a year, or it can't be read.
    """
    root = root.expanduser()
    files = sorted((root / "annotations").glob("instances_*.json"))
    names = [path.stem.removeprefix("instances_") for path in files]
    split = next((name for name in HELD_OUT if _of_any_year(name, names)), split) if split == "test" else split
    fitting = _of_any_year(split, names)
    if len(fitting) != 1:
        there = ", ".join(names) or "none: there must be files annotations/instances_SPLIT.json"
        raise UserError(f"{root} has {'no' if not fitting else 'more than one'} split {split!r}; it has {there}.")
    folder = next((path for path in (root / fitting[0], root / "images" / fitting[0]) if path.is_dir()), root)
    instances = root / "annotations" / f"instances_{fitting[0]}.json"
    return read_coco(folder, instances, image_size=size, channels=channels, name=f"coco:{root} {split}")


def _of_any_year(split: str, names: list[str]) -> list[str]:
    """Of `train2014` and `train2017` both are `train`, unless there is that name itself."""
    return [name for name in names if name == split] or [n for n in names if n.rstrip("0123456789") == split]
