"""Operations and memory read off a trace, against numbers counted by hand."""

import jax
import jax.numpy as jnp
import pytest
from jax import lax
from jax.sharding import PartitionSpec as P

from ssl_jax import costs
from ssl_jax.augment.platform import choose
from ssl_jax.nets.conv import conv2d
from ssl_jax.sharding import data_mesh

X = jax.ShapeDtypeStruct((6, 8), jnp.float32)
W = jax.ShapeDtypeStruct((8, 4), jnp.float32)


def count(function, *args, platform: str = "cpu") -> float:
    return costs.flops(costs.trace(function, *args), platform)


def test_products_their_gradients_and_loops():
    once = 2 * 6 * 8 * 4
    assert count(jnp.matmul, X, W) == once
    assert count(jax.grad(lambda w, x: jnp.sum((x @ w) ** 2)), W, X) == 2 * once
    assert (
        count(lambda x, w: lax.scan(lambda c, _: (c + x @ w, None), jnp.zeros((6, 4)), length=5)[0], X, W) == 5 * once
    )
    assert count(jax.jit(jax.vmap(jnp.matmul, (None, 0))), X, jax.ShapeDtypeStruct((3, 8, 4), jnp.float32)) == 3 * once


def test_what_nobody_reads_is_not_counted():
    assert count(lambda x, w: (x @ w, jnp.sum(x))[1], X, W) == 0


def test_every_device_of_a_shard_map_counts():
    mapped = jax.shard_map(jnp.matmul, mesh=data_mesh(), in_specs=(P("data"), P()), out_specs=P("data"))
    assert count(mapped, jax.ShapeDtypeStruct((48, 8), jnp.float32), W) == 8 * 2 * 6 * 8 * 4


def test_the_platforms_own_formulation_counts():
    function = choose(cpu=lambda x, w: (x @ w, x @ w * 2), default=lambda x, w: (x @ w, 2 * (x @ w)))
    one = choose(cpu=lambda x, w: x[:, :4], default=lambda x, w: x @ w)
    assert count(one, X, W, platform="cpu") == 0
    assert count(one, X, W, platform="tpu") == 2 * 6 * 8 * 4
    assert count(function, X, W, platform="tpu") == 2 * 2 * 6 * 8 * 4


@pytest.mark.parametrize("stride", [1, 2])
def test_a_convolutions_gradients_cost_what_it_costs_itself(stride):
    image, kernel = jax.ShapeDtypeStruct((2, 8, 8, 3), jnp.float32), jax.ShapeDtypeStruct((3, 3, 3, 5), jnp.float32)
    side = 8 // stride
    once = 2 * (2 * side * side * 5) * (3 * 3 * 3)

    def loss(x, k):
        return jnp.sum(conv2d(x, k, stride, 1) ** 2)

    assert count(lambda x, k: conv2d(x, k, stride, 1), image, kernel, platform="tpu") == once
    assert count(jax.grad(loss, argnums=(0, 1)), image, kernel, platform="tpu") == pytest.approx(3 * once, rel=0.01)


def test_peak_is_what_lives_at_once():
    mb = jax.ShapeDtypeStruct((512, 512), jnp.float32)  # 1 MiB

    def chain(x):
        return jnp.sin(jnp.cos(jnp.tanh(x)))

    assert costs.peak(costs.trace(chain, mb), "cpu") == 2 * 2**20
    # The gradient needs one residual of each: cos(cos(tanh x)), sin(tanh x), and 1 - tanh^2 or what it comes from.
    assert costs.peak(costs.trace(jax.grad(lambda x: jnp.sum(chain(x))), mb), "cpu") == pytest.approx(
        4 * 2**20, rel=0.3
    )
    assert costs.peak(costs.trace(lambda x: x.reshape(-1) * 2, mb), "cpu") == 2**20


def test_traffic_is_of_products_and_sums():
    found = costs.traffic(costs.trace(lambda x, w: jnp.sum(jnp.sin(x) @ w), X, W), "cpu")
    assert found == 4 * (6 * 8 + 8 * 4 + 6 * 4) + 4 * (6 * 4 + 1)
