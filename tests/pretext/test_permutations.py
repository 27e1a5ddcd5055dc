"""Sets of permutations: far apart, different, and the same every time."""

import itertools
import math
import time

import numpy as np
import pytest

from ssl_jax.core import UserError
from ssl_jax.pretext import permutations


def distances(chosen):
    """Hamming distances of all pairs."""
    return (chosen[:, None] != chosen[None]).sum(-1)


@pytest.mark.parametrize("criterion", ["average", "minimum"])
@pytest.mark.parametrize(("size", "count"), [(4, 24), (4, 7), (6, 40), (1, 1), (9, 60)])
def test_permutations_are_different_and_permute(size, count, criterion):
    chosen = permutations(size, count, criterion=criterion)
    assert chosen.shape == (count, size)
    assert chosen.dtype == np.int32
    assert len(np.unique(chosen, axis=0)) == count
    np.testing.assert_array_equal(np.sort(chosen, axis=1), np.tile(np.arange(size), (count, 1)))


@pytest.mark.parametrize("criterion", ["average", "minimum"])
def test_each_one_is_the_farthest_from_those_before(criterion):
    chosen = permutations(5, 30, criterion=criterion)
    everything = np.array(list(itertools.permutations(range(5))))
    farness = np.mean if criterion == "average" else np.min
    for taken in range(1, 30):
        apart = (everything[:, None] != chosen[None, :taken]).sum(-1)
        left = apart.min(axis=1) > 0
        own = farness((chosen[taken] != chosen[:taken]).sum(-1))
        assert own == pytest.approx(farness(apart[left], axis=1).max())


def test_a_puzzle_of_nine_is_far_apart_quickly_and_only_once():
    began = time.process_time()
    chosen = permutations(9, 100, seed=1)
    assert time.process_time() - began < 5  # a third of a second where nothing else runs
    off = distances(chosen)[~np.eye(100, dtype=bool)]
    assert off.mean() > 8.0  # two random ones differ in eight places on average
    assert permutations(9, 100, seed=1) is chosen
    nearest = distances(permutations(9, 100, criterion="minimum")) + 9 * np.eye(100, dtype=int)
    assert nearest.min() >= 6


def test_more_than_can_be_listed_are_sampled():
    chosen = permutations(16, 20)
    assert len(np.unique(chosen, axis=0)) == 20
    assert distances(chosen)[~np.eye(20, dtype=bool)].mean() > 15.0


def test_the_seed_decides_and_nobody_can_change_the_result():
    permutations.cache_clear()
    first = permutations(6, 10).copy()
    permutations.cache_clear()
    np.testing.assert_array_equal(permutations(6, 10), first)
    assert not np.array_equal(permutations(6, 10, seed=1), first)
    with pytest.raises(ValueError, match="read-only"):
        permutations(6, 10)[0, 0] = 1


@pytest.mark.parametrize(("size", "count"), [(4, 25), (3, 7), (4, 0), (0, 1)])
def test_more_than_there_are_is_an_error(size, count):
    with pytest.raises(UserError, match=f"There are {math.factorial(size)} permutations of {size} tiles, not {count}"):
        permutations(size, count)


def test_an_unknown_criterion_is_an_error():
    with pytest.raises(UserError, match='criterion="median" is unknown'):
        permutations(4, 5, criterion="median")
