import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from values import assert_close

from ssl_jax import data, init_state, methods, nets
from ssl_jax.core import UserError
from ssl_jax.evaluation import embed, embed_layers, layer_names, teacher_of
from ssl_jax.evaluation.features import each_image
from ssl_jax.sharding import data_mesh

ENCODER = nets.ConvNet(widths=(4, 8), pool=(1,))


@pytest.fixture(scope="module")
def source():
    return data.load("digits", "test[:43]")


@pytest.fixture(scope="module")
def byol():
    method = methods.byol(ENCODER, hidden=8, dim=4)
    return method, init_state(method, optax.sgd(0.1), {"views": jnp.zeros((2, 2, 8, 8, 1))})


def by_hand(params, carry, source, name):
    image = jnp.asarray(source[np.arange(len(source))]["image"], jnp.float32) / 255
    variables = {"params": params["encoder"], **carry.model_state["encoder"]}
    pooled, maps = ENCODER.apply(variables, image, train=False)
    return pooled if name is None else jnp.mean(maps[name], axis=(1, 2))


@pytest.mark.parametrize("batch_size", [8, 10, 43, 512])
def test_features_are_those_of_each_image_in_order(source, byol, batch_size):
    """Whatever the batch (rounded up to the 8 devices), and without the rows that pad the last one."""
    method, state = byol
    features = embed(method, state, source, batch_size=batch_size)
    assert features.shape == (43, 8)
    assert features.dtype == np.float32
    assert_close(features, by_hand(state.params, state.carry, source, None), 1e-5)


def test_a_batch_that_memory_is_too_small_for_is_halved(source):
    """The shortage is a real one: what these batches ask for no machine has."""
    tried = []

    def run(image):
        tried.append(len(image))
        if len(image) > 16:
            jnp.zeros((2**30, 2**20), jnp.float32).block_until_ready()
        return [image[:, 0, 0, 0]]

    [found] = each_image(run, source, batch_size=43, mesh=data_mesh())
    np.testing.assert_array_equal(found, source[np.arange(43)]["image"][:, 0, 0, 0])
    assert tried == [48, 24, 16, 16, 16]

    def never(image):
        return [jnp.zeros((2**30, 2**20), jnp.float32).block_until_ready()]

    with pytest.raises(jax.errors.JaxRuntimeError, match="RESOURCE_EXHAUSTED"):
        each_image(never, source, batch_size=43, mesh=data_mesh())


def test_a_layer_is_averaged_over_its_positions(source, byol):
    method, state = byol
    assert_close(embed(method, state, source, layer="stage1"), by_hand(state.params, state.carry, source, "stage1"))
    with pytest.raises(UserError, match="no layer 'stage7'; it has pooled, stage1, stage2"):
        embed(method, state, source, layer="stage7")


def test_layers_on_a_grid_and_side_by_side(source, byol):
    method, state = byol
    whole = embed(method, state, source, layer="stage1")
    quarters = embed(method, state, source, layer="stage1@2")
    assert quarters.shape == (43, 4 * whole.shape[1])
    assert_close(quarters.reshape(43, 4, -1).mean(axis=1), whole)  # an even map: cells of one size
    both = embed(method, state, source, layer="stage1@2+pooled")
    np.testing.assert_array_equal(both, np.concatenate([quarters, embed(method, state, source)], axis=1))
    fine = embed(method, state, source, layer="stage2@99")  # as fine as the map is
    assert_close(fine.reshape(43, -1, 8).mean(axis=1), embed(method, state, source, layer="stage2"))
    assert layer_names(method, state, source) == ["stage1", "stage2", "pooled"]
    for wrong in ("stage1@", "stage1@0", "stage1@two"):
        with pytest.raises(UserError, match="written as stage2@3"):
            embed(method, state, source, layer=wrong)


def test_the_teacher_is_another_network(source, byol):
    method, state = byol
    features = embed(method, state, source, encoder="teacher")
    assert_close(features, by_hand(*teacher_of(state.params, state.carry), source, None), 1e-5)
    assert np.max(np.abs(features - embed(method, state, source))) > 1e-3


def test_a_method_without_a_teacher_and_unknown_encoders_are_errors(source):
    method = methods.simclr(ENCODER, dim=4)
    state = init_state(method, optax.sgd(0.1), {"views": jnp.zeros((2, 2, 8, 8, 1))})
    with pytest.raises(UserError, match="keeps no teacher"):
        embed(method, state, source, encoder="teacher")
    with pytest.raises(UserError, match="'student' or 'teacher', not 'both'"):
        embed(method, state, source, encoder="both")


def test_images_are_prepared_as_told_and_features_of_half_precision_come_in_float32(source):
    encoder = ENCODER.copy(dtype=jnp.bfloat16)
    method = methods.simclr(encoder, dim=4)
    state = init_state(method, optax.sgd(0.1), {"views": jnp.zeros((2, 2, 8, 8, 1))})
    black = lambda image: jnp.zeros(image.shape, jnp.float32)  # noqa: E731
    features = embed(method, state, source, prepare=black, layer="stage2")
    assert features.dtype == np.float32
    np.testing.assert_array_equal(features, np.broadcast_to(features[:1], features.shape))
    assert jax.tree.leaves(state.params)[0].dtype == jnp.float32


def test_several_layers_come_from_one_pass(source, byol):
    method, state = byol
    found = embed_layers(method, state, source, layers=("stage2", "pooled", "stage1"))
    assert list(found) == ["stage2", "pooled", "stage1"]
    np.testing.assert_array_equal(found["pooled"], embed(method, state, source))
    np.testing.assert_array_equal(found["stage1"], embed(method, state, source, layer="stage1"))
    with pytest.raises(UserError, match="no layer 'stage7'; it has pooled, stage1, stage2"):
        embed_layers(method, state, source, layers=("stage1", "stage7"))
