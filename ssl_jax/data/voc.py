"""Images with boxes in the format of PASCAL VOC (http://host.robots.ox.ac.uk/pascal/VOC): an XML file per image."""

import os
import pathlib
from collections.abc import Sequence
from typing import Any
from xml.etree import ElementTree
from xml.parsers import expat

from ssl_jax.core import UserError
from ssl_jax.data.boxed import BoxedSource
from ssl_jax.data.boxes import Annotated, Box, Object, annotated_source, leads_out
from ssl_jax.data.tree import HELD_OUT


def read_voc(
    directory: str | os.PathLike[str],
    split: str | None = None,
    *,
    classes: Sequence[str] | None = None,
    image_size: int | None = None,
    channels: int = 3,
    name: str | None = None,
) -> BoxedSource:
    """Images with boxes from a directory of XML files.

    Boxes count pixels from 1 and include the last one, so that xmin ymin xmax ymax becomes xmin - 1, ymin - 1, xmax,
    ymax. Difficult objects are marked in `box_ignore`.

    Args:
      directory: with `Annotations`, `JPEGImages` and `ImageSets/Main`, or with images and XML files side by side.
      split: name of a list in `ImageSets/Main`, such as "trainval"; None for all XML files.
      classes: names of the classes; those found in all XML files of the directory, sorted, by default.
      image_size: as for `read_coco`; so are `channels` and `name`.
      channels: see above.
      name: see above.

    Raises:
      UserError: as for `read_coco`; or an object's class is not among `classes`.
    """
    root = pathlib.Path(directory).expanduser()
    annotations = root / "Annotations" if (root / "Annotations").is_dir() else root
    images = root / "JPEGImages" if (root / "JPEGImages").is_dir() else root
    every = sorted(annotations.glob("*.xml"))
    chosen = every
    if split is not None:
        listing = root / "ImageSets" / "Main" / f"{split}.txt"
        if not listing.is_file():
            raise UserError(f"{root} has no split {split!r}: there is no file {listing}.")
        listed = [line.split()[0] for line in listing.read_text().splitlines() if line.strip()]
        for stem in filter(leads_out, listed):
            raise UserError(f"{listing} names {stem}, which is outside of the annotations' directory {annotations}.")
        chosen = [annotations / f"{stem}.xml" for stem in listed]
    if not chosen:
        raise UserError(f"There is no XML file in {annotations}; give a directory of PASCAL VOC's layout.")
    trees = {path: _objects(path) for path in (every if classes is None else chosen)}
    trees |= {path: _objects(path) for path in chosen if path not in trees}
    names = tuple(classes or sorted({found[0] for _, _, objects in trees.values() for found in objects}))
    label = {found: i for i, found in enumerate(names)}
    rows = []
    for path in chosen:
        file, size, objects = trees[path]
        unknown = next((found for found, _, _ in objects if found not in label), None)
        if unknown is not None:
            raise UserError(f"{path} holds the class {unknown!r}, which is not among {', '.join(names)}.")
        rows.append(Annotated(file, size, [Object(box, label[found], difficult) for found, box, difficult in objects]))
    return annotated_source(images, rows, names, image_size, channels, name or f"{root.name} {split or 'all'}")


def voc_split(root: pathlib.Path, split: str, size: int | None, channels: int) -> BoxedSource:
    """A split of a directory of VOC's layout, by the name of its list in `ImageSets/Main`.

    `"test"` is `"val"` or `"validation"` where there is no other: the boxes of VOC 2012's test images are not public.
    """
    if split == "test":
        lists = root.expanduser() / "ImageSets" / "Main"
        split = next((name for name in HELD_OUT if (lists / f"{name}.txt").is_file()), split)
    return read_voc(root, split, image_size=size, channels=channels, name=f"voc:{root} {split}")


def _objects(path: pathlib.Path) -> tuple[str, tuple[int, int], list[tuple[str, Box, bool]]]:
    """File name, width and height, and objects (class, box, difficult) of an XML file."""
    try:
        tree = parse_xml(path.read_bytes())
        size = tuple(int(float(tree.findtext(f"size/{side}", ""))) for side in ("width", "height"))
        objects = []
        for found in tree.iter("object"):
            x0, y0, x1, y1 = (float(found.findtext(f"bndbox/{k}", "")) for k in ("xmin", "ymin", "xmax", "ymax"))
            name = (found.findtext("name") or "").strip()
            objects.append((name, (x0 - 1, y0 - 1, x1, y1), (found.findtext("difficult") or "0").strip() == "1"))
    except OSError as error:
        raise UserError(f"{path} can't be read: {error.strerror or error}.") from error
    except (ValueError, expat.ExpatError) as error:
        raise UserError(f"{path} is no annotation in PASCAL VOC's format: {error}.") from error
    return (tree.findtext("filename") or f"{path.stem}.jpg").strip(), (size[0], size[1]), objects


def parse_xml(content: bytes) -> ElementTree.Element:
    """Parse XML without a document type.

    Raises:
      ValueError: there is one: it could declare entities, which grow when they are expanded or name other files.
      ExpatError: this is not XML.
    """

    def refuse(*_: Any) -> None:
        raise ValueError("it declares a document type, which is refused")

    builder, parser = ElementTree.TreeBuilder(), expat.ParserCreate()
    parser.StartDoctypeDeclHandler = refuse
    parser.StartElementHandler, parser.EndElementHandler = builder.start, builder.end
    parser.CharacterDataHandler = builder.data
    parser.Parse(content, True)
    return builder.close()
