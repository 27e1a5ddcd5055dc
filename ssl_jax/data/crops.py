"""Random crops that are taken on the host: which boxes, as a pure function of (seed, step, example).

The boxes are those of `ssl_jax.augment.crop` (torchvision's `RandomResizedCrop`), drawn from another generator: numbers
come from Philox, a generator whose stream is a function of a key and a counter and is the same in every version of
NumPy. The key is (seed, step) and the counter begins with the example's id, so that neither workers, hosts, the place
in the batch nor a restart change them.
"""

import dataclasses
import math

import numpy as np

from ssl_jax.core import UserError

TRIES = 10  # torchvision's number of attempts before the central fallback
DRAWS = 2 * TRIES + 2  # numbers that one box consumes
Box = tuple[int, int, int, int]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Crop:
    """One view's crop.

    Attributes:
      size: height and width that the crop is resized to, in pixels.
      scale: range of its area as a share of the image's, or None for the central square.
      ratio: range of its width / height (log-uniform).
      method: interpolation, "linear" or "cubic".
      side: a square anywhere instead of what scale and ratio say: range of its edge as a share of the image's shorter
        side, at most 1.

    Raises:
      UserError: a size or a range that is not positive, or another method.
    """

    size: int
    scale: tuple[float, float] | None = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    method: str = "linear"
    side: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if self.method not in ("linear", "cubic"):
            raise UserError(f"Crop(method={self.method!r}): use one of linear, cubic.")
        if self.size < 1:
            raise UserError(f"Crop(size={self.size}): give a positive number of pixels.")
        for name in ("scale", "ratio", "side"):
            pair = getattr(self, name)
            if pair is not None and not 0 < pair[0] <= pair[1]:
                raise UserError(f"Crop({name}={pair}): give a positive range (low, high).")
        if self.side is not None and self.side[1] > 1:
            raise UserError(f"Crop(side={self.side}): a square's edge is at most 1, the image's shorter side.")


def boxes(
    crops: tuple[Crop, ...], image_size: tuple[int, int], *, seed: int, step: int, example: int
) -> tuple[Box, ...]:
    """Draw a box `(top, left, height, width)` in pixels for each crop of one example.

    Args:
      crops: which to draw; a box depends on its place among them.
      image_size: height and width of the upright image.
      seed: of the run.
      step: number of the batch, from 0.
      example: id of the example.
    """
    key, counter = np.array([seed, step], np.uint64), np.array([0, 0, 0, example], np.uint64)
    bits = np.random.Philox(key=key, counter=counter).random_raw(DRAWS * len(crops))
    uniforms = ((bits >> np.uint64(11)) * 2.0**-53).tolist()
    return tuple(_box(crop, image_size, uniforms[i * DRAWS : (i + 1) * DRAWS]) for i, crop in enumerate(crops))


def _box(crop: Crop, image_size: tuple[int, int], uniforms: list[float]) -> Box:
    height, width = image_size
    if crop.side is not None:
        share = crop.side[0] + uniforms[0] * (crop.side[1] - crop.side[0])
        edge = max(round(min(height, width) * share), 1)
        return *_place(image_size, edge, edge, uniforms), edge, edge
    if crop.scale is None:
        edge = min(height, width)
        return (height - edge) // 2, (width - edge) // 2, edge, edge
    low, high = math.log(crop.ratio[0]), math.log(crop.ratio[1])
    for share, place in zip(uniforms[:TRIES], uniforms[TRIES : 2 * TRIES], strict=True):
        root = math.sqrt(height * width * (crop.scale[0] + share * (crop.scale[1] - crop.scale[0])))
        stretch = math.exp(0.5 * (low + place * (high - low)))
        w, h = round(root * stretch), round(root / stretch)
        if 0 < w <= width and 0 < h <= height:
            return *_place(image_size, h, w, uniforms), h, w
    h, w = height, width  # torchvision's fallback: the largest central box whose ratio is allowed
    if width / height < crop.ratio[0]:
        h = max(round(width / crop.ratio[0]), 1)
    elif width / height > crop.ratio[1]:
        w = max(round(height * crop.ratio[1]), 1)
    return (height - h) // 2, (width - w) // 2, h, w


def _place(image_size: tuple[int, int], h: int, w: int, uniforms: list[float]) -> tuple[int, int]:
    """Top and left of a box of `h x w` pixels, anywhere in the image, by the last two numbers."""
    height, width = image_size
    return int(uniforms[-2] * (height - h + 1)), int(uniforms[-1] * (width - w + 1))


def halvings(box: Box, crop: Crop) -> int:
    """How often a box can be halved and still be as large as the view that it becomes; twice as large if cubic."""
    smaller = min(box[2], box[3]) // (crop.size if crop.method == "linear" else 2 * crop.size)
    return max(smaller.bit_length() - 1, 0)
