"""Where things live when eight devices share a step, read off the compiled program."""

import math
import re

import jax
import numpy as np
import pytest
import recipes
from jax.sharding import PartitionSpec as P

from ssl_jax import UserError, init_state, make_train_step
from ssl_jax.experiment import build
from ssl_jax.sharding import check_divisible, data_mesh, put
from ssl_jax.training import for_step

GLOBAL = recipes.BATCH


@pytest.fixture(scope="module", params=recipes.NAMES)
def compiled(request):
    """The step of a config with global batch statistics: MoCo's shuffle moves images between groups by definition."""
    config = recipes.config(request.param)
    if "bn_groups" in config.encoder_args:
        config.encoder_args.bn_groups = 1
    parts = build(config)
    step = make_train_step(parts.method, recipes.SGD, views=parts.views, mesh=parts.mesh)
    rows = np.arange(GLOBAL)
    batch = put(for_step(parts.method, {**parts.source[rows], "id": rows.astype(np.int32)}), parts.mesh)
    state = init_state(parts.method, recipes.SGD, batch, views=parts.views, mesh=parts.mesh)
    return step.lower(state, batch).compile(), state, batch


def test_batch_is_split_and_state_is_whole(compiled):
    program, _, _ = compiled
    (state, batch), _ = program.input_shardings
    assert {s.spec for s in jax.tree.leaves(batch)} == {P("data")}
    assert all(s.is_fully_replicated for s in jax.tree.leaves(state))
    assert all(s.is_fully_replicated for s in jax.tree.leaves(program.output_shardings[0]))


def test_no_device_holds_the_images_of_all(compiled):
    """No array of the program has as many rows of images, views or feature maps as the global batch."""
    program, _, batch = compiled
    shapes = {tuple(map(int, dims.split(","))) for dims in re.findall(r"[a-z]\d+\[([\d,]+)\]", program.as_text())}
    local = [shape for shape in shapes if len(shape) >= 4 and shape[0] in (GLOBAL // 8, 2 * GLOBAL // 8)]
    assert local, "the program's text is not understood"
    side = min(batch["image"].shape[1:3])  # a row of weights per image, as cropping has, is no image
    whole = [shape for shape in shapes if shape[0] in (GLOBAL, 2 * GLOBAL) and math.prod(shape[1:]) >= side**2]
    assert not [shape for shape in whole if len(shape) >= 4]


def test_state_is_donated(compiled):
    """The state's buffers are used again, so that a step needs no second copy."""
    program, state, batch = compiled
    arrays = [x for x in jax.tree.leaves(state) if not jax.numpy.issubdtype(x.dtype, jax.dtypes.prng_key)]
    assert program.memory_analysis().alias_size_in_bytes >= sum(x.nbytes for x in arrays)
    program(state, batch)
    assert all(x.is_deleted() for x in arrays)


def test_put_splits_rows_in_order():
    batch = {"x": np.arange(16 * 3).reshape(16, 3)}
    x = put(batch, data_mesh())["x"]
    assert [shard.data.shape for shard in x.addressable_shards] == [(2, 3)] * 8
    np.testing.assert_array_equal(x, batch["x"])


@pytest.mark.parametrize(("batch", "devices", "hint"), [(20, 8, "16 or 24"), (3, 8, "use for example 8")])
def test_batch_that_devices_cannot_share(batch, devices, hint):
    with pytest.raises(UserError, match=hint):
        check_divisible(batch, data_mesh(jax.devices()[:devices]))
    check_divisible(16, data_mesh())
