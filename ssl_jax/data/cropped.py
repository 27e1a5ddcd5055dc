"""A source whose examples are random crops, taken on the host from images that are decoded when they are read."""

import functools
from typing import Any

import numpy as np
from jaxtyping import Int32

from ssl_jax.core import UserError
from ssl_jax.data import decoders
from ssl_jax.data.crops import Crop, boxes
from ssl_jax.data.decode import Encoded
from ssl_jax.data.mixture import Mixture
from ssl_jax.data.source import Examples, Source, digest
from ssl_jax.data.stored import channels_of, is_stored, map_stored


class CroppedSource(Source):
    """Views of the images of another source: each image is decoded once and all its crops are cut from it.

    Examples hold, under `image`, uint8 `[b v s s c]`, or a tuple of such arrays if the crops are of several sizes, one
    for each size in order of first appearance. Which crops is a function of (seed, step, row); `source[index]` is what
    step 0 sees. A mixture is drawn from as without crops.

    Args:
      source: images that are decoded when they are read; their own size does not matter. Of several sources, joined or
        mixed, some may be in memory: their crops are cut from the pixels that are kept.
      crops: one for each view.
      seed: not negative.
      decoder: `pillow`, `fast`, or `auto` for what is installed, see `decoders`.

    Raises:
      UserError: a source in memory, with boxes, of one's own or of parts that differ in their channels, no crops, a
        negative seed, or a decoder that is not installed.
    """

    def __init__(self, source: Source, crops: tuple[Crop, ...], *, seed: int, decoder: str = "auto"):
        if source.in_memory or not is_stored(source):
            why = "is in memory" if source.in_memory else "has boxes, or gives no files or arrays"
            raise UserError(
                f"Crops on the host are for images that are decoded when they are read, and {source.name} {why}; use "
                "--config.host_crop=no."
            )
        channels = channels_of(source)
        if len(channels) > 1:
            raise UserError(f"The parts of {source.name} are grey and coloured; give channels=1 or channels=3.")
        if not crops or seed < 0:
            raise UserError(f"Crops on the host need at least one crop and a seed of 0 or more, not seed={seed}.")
        self.source, self.crops, self.seed = source, crops, seed
        self.decoder = decoders.decoder(decoder)
        self.name, self.classes, self.files = source.name, source.classes, source.files
        self.damaged, self.left_out = source.damaged, source.left_out
        self.sizes, (self.channels,) = tuple(dict.fromkeys(crop.size for crop in crops)), channels
        if isinstance(source, Mixture):
            self.indices = source.indices

    @property
    def labels(self) -> Int32[np.ndarray, " n"] | None:
        """Labels of all examples, or None."""
        return self.source.labels

    @functools.cached_property
    def fingerprint(self) -> str:
        """Hash of the images' fingerprint, the crops and the decoder."""
        crops = repr(self.crops).replace(", side=None", "")  # as it was before there were sides, for runs that go on
        return digest(self.source.fingerprint.encode(), crops.encode(), self.decoder.name.encode())

    def __len__(self) -> int:
        return len(self.source)

    def __repr__(self) -> str:
        return f"{self.source!r} cropped by {self.decoder.name} ({self.decoder.versions})"

    def __getitem__(self, index: Any) -> Examples:
        return self.at_step(0, index)

    def at_step(self, step: int, index: Any) -> Examples:
        """The examples of some rows as a step sees them."""
        rows = np.arange(len(self))[index]
        counts = [sum(crop.size == size for crop in self.crops) for size in self.sizes]
        made = tuple(
            np.empty((len(rows), count, size, size, self.channels), np.uint8)
            for count, size in zip(counts, self.sizes, strict=True)
        )

        def decode(position: int, encoded: Encoded) -> bool | str:
            draw = functools.partial(boxes, self.crops, seed=self.seed, step=step, example=int(rows[position]))
            views = decoders.views(encoded, self.crops, draw, self.channels, self.decoder)
            if isinstance(views, str):
                return views
            for size, array in zip(self.sizes, made, strict=True):
                of_size = [view for view, crop in zip(views, self.crops, strict=True) if crop.size == size]
                for i, view in enumerate(of_size):
                    array[position, i] = view
            return True

        _, labels = map_stored(self.source, rows, decode)
        image: Any = made if len(made) > 1 else made[0]
        return {"image": image} if self.classes is None else {"image": image, "label": np.asarray(labels, np.int32)}
