import jax.numpy as jnp
import pytest

from ssl_jax import small_data
from ssl_jax.core import UserError


def test_ends_are_those_of_little_data_and_of_imagenet():
    for examples in (1, 1000, 20_000):
        assert small_data.between(examples, 0.99, 0.996) == 0.99
        assert small_data.prototypes(examples) == 1024
    for examples in (500_000, 1_281_167):
        assert small_data.between(examples, 0.99, 0.996) == pytest.approx(0.996)
        assert small_data.prototypes(examples) == 65536
        assert small_data.prototypes(examples, 3000) == 3000


def test_halfway_in_the_logarithm():
    assert small_data.between(100_000, 0.0, 1.0) == pytest.approx(0.5)


def test_size_of_fashion_mnist():
    assert small_data.prototypes(60_000) == 4096
    assert small_data.prototypes(60_000, 8192) == 512
    assert small_data.prototypes(60_000, 3000) == 256
    assert small_data.between(60_000, 0.99, 0.996) == pytest.approx(0.99205, abs=1e-5)


def test_more_data_never_means_fewer_prototypes():
    found = [small_data.prototypes(n) for n in range(1000, 600_000, 1000)]
    assert found == sorted(found)
    assert len(set(found)) == 7


def test_warmups_take_at_most_three_tenths_of_a_run():
    assert small_data.warmup(37_500, 400) == 120
    assert small_data.warmup(100, 400) == 100
    assert small_data.warmup(100, 1) == 1


def test_schedules_of_the_teacher():
    def values(schedule, *steps):
        return [float(schedule(jnp.int32(step))) for step in steps]

    assert values(small_data.teacher_temperature(1_281_167, 10**6), 0, 37_500) == pytest.approx([0.04, 0.07])
    assert values(small_data.teacher_temperature(5_000, 400), 0, 60, 120, 400) == pytest.approx(
        [0.02, 0.03, 0.04, 0.04]
    )
    assert values(small_data.teacher_momentum(5_000, 400), 0, 200, 400) == pytest.approx([0.99, 0.995, 1.0])


def test_size_must_be_known():
    assert small_data.known(7, "examples", "prototypes") == 7
    with pytest.raises(UserError, match="`prototypes` is left to the size of data and run, so give `examples`"):
        small_data.known(None, "examples", "prototypes")
