import time
import tracemalloc

import numpy as np
import pytest

from ssl_jax import data
from ssl_jax.core import UserError


def _sequence(n, batch_size, seed, steps):
    return np.concatenate([data.indices(n, batch_size=batch_size, seed=seed, step=step) for step in range(steps)])


@pytest.mark.parametrize(("n", "batch_size"), [(10, 3), (10, 10), (10, 4), (7, 5), (1000, 64), (5, 12), (1, 1)])
def test_each_epoch_is_another_permutation(n, batch_size):
    epochs = _sequence(n, batch_size, 3, 4 * n)[: 4 * n].reshape(4, n)
    np.testing.assert_array_equal(np.sort(epochs), np.tile(np.arange(n), (4, 1)))
    if n > 5:
        assert len({epoch.tobytes() for epoch in epochs}) == 4


@pytest.mark.parametrize(("n", "batch_size"), [(10, 3), (20, 9), (20, 10), (101, 50), (997, 128)])
def test_no_batch_holds_an_example_twice(n, batch_size):
    for seed in range(5):
        for step in range(3 * n):
            batch = data.indices(n, batch_size=batch_size, seed=seed, step=step)
            assert batch.shape == (batch_size,)
            assert len(np.unique(batch)) == batch_size


def test_pure_in_seed_and_step():
    forward = [data.indices(100, batch_size=7, seed=1, step=step) for step in range(60)]
    backward = [data.indices(100, batch_size=7, seed=1, step=step) for step in reversed(range(60))]
    np.testing.assert_array_equal(forward, backward[::-1])
    assert not np.array_equal(_sequence(100, 7, 1, 10), _sequence(100, 7, 2, 10))


def test_fixed_forever():
    # A run that was begun with an earlier release must go on with the same examples.
    np.testing.assert_array_equal(data.indices(12, batch_size=6, seed=0, step=0), [11, 3, 2, 1, 8, 6])
    np.testing.assert_array_equal(data.indices(12, batch_size=6, seed=0, step=1000), [7, 1, 8, 6, 10, 3])


def test_order_is_uniform():
    # Also where the shared batch moves examples back: position of each example over many epochs.
    n, epochs = 8, 4000
    order = _sequence(n, 3, 0, epochs * n // 3 + 1)[: epochs * n].reshape(epochs, n)
    places = np.argsort(order, axis=1)
    np.testing.assert_allclose(places.mean(0), (n - 1) / 2, atol=5 * np.sqrt((n * n - 1) / 12 / epochs))


def test_cheap_at_the_size_of_imagenet():
    kwargs = {"batch_size": 4096, "seed": 0}
    data.indices(1_281_167, **kwargs, step=0)
    start = time.perf_counter()
    for step in range(1, 101):
        data.indices(1_281_167, **kwargs, step=step)
    assert time.perf_counter() - start < 1


def test_orders_of_epochs_gone_by_are_forgotten():
    """ImageNet-21k's take 57 MB each, and a run goes through hundreds."""
    n, parts = 20_000, 3
    images = np.zeros((1, 2, 2, 1), np.uint8)
    source = data.Mixture([data.from_arrays(images.repeat(n, 0)) for _ in range(parts)], [1] * parts, "three")

    def held(rows) -> int:
        tracemalloc.start()
        for epoch in range(30):
            rows(epoch)
        size = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        return size

    order = 4 * n  # bytes
    assert held(lambda epoch: data.indices(n, batch_size=64, seed=1, step=epoch * n // 64)) < 9 * order
    turns = 2 * parts * n * (2 + 8)
    of_mixture = held(lambda epoch: source.indices(batch_size=64, seed=1, step=epoch * parts * n // 64))
    assert of_mixture < turns + (2 * parts + 8) * order + order // 2


def test_bad_numbers():
    with pytest.raises(UserError, match="seed=-1"):
        data.indices(10, batch_size=2, seed=-1, step=0)
    with pytest.raises(UserError, match="n=0"):
        data.indices(0, batch_size=2, seed=0, step=0)
