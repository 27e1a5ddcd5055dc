import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P
from values import assert_close

from ssl_jax import losses

gradient_of_ntxent = jax.jit(jax.value_and_grad(losses.ntxent), static_argnames="temperature")
CASES = [(case, t) for case in ("b8_d16", "b64_d128") for t in (0.1, 0.5)]


def numpy_ntxent(z, temperature):
    """Equation 1 of the paper as it reads, in float64: mean over anchors of -log(positive / sum over all others)."""
    z = z.astype(np.float64).transpose(1, 0, 2).reshape(-1, z.shape[-1])  # view after view, as the paper stacks
    z = z / np.linalg.norm(z, axis=1, keepdims=True)
    similarity, n = z @ z.T / temperature, len(z) // 2
    total = 0.0
    for i in range(2 * n):
        others = np.delete(similarity[i], i)
        shift = others.max()
        total += shift + np.log(np.exp(others - shift).sum()) - similarity[i, (i + n) % (2 * n)]
    return total / (2 * n)


def compare(data, case, temperature, dtype, tolerance):
    z = jnp.stack([jnp.asarray(data[f"{case}/z{view}"], dtype) for view in (1, 2)], axis=1)
    value, gradient = gradient_of_ntxent(z, temperature=temperature)
    assert value.dtype == gradient.dtype == dtype
    expected = {name: data[f"{case}/t{temperature}/{name}"] for name in ("loss", "grad_z1", "grad_z2")}
    assert_close(value, expected["loss"], tolerance)
    assert_close(gradient[:, 0], expected["grad_z1"], tolerance)
    assert_close(gradient[:, 1], expected["grad_z2"], tolerance)


@pytest.mark.parametrize(("case", "temperature"), CASES)
def test_value_and_gradients_equal_lightly(fixture, case, temperature):
    compare(fixture("ntxent"), case, temperature, jnp.float32, 1e-5)


@pytest.mark.parametrize(("case", "temperature"), CASES)
def test_value_and_gradients_equal_lightly_in_float64(fixture, case, temperature):
    with jax.enable_x64(True):
        compare(fixture("ntxent"), case, temperature, jnp.float64, 1e-12)


@pytest.mark.parametrize("temperature", [0.002, 0.01, 0.07, 1.0])
def test_value_equals_the_formula_where_unshifted_exponentials_overflow(temperature):
    z = np.random.default_rng(0).normal(size=(5, 2, 4)).astype(np.float32)
    value, gradient = gradient_of_ntxent(jnp.asarray(z), temperature=temperature)
    assert_close(value, numpy_ntxent(z, temperature), 1e-5)
    with jax.enable_x64(True):
        wide, reference = gradient_of_ntxent(jnp.asarray(z, jnp.float64), temperature=temperature)
        assert_close(wide, numpy_ntxent(z, temperature), 1e-12)
    assert_close(gradient, reference, 1e-4)  # similarities of float32 carry 1e-7 / temperature into exponents


def test_two_examples_that_agree_and_oppose():
    """Two pairs at opposite poles: each anchor sees its positive at cos 1 and two negatives at cos -1."""
    z = jnp.asarray([[[1.0, 0.0], [2.0, 0.0]], [[-3.0, 0.0], [-1.0, 0.0]]])
    assert_close(losses.ntxent(z, temperature=0.5), np.log(1 + 2 * np.exp(-4.0)), 1e-6)


def test_zero_rows_have_finite_gradients():
    z = jnp.asarray(np.random.default_rng(1).normal(size=(4, 2, 3)), jnp.float32).at[0].set(0.0)
    value, gradient = gradient_of_ntxent(z)
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()


def test_half_precision_is_computed_in_float32():
    z = jnp.asarray(np.random.default_rng(2).normal(size=(8, 2, 16)), jnp.bfloat16)
    value = losses.ntxent(z)
    assert value.dtype == jnp.float32
    assert_close(value, losses.ntxent(z.astype(jnp.float32)), 1e-7)


def test_negatives_come_from_all_devices():
    """A batch that is split over 8 devices gives the value and gradients of the whole batch."""
    mesh = jax.sharding.Mesh(np.asarray(jax.devices()), ("data",))
    z = jnp.asarray(np.random.default_rng(3).normal(size=(16, 2, 8)), jnp.float32)
    split = jax.device_put(z, jax.sharding.NamedSharding(mesh, P("data")))
    expected = gradient_of_ntxent(z)
    value, gradient = gradient_of_ntxent(split)
    assert_close(value, expected[0], 1e-6)
    assert_close(gradient, expected[1], 1e-5)
