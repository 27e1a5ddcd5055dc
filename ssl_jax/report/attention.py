"""Attention maps as pictures: heat over the image, and the patches that hold most of it."""

from typing import Any

import numpy as np
from jaxtyping import Bool, Float, UInt8

from ssl_jax.core import UserError
from ssl_jax.report import formats, images

MAX_IMAGES, MAX_HEADS = 6, 16
# From hardly any weight to the greatest: dark blue, red, orange, light yellow. Lightness alone tells the order.
COLOURS = np.array([(16, 12, 66), (122, 28, 90), (214, 72, 52), (250, 158, 40), (252, 250, 182)], np.float64)
HEAT, GREY = 0.72, 0.8  # shares of the colour in what is shown


def rows(given: dict[str, Any] | None) -> list[dict[str, Any]]:
    """One record per image: data URIs of the image, of its maps' mean, of the patches that hold most, of every head.

    Args:
      given: `image` uint8 [n h w c]; `maps` float [n heads p q], at least 0; `kept` bool [n p q], the patches that
        hold the share `mass` of the mean over heads.

    Raises:
      UserError: when the arrays do not fit together.
    """
    if not given or not len(given["image"]):
        return []
    image, maps, kept = (np.asarray(given[name]) for name in ("image", "maps", "kept"))
    if maps.ndim != 4 or len(maps) != len(image) or kept.shape != (len(maps), *maps.shape[2:]):
        raise UserError(
            f"The attention does not fit its images: {len(image)} images, maps of shape {maps.shape}, kept patches of "
            f"shape {kept.shape}."
        )
    image, maps, kept = image[:MAX_IMAGES], maps[:MAX_IMAGES], kept[:MAX_IMAGES]
    mean, heads = maps.mean(axis=1, keepdims=True), maps[:, :MAX_HEADS]
    shown = np.concatenate([mean, heads], axis=1)
    pictures = [rgb(image)[:, None], marked(image, kept)[:, None]]
    pictures += [heat(image, shown[:, i])[:, None] for i in range(shown.shape[1])]
    stacked = np.concatenate(pictures, axis=1)
    flat, width = images.gallery(stacked.reshape(-1, *stacked.shape[2:]), 900_000), stacked.shape[1]
    return [
        {
            "image": flat[i * width],
            "kept": flat[i * width + 1],
            "label": f"{formats.percent(given['mass']).replace('.0', '')} in {int(kept[i].sum())} of {kept[i].size}",
            "mean": flat[i * width + 2],
            "heads": flat[i * width + 3 : (i + 1) * width],
        }
        for i in range(len(image))
    ]


def heat(image: UInt8[np.ndarray, "n h w c"], maps: Float[np.ndarray, "n p q"]) -> UInt8[np.ndarray, "n h w 3"]:
    """Maps as colours over the grey image, each from 0 to its greatest value; what is not finite counts as 0."""
    maps = np.where(np.isfinite(maps), maps, 0.0)
    share = maps / np.maximum(maps.max(axis=(1, 2), keepdims=True), 1e-30)
    at = share * (len(COLOURS) - 1)
    low = np.minimum(at.astype(int), len(COLOURS) - 2)
    colour = COLOURS[low] + (at - low)[..., None] * (COLOURS[low + 1] - COLOURS[low])
    return blend(_grey(image), _enlarge(colour, image.shape[1:3]), HEAT)


def marked(image: UInt8[np.ndarray, "n h w c"], kept: Bool[np.ndarray, "n p q"]) -> UInt8[np.ndarray, "n h w 3"]:
    """The image as it is where patches are kept, and nearly an even grey elsewhere."""
    inside = _enlarge(kept[..., None], image.shape[1:3])
    return np.where(inside, rgb(image), blend(_grey(image), np.full(3, 128.0), GREY))


def blend(image: np.ndarray, colour: np.ndarray, share: float) -> np.ndarray:
    """`share` of the colour and the rest of the image, uint8."""
    return np.round((1 - share) * image + share * colour).astype(np.uint8)


def rgb(image: UInt8[np.ndarray, "n h w c"]) -> UInt8[np.ndarray, "n h w 3"]:
    """Three channels: the first three, or the first one three times."""
    return image[..., :3] if image.shape[-1] >= 3 else np.repeat(image[..., :1], 3, axis=-1)


def _grey(image: np.ndarray) -> np.ndarray:
    return rgb(image).mean(axis=-1, keepdims=True)


def _enlarge(maps: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Every patch `[n p q c]` as an even square of the image `[n h w c]`, as in DINO's figures: no false sharpness."""
    for axis, side in enumerate(size, start=1):
        maps = maps.take(np.arange(side) * maps.shape[axis] // side, axis=axis)
    return maps
