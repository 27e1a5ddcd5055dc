import jax
import jax.numpy as jnp
import numpy as np
import pytest
from values import assert_close

from ssl_jax import losses


def simsiam(p1, p2, z1, z2):
    return 0.5 * losses.negative_cosine(p1, z2) + 0.5 * losses.negative_cosine(p2, z1)


def byol(p1, p2, z1, z2):
    return losses.normalized_mse(p1, z2) + losses.normalized_mse(p2, z1)


CASES = {
    "single/negcos": (lambda p1, p2, z1, z2: losses.negative_cosine(p1, z2), "single/negcos_grad_p1", None),
    "single/byol": (lambda p1, p2, z1, z2: losses.normalized_mse(p1, z2), "single/byol_grad_p1", None),
    "sym/simsiam": (simsiam, "sym/simsiam_grad_p1", "sym/simsiam_grad_p2"),
    "sym/byol": (byol, "sym/byol_grad_p1", "sym/byol_grad_p2"),
}


def compare(data, key, dtype, tolerance):
    """Values and gradients of lightly, solo-learn and DeepMind's BYOL."""
    function, gradient1, gradient2 = CASES[key]
    arguments = [jnp.asarray(data[name], dtype) for name in ("p1", "p2", "z1", "z2")]
    value, gradients = jax.jit(jax.value_and_grad(function, argnums=(0, 1)))(*arguments)
    assert value.dtype == dtype
    assert_close(value, data[key], tolerance)
    assert_close(gradients[0], data[gradient1], tolerance)
    if gradient2 is None:
        assert not np.any(gradients[1])
    else:
        assert_close(gradients[1], data[gradient2], tolerance)


@pytest.mark.parametrize("key", CASES)
def test_values_and_gradients_equal_the_authors(fixture, key):
    compare(fixture("negcos"), key, jnp.float32, 1e-5)


@pytest.mark.parametrize("key", CASES)
def test_values_and_gradients_equal_the_authors_in_float64(fixture, key):
    with jax.enable_x64(True):
        compare(fixture("negcos"), key, jnp.float64, 1e-12)


def test_degenerate_rows_are_those_of_normalising_with_a_floor(fixture):
    """A zero row is orthogonal to everything and a tiny one keeps its direction, as torch's `F.normalize`."""
    data = fixture("negcos")
    p, z = (jnp.asarray(data[f"degenerate/{name}"]) for name in "pz")
    expected = data["degenerate/cos_normalize"]
    cosine = losses.cosine(p, z)
    assert_close(cosine, expected, 1e-5)
    assert cosine[0] == 0
    # DeepMind's squared distance agrees but for the zero row, which counts 1 there and 2 here, and for the row whose
    # squared norm is below the epsilon that their code adds to it.
    assert_close(2 - 2 * cosine[1], data["degenerate/byol_dm"][1], 1e-3)
    assert data["degenerate/byol_dm"][0] == pytest.approx(1.0)
    assert losses.normalized_mse(p[:1], z[:1]) == 2.0


def test_gradient_at_a_zero_row_is_finite():
    z = jnp.ones((2, 4))
    gradient = jax.grad(losses.negative_cosine)(jnp.zeros((2, 4)), z)
    assert np.isfinite(gradient).all()


def test_the_range_of_both_scales():
    p = jnp.asarray([[3.0, 4.0]])
    for target, cosine in ((p, 1.0), (-p, -1.0), (jnp.asarray([[4.0, -3.0]]), 0.0)):
        assert_close(losses.negative_cosine(p, 2 * target) + 2, 2 - cosine, 1e-6)
        assert_close(losses.normalized_mse(p, 2 * target) + 1, 3 - 2 * cosine, 1e-6)


def test_half_precision_is_computed_in_float32():
    p, z = (jnp.asarray(np.random.default_rng(i).normal(size=(8, 16)), jnp.bfloat16) for i in range(2))
    value = losses.normalized_mse(p, z)
    assert value.dtype == jnp.float32
    assert_close(value, losses.normalized_mse(p.astype(jnp.float32), z.astype(jnp.float32)), 1e-7)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
def test_normalised_rows_have_unit_norm_and_keep_their_dtype(dtype):
    x = jnp.asarray(np.random.default_rng(4).normal(size=(2, 3, 8)), dtype)
    z = losses.l2_normalize(x)
    assert z.dtype == dtype
    tolerance = 10 * float(jnp.finfo(dtype).eps)
    np.testing.assert_allclose(np.linalg.norm(np.asarray(z, np.float32), axis=-1), 1.0, atol=tolerance)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
def test_a_zero_row_and_one_whose_squares_overflow_are_normalised_in_any_dtype(dtype):
    """In float16 the least squared norm, 1e-24, is 0, and squares of numbers above 256 are infinite."""
    z, back = jax.vjp(losses.l2_normalize, jnp.asarray([[0, 0], [600, 800]], dtype))
    np.testing.assert_allclose(np.asarray(z, np.float32), [[0, 0], [0.6, 0.8]], atol=float(jnp.finfo(dtype).eps))
    assert z.dtype == dtype
    assert np.isfinite(np.asarray(back(jnp.zeros_like(z))[0], np.float32)).all()
