"""Sets of permutations that are far apart, for puzzles."""

import functools
import math

import numpy as np
from jaxtyping import Int

from ssl_jax.core import UserError

CANDIDATES = 400_000  # enough for all permutations of nine things


@functools.lru_cache(maxsize=8)
def permutations(size: int, count: int, *, criterion: str = "average", seed: int = 0) -> Int[np.ndarray, "count size"]:
    """Choose `count` different permutations of `size` things by greedy maximal Hamming distance.

    One after the other, that permutation is taken which is farthest from those taken before (Noroozi and Favaro, 2016,
    algorithm 1): on average, which is what the public sets of 100 to 10,000 permutations maximise, or from the nearest
    of them (ties: on average). The first one, and the order among equals, come from the seed. All permutations are
    candidates up to nine things (a 3 x 3 grid), a random 400,000 of them beyond.

    Args:
      size: number of things that are permuted.
      count: number of permutations, at most `size!`.
      criterion: "average" or "minimum" of the distances to those taken.
      seed: of the order of candidates.

    Returns:
      Read-only int32 array, equal for equal arguments.

    Raises:
      UserError: there are not so many permutations, or no such criterion.
    """
    if size < 1 or not 1 <= count <= math.factorial(size):
        raise UserError(f"There are {math.factorial(max(size, 0))} permutations of {size} tiles, not {count}.")
    if criterion not in ("average", "minimum"):
        raise UserError(f'criterion="{criterion}" is unknown: choose "average" or "minimum"')
    candidates = _candidates(size, count, np.random.default_rng(seed))
    columns = np.ascontiguousarray(candidates.T)
    total = np.zeros(len(candidates), np.int64)
    least = np.full(len(candidates), size, np.min_scalar_type(size))
    taken = [0]
    while len(taken) < count:
        distance = np.zeros_like(least)
        for column in columns:
            distance += column != column[taken[-1]]
        total += distance
        total[taken[-1]] = -(2**40)  # never again
        np.minimum(least, distance, out=least)
        score = total if criterion == "average" else least * np.int64(size * count) + total
        taken.append(int(np.argmax(score)))
    chosen = candidates[taken].astype(np.int32)
    chosen.setflags(write=False)  # the cache hands it to everybody
    return chosen


def _candidates(size: int, count: int, rng: np.random.Generator) -> np.ndarray:
    """Different permutations in random order."""
    if math.factorial(size) <= max(CANDIDATES, 2 * count):
        return rng.permutation(_all(size))
    drawn = np.zeros((0, size), np.uint8)
    while len(drawn) < max(CANDIDATES, count):
        new = np.tile(np.arange(size, dtype=np.min_scalar_type(size)), (max(CANDIDATES, count), 1))
        drawn = np.unique(np.concatenate([drawn, rng.permuted(new, axis=1)]), axis=0)
    return rng.permutation(drawn)[: max(CANDIDATES, count)]


def _all(size: int) -> np.ndarray:
    """Every permutation, `[size! size]`: each first element, before every order of the others."""
    if size == 1:
        return np.zeros((1, 1), np.uint8)
    rest = _all(size - 1)
    first = np.repeat(np.arange(size, dtype=np.uint8), len(rest))[:, None]
    others = np.tile(rest, (size, 1))
    return np.concatenate([first, others + (others >= first)], axis=1).astype(np.uint8)
