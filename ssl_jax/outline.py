"""The outside of a run's data and teacher: numbers and shapes, where only these matter and nothing is there to read."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax import data, nets, teachers
from ssl_jax.core import UserError
from ssl_jax.data import splits
from ssl_jax.nets import functional

# Training images, classes, and side and channels of an image (0: of several sizes), as published with each set.
KNOWN = {
    "tfds:imagenet2012": (1_281_167, 1000, 0, 3),
    "tfds:cifar10": (50_000, 10, 32, 3),
    "tfds:cifar100": (50_000, 100, 32, 3),
    "tfds:places365_small": (1_803_460, 365, 256, 3),
    "fashion_mnist": (60_000, 10, 28, 1),
    "digits": (1260, 10, 8, 1),
    "photos": (2250, 2, 32, 3),
    "photos:skimage": (8875, 8, 32, 3),
}


class Outline(data.Source):
    """As many images of one shape as a source has, all of them black."""

    def __init__(self, name: str, examples: int, classes: int, shape: tuple[int, int, int]):
        self.name, self.shape, self._examples = name, shape, examples
        self.classes = tuple(str(i) for i in range(classes)) or None

    @property
    def labels(self) -> np.ndarray | None:
        """Zeros, if there are classes."""
        return None if self.classes is None else np.zeros(len(self), np.int32)

    @property
    def fingerprint(self) -> str:
        """The same for all, since there is no content."""
        return "outline"

    def __len__(self) -> int:
        return self._examples

    def __getitem__(self, index: Any) -> dict[str, np.ndarray]:
        n = len(np.arange(self._examples)[index])
        found = {"image": np.broadcast_to(np.uint8(0), (n, *self.shape))}
        return found if self.classes is None else {**found, "label": np.zeros(n, np.int32)}


def outline(config: Any, *, examples: int | None = None, classes: int | None = None) -> data.Source:
    """What a run of `config` would see, from published numbers or those given; from the data itself as a last resort.

    Args:
      config: its data, split, image size and channels are read.
      examples: training images; None takes the known number of the split.
      classes: None takes the known number, and 0 if there is none.

    Raises:
      UserError: the data is not known, not there, and not described by `examples` and the config's image size.
    """
    known = KNOWN.get(config.data)
    if known is None and examples is None:
        try:
            return data.load(
                config.data,
                config.train_split,
                image_size=config.image_size or None,
                channels=config.channels or None,
                data_dir=config.data_dir,
            )
        except UserError as error:
            raise UserError(
                f"{error} To plan without the data, give --examples (and --classes, --config.image_size); known are "
                f"{', '.join(KNOWN)}."
            ) from error
    total, number, side, channels = known or (examples or 0, 0, 0, 3)
    side, channels = config.image_size or side, config.channels or channels
    if not side:
        raise UserError(f"The images of {config.data} are of several sizes; set --config.image_size.")
    if examples is None:
        parts = splits.parse(config.train_split)
        if any(part.name != "train" or part.ids for part in parts):
            raise UserError(
                f"How many images {config.data} has in {config.train_split!r} is not known; give --examples."
            )
        spans = [splits.span(total, part.start, part.stop, config.train_split) for part in parts]
        examples = sum(last - first for first, last in spans)
    classes = number if classes is None else classes
    return Outline(f"{config.data} {config.train_split}", examples, classes, (side, side, channels))


def teacher(config: Any, source: data.Source) -> teachers.Teacher | None:
    """A teacher of the architecture that the config names, or of the student's, all of it zero; None if it has none."""
    if "teacher" not in config:
        return None
    named = config.teacher if config.teacher.encoder else config
    arguments = dict(named.encoder_args)
    module = nets.create(named.encoder, **arguments)
    side = config.view_size or config.image_size or source[np.arange(1)]["image"].shape[1]
    image = jax.ShapeDtypeStruct((2, side, side, source[np.arange(1)]["image"].shape[3]), jnp.float32)
    shapes = jax.eval_shape(lambda x: functional.init_encoder(module, jax.random.key(0), x), image)
    params, state, pooled, _ = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)
    width, classes = math.prod(pooled.shape[1:]), len(source.classes or ())
    head = {"kernel": np.zeros((width, classes), np.float32), "bias": np.zeros(classes, np.float32)}
    return teachers.Teacher(
        asked={},
        encoder=named.encoder,
        encoder_args=arguments,
        variables={"params": params, "model_state": state},
        head=head if classes else None,
    )
