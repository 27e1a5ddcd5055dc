"""Visual words as pictures: the patches where a word is seen best, and where in their images these are."""

from typing import Any

import numpy as np

from ssl_jax.core import UserError
from ssl_jax.report import formats, images

AROUND = 1  # places on every side that a patch shows besides its own
BUDGET = 450_000  # bytes of the patches of one vocabulary, and of their images


def vocabularies(given: list[dict[str, Any]] | None) -> list[dict[str, Any]]:
    """What the page shows of each vocabulary: texts, and for every word its patches.

    Args:
      given: one record for each: `name`, `size` (number of words), `used`, `perplexity`, `images` (how many were looked
        at), `grid` (p, q), the places of an image; and of m words `word`, `rank`, `frequency` [m]; of the r places of
        each `picture` uint8 [m r h w c], `row` and `column` [m r], -1 where there is none.

    Raises:
      UserError: when the arrays of one vocabulary do not fit together.
    """
    return [_vocabulary(each) for each in given or [] if len(each["word"])]


def _vocabulary(given: dict[str, Any]) -> dict[str, Any]:
    picture, row, column = (np.asarray(given[name]) for name in ("picture", "row", "column"))
    if picture.ndim != 5 or not row.shape == column.shape == picture.shape[:2] or len(row) != len(given["word"]):
        raise UserError(
            f"The places of the visual words do not fit: {len(given['word'])} words, pictures of shape "
            f"{picture.shape}, rows of shape {row.shape}, columns of shape {column.shape}."
        )
    grid, size = (int(given["grid"][0]), int(given["grid"][1])), picture.shape[2:4]
    there = [(i, int(row[i, j]), int(column[i, j]), picture[i, j]) for i, j in np.argwhere(row >= 0)]
    whole, patches = grid == (1, 1), []
    for _, y, x, image in there:
        top, left, height, width = window(y, x, grid, size)
        patches.append(image[top : top + height, left : left + width])
    shown, cut = ([] if not there else images.gallery(np.stack(x), BUDGET) for x in ([t[3] for t in there], patches))
    cells: list[list[dict[str, Any]]] = [[] for _ in row]
    for (i, y, x, _), full, patch in zip(there, shown, cut, strict=True):
        part = {"patch": "", "frame": ""} if whole else {"patch": patch, "frame": frame_of(y, x, grid)}
        cells[i].append({"image": full, **part})
    return {
        "name": given["name"],
        "size": f"{given['size']:,}",
        "used": f"{given['used']:,}",
        "perplexity": formats.number(given["perplexity"], 3),
        "images": f"{given['images']:,}",
        "whole": whole,
        "coarse": max(size) <= 40,
        "coarse_patch": bool(patches) and max(patches[0].shape[:2]) <= 40,
        "words": [
            {
                "number": int(word),
                "rank": f"{int(rank):,}",
                "frequency": f"{100 * share:.2g}%" if share < 0.1 else formats.percent(share),
                "cells": found,
            }
            for word, rank, share, found in zip(given["word"], given["rank"], given["frequency"], cells, strict=True)
        ],
    }


def window(row: int, column: int, grid: tuple[int, int], size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Top, left, height and width in pixels of a place and its neighbours, moved to lie inside the image."""
    found = []
    for index, places, side in ((row, grid[0], size[0]), (column, grid[1], size[1])):
        length = min(round((2 * AROUND + 1) * side / places), side)
        start = round((index + 0.5) * side / places - length / 2)
        found.append((int(min(max(start, 0), side - length)), int(length)))
    (top, height), (left, width) = found
    return top, left, height, width


def frame_of(row: int, column: int, grid: tuple[int, int]) -> str:
    """CSS that lays a box over the place, in shares of the image."""
    left, top, width, height = column / grid[1], row / grid[0], 1 / grid[1], 1 / grid[0]
    return f"left: {left:.2%}; top: {top:.2%}; width: {width:.2%}; height: {height:.2%}"
