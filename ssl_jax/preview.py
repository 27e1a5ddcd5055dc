"""A contact sheet of what the network will see: some images of a data set, and their random views."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import UInt8
from PIL import Image

from ssl_jax import data
from ssl_jax.core import UserError
from ssl_jax.experiment import Seen
from ssl_jax.train_step import example_keys

CELL = 96  # pixels that the whole image is enlarged to if it is smaller
GAP = 4


def write(source: data.Source, seen: Seen, path: str | pathlib.Path, *, images: int = 8, seed: int = 0) -> str:
    """Write the sheet as a PNG file; returns in words what the columns after the first show.

    A row is an image: as evaluation sees it, then its views of one draw of the config's augmentation, of each size.
    Views are drawn as in training, before the method changes them (rotations, tiles, masks).

    Args:
      source: images.
      seen: see `experiment.build_views`.
      path: of the file.
      images: rows, evenly spaced over the source.
      seed: of the augmentation.

    Raises:
      UserError: if the file can't be written.
    """
    rows = np.unique(np.linspace(0, len(source) - 1, images).astype(int))
    image, inputs = source[rows]["image"], seen.inputs[rows]["image"]
    views = seen.views(example_keys(jax.random.key(seed), jnp.arange(len(rows))), jax.tree.map(jnp.asarray, inputs))
    views = views if isinstance(views, tuple) else (views,)
    cells = [_bytes(seen, part) for part in (seen.prepare(jnp.asarray(image))[:, None], *views)]
    try:
        Image.fromarray(sheet(cells)).save(path)
    except OSError as error:
        raise UserError(f"{path} can't be written: {error.strerror or error}.") from error
    return " and ".join(f"{part.shape[1]} views of {part.shape[2]} x {part.shape[3]}" for part in cells[1:])


def sheet(parts: list[UInt8[np.ndarray, "..."]]) -> UInt8[np.ndarray, "h w 3"]:
    """Pictures `[n v h w c]` of several sizes in rows, those of one example beside each other, on white.

    Small ones are enlarged, all by the same whole factor, so that pixels stay what they are.
    """
    scale = max(1, CELL // max(part.shape[2] for part in parts))
    parts = [part.repeat(scale, axis=2).repeat(scale, axis=3) for part in parts]
    rows = len(parts[0])
    height = max(part.shape[2] for part in parts)
    width = sum(part.shape[1] * (part.shape[3] + GAP) for part in parts)
    canvas = np.full((rows * (height + GAP) + GAP, width + GAP, 3), 255, np.uint8)
    for row in range(rows):
        left, top = GAP, GAP + row * (height + GAP)
        for part in parts:
            for view in part[row]:
                canvas[top : top + view.shape[0], left : left + view.shape[1]] = view[..., :3]
                left += view.shape[1] + GAP
    return canvas


def _bytes(seen: Seen, views: jax.Array) -> UInt8[np.ndarray, "..."]:
    """Normalised floats as uint8."""
    mean, std = np.asarray(seen.mean or 0.0, np.float32), np.asarray(seen.std or 1.0, np.float32)
    return np.round(np.clip(np.asarray(views, np.float32) * std + mean, 0, 1) * 255).astype(np.uint8)
