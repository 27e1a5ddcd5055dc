import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssl_jax.nets import pointwise


@pytest.mark.parametrize(
    ("ours", "usual"),
    [(pointwise.gelu, lambda x: nn.gelu(x, approximate=False)), (pointwise.softmax, jax.nn.softmax)],
    ids=["gelu", "softmax"],
)
def test_values_and_gradients_are_the_usual_ones(ours, usual):
    with jax.enable_x64(True):
        x = jax.random.normal(jax.random.key(0), (3, 4, 6), jnp.float64) * 3
        np.testing.assert_allclose(ours(x), usual(x), atol=1e-12)
        ours, usual = (jax.jit(jax.grad(lambda x, f=f: jnp.sin(f(x)).sum())) for f in (ours, usual))
        np.testing.assert_allclose(ours(x), usual(x), atol=1e-12)


def test_gelu_keeps_bfloat16_in_its_gradient():
    x = jnp.linspace(-4, 4, 33, dtype=jnp.bfloat16)
    gradient = jax.grad(lambda x: pointwise.gelu(x).sum())(x)
    assert gradient.dtype == jnp.bfloat16
    exact = jax.grad(lambda x: nn.gelu(x, approximate=False).sum())(x.astype(jnp.float32))
    np.testing.assert_allclose(gradient.astype(jnp.float32), exact, atol=5e-3)


def test_only_programs_for_cpus_hold_the_barrier():
    gradient = jax.jit(jax.grad(lambda x: pointwise.softmax(pointwise.gelu(x))[0].sum()))
    for platform in ("cpu", "cuda", "tpu"):
        text = gradient.trace(jnp.zeros((2, 3))).lower(lowering_platforms=(platform,)).as_text()
        assert ("optimization_barrier" in text) == (platform == "cpu")
