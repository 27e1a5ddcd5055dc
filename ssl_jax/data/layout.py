"""What records of a prepared data set look like: tensorflow-datasets' features."""

import dataclasses
import os
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from ssl_jax.core import UserError
from ssl_jax.data.source import Source


@dataclasses.dataclass(frozen=True)
class Layout:
    """What the records of a data set look like.

    Attributes:
      name: of the data set.
      version: its own, or that of the stock data set.
      label_of: the number that is written for each of the source's labels.
      classes: names of the classes that are written, or None.
      channels: 1 or 3.
      keys: of a record, among `image`, `label` and `file_name`.
      stock: the features of the stock data set of that name, or None.
    """

    name: str
    version: str
    classes: tuple[str, ...] | None
    label_of: tuple[int, ...]
    channels: int
    stock: Any
    keys: tuple[str, ...]

    def features(self, sizes: Sequence[tuple[int, int]] = ()) -> Any:
        """The features, with a shape where all images have one."""
        tfds = tensorflow_datasets()
        if self.stock is not None:
            return self.stock
        shape = (*sizes[0], self.channels) if len(sizes) == 1 else (None, None, self.channels)
        found = {"image": tfds.features.Image(shape=shape)}
        if "label" in self.keys:
            found["label"] = tfds.features.ClassLabel(names=list(self.classes or ()))
        if "file_name" in self.keys:
            found["file_name"] = tfds.features.Text()
        return tfds.features.FeaturesDict(found)


def layout_of(name: str, source: Source) -> Layout:
    """Find out the features of a source, and whether those of the stock data set of that name fit."""
    tfds = tensorflow_datasets()
    channels = getattr(source, "shape", None) or source[np.arange(1)]["image"].shape[1:]
    given = ["image", *["label"] * (source.classes is not None), *["file_name"] * (source.files is not None)]
    own = tuple(range(len(source.classes or ())))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            stock = tfds.builder_cls(name)
    except tfds.core.registered.DatasetNotFoundError:
        return Layout(name, "1.0.0", source.classes, own, int(channels[-1]), None, tuple(given))
    features = tfds.builder(name, data_dir=os.devnull, file_format="array_record").info.features
    expected = tuple(features["label"].names) if "label" in features else ()
    missing = [key for key in features if key not in given]
    strange = [label for label in source.classes or () if label not in expected]
    if missing or strange or features["image"].shape[-1] != channels[-1]:
        reason = f"{missing[0]}, which is not there" if missing else f"other classes or channels than {source.name}"
        raise UserError(
            f"tensorflow-datasets knows a data set {name!r} with {reason}; give another name, such as --name=my_{name}."
        )
    number = {label: i for i, label in enumerate(expected)}
    label_of = tuple(number[label] for label in source.classes or ())
    return Layout(name, str(stock.VERSION), expected, label_of, int(channels[-1]), features, tuple(features))


def tensorflow_datasets() -> Any:
    """The library, imported when it is needed, without its warnings."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of third parties, while they are imported
        import tensorflow_datasets as tfds
        from tensorflow_datasets.core import example_serializer  # noqa: F401
    return tfds
