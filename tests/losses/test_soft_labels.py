import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssl_jax import losses


def derived(student, teacher, t):
    """Equations 1 and 2 of arXiv:1503.02531 in float64: value and gradient in the student's logits."""

    def softmax(x):
        x = np.exp((x - x.max(axis=1, keepdims=True)) / t)
        return x / x.sum(axis=1, keepdims=True)

    p, q = softmax(teacher), softmax(student)
    return t**2 * (p * np.log(p / q)).sum(axis=1).mean(), t * (q - p) / len(p)


@pytest.mark.parametrize("temperature", [0.1, 1.0, 4.0])
@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 1e-5), (np.float64, 1e-12)])
def test_value_and_gradient_are_hintons(temperature, dtype, tolerance):
    rng = np.random.default_rng(0)
    student, teacher = (rng.normal(size=(6, 5), scale=2).astype(dtype) for _ in range(2))
    value, gradient = derived(student.astype(np.float64), teacher.astype(np.float64), temperature)
    with jax.enable_x64(dtype == np.float64):
        loss = jax.value_and_grad(lambda s: losses.soft_labels(s, jnp.asarray(teacher), temperature=temperature))
        ours, slope = loss(jnp.asarray(student))
    np.testing.assert_allclose(ours, value, rtol=tolerance)
    np.testing.assert_allclose(slope, gradient, atol=tolerance * np.abs(gradient).max(), rtol=0)


def test_by_hand_and_at_equality():
    """Two classes, logits 0 and T ln 3: probabilities 1/4, 3/4 against 1/2, 1/2; as torch's `kl_div` * T^2."""
    t = 2.0
    teacher, student = jnp.asarray([[0.0, t * np.log(3.0)]], jnp.float32), jnp.zeros((1, 2))
    expected = t**2 * (0.25 * np.log(0.5) + 0.75 * np.log(1.5))
    np.testing.assert_allclose(losses.soft_labels(student, teacher, temperature=t), expected, rtol=1e-6)
    assert losses.soft_labels(teacher, teacher, temperature=t) == 0


def test_half_precision_is_computed_in_float32_and_sure_teachers_stay_finite():
    teacher = jnp.asarray([[1e4, 0.0, -1e4]], jnp.float32)
    assert np.isfinite(jax.grad(lambda s: losses.soft_labels(s, teacher))(jnp.zeros((1, 3)))).all()
    assert losses.soft_labels(jnp.zeros((1, 3), jnp.bfloat16), teacher).dtype == jnp.float32
