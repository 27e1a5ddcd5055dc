import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from ssl_jax.nets.conv import conv2d
from ssl_jax.nets.conv_gradient import CHUNK_BYTES
from ssl_jax.nets.pooling import max_pool

# kernel, stride, padding, height, width, inputs, outputs
SHAPES = [
    (3, 1, 1, 8, 7, 5, 6),
    (3, 2, 1, 9, 8, 4, 3),
    (3, 2, 1, 8, 9, 4, 3),
    (1, 1, 0, 5, 5, 3, 4),
    (1, 2, 0, 6, 5, 3, 4),
    (7, 2, 3, 12, 11, 3, 4),
    (5, 1, 0, 7, 6, 2, 3),
    (3, 1, 4, 4, 4, 2, 3),
    (3, 1, 1, 1, 1, 2, 2),
    (2, 2, 0, 6, 6, 1, 3),
]


def plain(x, kernel, stride, padding):
    pads = [(padding, padding)] * 2
    return lax.conv_general_dilated(x, kernel, (stride, stride), pads, dimension_numbers=("NHWC", "HWIO", "NHWC"))


def gradients(conv, stride, padding):
    return jax.jit(jax.grad(lambda x, kernel: jnp.sin(conv(x, kernel, stride, padding)).sum(), (0, 1)))


def inputs(shape, dtype, batch=8):
    k, _, _, h, w, i, o = shape
    x = np.random.default_rng(0).normal(size=(batch, h, w, i))
    return jnp.asarray(x, dtype), jnp.asarray(np.random.default_rng(1).normal(size=(k, k, i, o)), dtype)


def relative(actual, expected):
    actual, expected = (np.asarray(a, np.float64) for a in (actual, expected))
    return np.abs(actual - expected).max() / np.abs(expected).max()


@pytest.mark.parametrize("shape", SHAPES)
def test_gradients_equal_xlas_in_float64(shape):
    with jax.enable_x64(True):
        x, kernel = inputs(shape, jnp.float64)
        ours, theirs = (gradients(conv, *shape[1:3])(x, kernel) for conv in (conv2d, plain))
        np.testing.assert_array_equal(conv2d(x, kernel, *shape[1:3]), plain(x, kernel, *shape[1:3]))
        assert max(map(relative, ours, theirs)) < 1e-12


@pytest.mark.parametrize(("dtype", "tolerance"), [(jnp.float32, 1e-6), (jnp.bfloat16, 1e-2)])
@pytest.mark.parametrize("shape", SHAPES[:2])
def test_gradients_keep_the_dtype(shape, dtype, tolerance):
    x, kernel = inputs(shape, dtype)
    ours, theirs = (gradients(conv, *shape[1:3])(x, kernel) for conv in (conv2d, plain))
    assert [a.dtype for a in ours] == [dtype, dtype]
    assert max(map(relative, ours, theirs)) < tolerance


@pytest.mark.parametrize("stride", [1, 2])
def test_batches_of_several_chunks_and_of_awkward_sizes(stride):
    shape = (3, stride, 1, 12, 12, 8, 8)
    x, kernel = inputs(shape, jnp.float32, batch=7 * 13)
    assert x.size * 4 * 9 / stride**2 > CHUNK_BYTES
    ours, theirs = (gradients(conv, *shape[1:3])(x, kernel) for conv in (conv2d, plain))
    assert max(map(relative, ours, theirs)) < 1e-5


@pytest.mark.parametrize("shape", SHAPES[:4])
def test_eight_devices_give_one_devices_gradients_with_one_reduction(shape):
    x, kernel = inputs(shape, jnp.float32, batch=16)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    step = gradients(conv2d, *shape[1:3])
    alone = step(x, kernel)
    x, kernel = jax.device_put(x, NamedSharding(mesh, P("data"))), jax.device_put(kernel, NamedSharding(mesh, P()))
    together = step(x, kernel)
    assert max(map(relative, together, alone)) < 1e-6
    assert together[0].sharding.spec == P("data")
    program = step.lower(x, kernel).compile().as_text()
    assert program.count(" all-reduce(") == 1
    assert not any(f" {name}(" in program for name in ("all-gather", "all-to-all", "collective-permute"))


def test_vmap_and_shard_map_give_the_same_gradient():
    shape = SHAPES[0]
    x, kernel = inputs(shape, jnp.float32, batch=16)
    step = gradients(conv2d, *shape[1:3])
    whole = step(x, kernel)[1]
    parts = jax.vmap(step, (0, None))(x.reshape(2, 8, *x.shape[1:]), kernel)[1]
    assert relative(parts.sum(0), whole) < 1e-6
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))

    def loss(x, kernel):
        return lax.psum(jnp.sin(conv2d(x, kernel, *shape[1:3])).sum(), "data")

    mapped = jax.shard_map(loss, mesh=mesh, in_specs=(P("data"), P()), out_specs=P())
    assert relative(jax.jit(jax.grad(mapped, 1))(x, kernel), whole) < 1e-6


def test_other_platforms_keep_xlas_gradient():
    x, kernel = inputs(SHAPES[0], jnp.float32)
    lowered = gradients(conv2d, 1, 1).trace(x, kernel).lower(lowering_platforms=("tpu",)).as_text()
    assert "stablehlo.while" not in lowered
    assert lowered.count("stablehlo.convolution") == 3


def test_max_pool_pads_with_values_that_never_win():
    x = -jnp.ones((1, 4, 4, 2))
    np.testing.assert_array_equal(max_pool(x, 3, 2, 1), -jnp.ones((1, 2, 2, 2)))
    np.testing.assert_array_equal(max_pool(x, 2, 2, 0), nn.max_pool(x, (2, 2), (2, 2), "VALID"))
