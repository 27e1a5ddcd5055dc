import itertools
import threading
import time

import numpy as np
import pytest

from ssl_jax import data
from ssl_jax.core import UserError


@pytest.fixture(scope="module")
def source():
    rng = np.random.default_rng(0)
    return data.from_arrays(rng.integers(0, 256, (50, 6, 5, 3), np.uint8), rng.integers(0, 4, 50))


class Own:
    """A source of one's own: two methods, here with an extra key and no labels."""

    def __init__(self, n=50, fail_at=None):
        self.n, self.fail_at, self.calls = n, fail_at, 0

    def __len__(self):
        return self.n

    def __getitem__(self, index):
        self.calls += 1
        if self.fail_at is not None and self.fail_at in index:
            raise OSError("disk gone")
        return {"image": np.full((len(index), 2, 2, 1), index[:, None, None, None], np.uint8), "depth": index * 0.5}


def _take(iterator, n):
    return list(itertools.islice(iterator, n))


def _equal(one, other):
    assert one.keys() == other.keys()
    for key in one:
        np.testing.assert_array_equal(one[key], other[key])


def _threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("ssl_jax.data")]


def test_contents(source):
    for batch in _take(data.batches(source, batch_size=8), 20):
        assert {key: (value.dtype, value.shape) for key, value in batch.items()} == {
            "image": (np.uint8, (8, 6, 5, 3)),
            "id": (np.int32, (8,)),
            "label": (np.int32, (8,)),
        }
        np.testing.assert_array_equal(batch["image"], source.images[batch["id"]])
        np.testing.assert_array_equal(batch["label"], source.labels[batch["id"]])


@pytest.mark.parametrize("prefetch", [0, 1, 5])
def test_resumes_anywhere(source, prefetch):
    whole = _take(data.batches(source, batch_size=8, seed=4), 30)
    for start in (0, 1, 6, 7, 29):
        resumed = data.batches(source, batch_size=8, seed=4, start=start, prefetch=prefetch)
        for one, other in zip(whole[start:], resumed, strict=False):
            _equal(one, other)


def test_prefetching_changes_nothing():
    expected = _take(data.batches(Own(), batch_size=8, prefetch=0), 20)
    for prefetch in (1, 2, 7):
        for one, other in zip(expected, data.batches(Own(), batch_size=8, prefetch=prefetch), strict=False):
            _equal(one, other)
    assert set(expected[0]) == {"image", "id", "depth"}


def test_processes_share_one_global_batch(source):
    whole = data.batches(source, batch_size=12, seed=1)
    parts = [data.batches(source, batch_size=12, seed=1, process_index=i, process_count=3) for i in range(3)]
    for batch, *rows in _take(zip(whole, *parts, strict=True), 15):
        _equal(batch, {key: np.concatenate([part[key] for part in rows]) for key in batch})


def test_errors_of_the_source_reach_the_consumer():
    batches = data.batches(Own(fail_at=7), batch_size=5)
    with pytest.raises(OSError, match="disk gone"):
        _take(batches, 11)
    assert not _threads()


def test_closing_ends_the_thread():
    batches = data.batches(Own(), batch_size=5)
    next(batches)
    assert _threads()
    batches.close()
    assert not _threads()
    for _ in data.batches(Own(), batch_size=5):  # leaving a loop closes too
        break
    assert not _threads()


def test_reads_ahead_but_not_further_than_asked():
    own = Own()
    batches = data.batches(own, batch_size=5, prefetch=3)
    next(batches)
    deadline = time.monotonic() + 10
    while own.calls < 4 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.05)
    assert own.calls == 4
    batches.close()


def test_bad_arguments_are_told_before_the_first_batch(source):
    with pytest.raises(UserError, match="batch_size=51 exceeds the 50 images"):
        data.batches(source, batch_size=51)
    with pytest.raises(UserError, match="multiple of process_count=3"):
        data.batches(source, batch_size=8, process_count=3)
    with pytest.raises(UserError, match="process_index=2"):
        data.batches(source, batch_size=8, process_index=2, process_count=2)
    with pytest.raises(UserError, match="seed=-1"):
        data.batches(source, batch_size=8, seed=-1)


@pytest.mark.parametrize("batch_size", [1, 7, 25, 50, 64])
def test_epoch_in_order_with_one_shape(source, batch_size):
    batches = list(data.epoch(source, batch_size))
    assert {batch["image"].shape for batch in batches} == {(batch_size, 6, 5, 3)}
    valid = np.concatenate([batch["valid"] for batch in batches])
    ids = np.concatenate([batch["id"] for batch in batches])
    np.testing.assert_array_equal(ids[valid], np.arange(50))
    np.testing.assert_array_equal(np.concatenate([batch["label"] for batch in batches])[valid], source.labels)
    assert len(valid) - valid.sum() < batch_size
    assert (ids[~valid] == 49).all()


def test_epoch_over_processes(source):
    parts = [data.epoch(source, 16, process_index=i, process_count=2) for i in range(2)]
    for batch, *rows in zip(data.epoch(source, 16), *parts, strict=True):
        _equal(batch, {key: np.concatenate([part[key] for part in rows]) for key in batch})


def test_small_sets_cost_next_to_nothing():
    # A copy runs at ten million images per second; shapes are checked here, which users do not pay for.
    source = data.from_arrays(np.ones((60_000, 28, 28), np.uint8), np.zeros(60_000, np.int32))
    batches = data.batches(source, batch_size=256)
    rows = [next(batches)["id"].astype(np.int64) for _ in range(20)]
    copy, ours = [], []
    for _ in range(15):
        start = time.perf_counter()
        for ids in rows:
            source.images[ids]
        copy.append(time.perf_counter() - start)
        start = time.perf_counter()
        _take(batches, 20)
        ours.append(time.perf_counter() - start)
    assert min(ours) < 10 * min(copy)
    assert not _threads()
