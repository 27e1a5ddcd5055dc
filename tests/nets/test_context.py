"""The context network: its formula as convolutions, and that no row sees what lies below it."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from values import assert_close

from ssl_jax.nets.context import Context

GRID = jnp.asarray(np.random.default_rng(0).normal(size=(2, 5, 6, 3)), jnp.float32)


def start(depth):
    module = Context(width=32, depth=depth)
    params = module.init(jax.random.key(0), GRID, train=True)["params"]
    return module, jax.tree.map(lambda x: x + 0.1 * jnp.arange(x.size, dtype=x.dtype).reshape(x.shape) / x.size, params)


def conv(x, layer, shape, pads):
    """A convolution with the layer's kernel in the shape [rows columns in out]."""
    kernel = layer["kernel"].reshape(*shape, x.shape[-1], -1)
    y = lax.conv_general_dilated(x, kernel, (1, 1), pads, dimension_numbers=("NHWC", "HWIO", "NHWC"))
    return y + layer["bias"][None, None, None]


def test_a_block_is_the_pseudocodes_chain_of_convolutions():
    module, params = start(depth=2)
    x = GRID
    for block in ("block1", "block2"):
        y = jax.nn.relu(conv(x, params[f"{block}_in"], (1, 1), [(0, 0), (0, 0)]))
        y = conv(y, params[f"{block}_row"], (1, 3), [(0, 0), (1, 1)])
        y = jax.nn.relu(conv(y, params[f"{block}_column"], (2, 1), [(1, 0), (0, 0)]))
        x = x + conv(y, params[f"{block}_out"], (1, 1), [(0, 0), (0, 0)])
    assert_close(module.apply({"params": params}, GRID, train=True), jax.nn.relu(x), 1e-5)


def test_a_row_sees_rows_above_and_itself_and_all_the_more_columns():
    module, params = start(depth=2)
    sensitivity = jax.jacrev(lambda x: module.apply({"params": params}, x[None], train=True)[0].sum(-1))(GRID[0])
    seen = np.abs(sensitivity).sum(-1) > 0  # of [row column] from [row column]
    for row in range(5):
        assert not seen[row, :, row + 1 :].any()
        assert seen[row, :, row].any()
    assert not seen[4, :, :2].any()  # two blocks reach two rows up
    assert seen[4, 3, 2, 1:6].any()
    assert not seen[4, 3, :, 0].any()  # and two columns to each side


def test_parameters_and_output_are_float32_whatever_the_arithmetic():
    module = Context(width=4, depth=1, dtype=jnp.bfloat16)
    variables = module.init(jax.random.key(0), GRID, train=True)
    assert {x.dtype for x in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    assert module.apply(variables, GRID, train=True).dtype == jnp.float32
