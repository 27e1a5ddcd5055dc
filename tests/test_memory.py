import jax
import jax.numpy as jnp
import numpy as np
import pytest
from values import assert_close

from ssl_jax.checks import check_momentum
from ssl_jax.core import UserError
from ssl_jax.memory import ema, enqueue, write_rows
from ssl_jax.schedules import cosine


def pointer_at(value):
    return jnp.asarray(value, jnp.int32)


class RingBuffer:
    """Plain Python: one entry at a time over the oldest."""

    def __init__(self, entries, pointer=0):
        self.entries, self.pointer = list(entries), pointer

    def add(self, items):
        for item in items:
            self.entries[self.pointer] = item
            self.pointer = (self.pointer + 1) % len(self.entries)


def test_momentum_equals_byols_and_dinos_curve(fixture):
    data = fixture("schedule_ema")
    momentum = cosine(0.99, 1.0, steps=20)
    values = [momentum(pointer_at(step)) for step in data["steps"]]
    assert_close(values, data["byol"], 1e-6)
    assert_close(values[:-1], data["dino"], 1e-6)
    assert values[0] == np.float32(0.99)
    assert values[-1] == 1.0
    assert values[-2] < 1.0
    assert all(value.dtype == jnp.float32 and not value.weak_type for value in values)


def test_momentum_equals_byols_curve_in_float64(fixture):
    data = fixture("schedule_ema")
    with jax.enable_x64(True):
        assert_close([cosine(0.99, 1.0, steps=20)(pointer_at(step)) for step in data["steps"]], data["byol"], 1e-12)


def test_momentum_stays_at_one_after_the_last_step():
    assert cosine(0.9, 1.0, steps=10)(pointer_at(25)) == 1.0


@pytest.mark.parametrize("base", [-0.1, 1.01, float("nan")])
def test_a_momentum_out_of_range_is_an_error(base):
    with pytest.raises(UserError, match=r"momentum in 0\.\.1"):
        check_momentum(base)
    with pytest.raises(UserError, match=r"momentum in 0\.\.1"):
        check_momentum(cosine(base, 1.0, steps=10))


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 1e-6), (np.float64, 1e-12)])
def test_updates_equal_byols(fixture, dtype, tolerance):
    data = fixture("schedule_ema")
    with jax.enable_x64(dtype == np.float64):
        online, target = (jnp.asarray(data[f"update/{name}"], dtype) for name in ("online", "target"))
        momentum = cosine(0.99, 1.0, steps=20)
        for step in range(3):
            target = ema({"w": target}, {"w": online}, momentum(pointer_at(step)))["w"]
            assert target.dtype == dtype
            assert_close(target, data[f"update/after{step}"], tolerance)


def test_an_average_keeps_its_dtypes_and_ends_are_exact():
    average = {"half": jnp.ones(3, jnp.bfloat16), "full": jnp.full(2, 1.5, jnp.float32)}
    new = {"half": jnp.zeros(3, jnp.float32), "full": jnp.full(2, 2.5, jnp.float32)}
    out = ema(average, new, 0.25)
    assert {name: leaf.dtype for name, leaf in out.items()} == {"half": jnp.bfloat16, "full": jnp.float32}
    np.testing.assert_array_equal(np.asarray(out["half"], np.float32), 0.25)
    np.testing.assert_array_equal(out["full"], 2.25)
    for momentum, kept in ((1.0, average), (0.0, new)):
        np.testing.assert_array_equal(ema(average, new, momentum)["full"], kept["full"])


def test_the_queue_equals_solo_learns_pair_of_queues(fixture):
    """Queue of 8, batches of 4: the first state stored is taken over, with the pointer at 4."""
    data = fixture("queue")
    for view in range(2):
        queue, pointer = jnp.asarray(data["solo_two/after0"][view].T, jnp.float32), pointer_at(4)
        np.testing.assert_array_equal(queue[:4], data[f"batch{view}"])
        for step in range(1, 5):
            queue, pointer = enqueue(queue, pointer, jnp.asarray(data[f"batch{(step + view) % 6}"]))
            assert_close(queue, data[f"solo_two/after{step}"][view].T, 1e-7)
            assert pointer == 4 * (step + 1) % 8


def test_a_ragged_queue_wraps_where_lightly_drops_the_overhang(fixture):
    """Queue of 10, batches of 4. Equal while the batch fits; then the overhang goes to the front instead of nowhere."""
    data = fixture("queue")
    queue, pointer, plain = jnp.asarray(data["init"]), pointer_at(0), RingBuffer(data["init"])
    for step in range(6):
        batch = data[f"batch{step}"]
        queue, pointer = enqueue(queue, pointer, jnp.asarray(batch))
        plain.add(batch)
        np.testing.assert_array_equal(queue, plain.entries)
        assert pointer == plain.pointer
        theirs = data[f"lightly_ragged/after{step}"]
        if step < 2:
            assert_close(queue, theirs, 1e-7)
            assert pointer == data[f"lightly_ragged/ptr{step}"][0]
        if step == 2:
            assert_close(queue[2:], theirs[2:], 1e-7)
            assert_close(queue[:2], batch[2:], 1e-7)
            assert_close(theirs[:2], data["batch0"][:2], 1e-7)
            assert (int(pointer), int(data["lightly_ragged/ptr2"][0])) == (2, 0)


@pytest.mark.parametrize(("size", "count"), [(12, 7), (1, 1), (1, 5), (5, 5), (5, 13), (6, 1), (7, 6)])
@pytest.mark.parametrize("jit", [False, True])
def test_any_number_of_items_goes_into_any_queue(size, count, jit):
    function = jax.jit(enqueue) if jit else enqueue
    queue, pointer = jnp.arange(size, dtype=jnp.float32) - 100, pointer_at(size - 1)
    plain = RingBuffer(np.asarray(queue), pointer=size - 1)
    for step in range(4):
        items = jnp.arange(count, dtype=jnp.float32) + 10 * step
        queue, pointer = function(queue, pointer, items)
        plain.add(np.asarray(items))
        np.testing.assert_array_equal(queue, plain.entries)
        assert pointer == plain.pointer
        assert pointer.dtype == jnp.int32
        assert not pointer.weak_type


def test_items_take_the_queues_dtype():
    queue, _ = enqueue(jnp.zeros((3, 2), jnp.float32), pointer_at(0), jnp.ones((2, 2), jnp.bfloat16))
    assert queue.dtype == jnp.float32


def test_rows_are_written_and_of_several_for_one_the_last_stays():
    bank = jnp.arange(10.0).reshape(5, 2)
    rows = jnp.asarray([3, 0, 3, 4, 0, 3], jnp.int32)
    items = 100 + jnp.arange(12.0).reshape(6, 2)
    expected = np.array(bank)
    for row, item in zip(np.asarray(rows), np.asarray(items), strict=True):
        expected[row] = item
    np.testing.assert_array_equal(jax.jit(write_rows)(bank, rows, items), expected)
    assert write_rows(bank.astype(jnp.bfloat16), rows, items).dtype == jnp.bfloat16
