import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssl_jax import nets
from ssl_jax.core import UserError
from ssl_jax.nets import grid_average


def test_unknown_names_are_answered_with_the_known_ones():
    with pytest.raises(UserError, match='no encoder "resnet19": choose one of convnet, resnet18'):
        nets.create("resnet19")
    with pytest.raises(UserError, match="unexpected keyword argument 'colour'"):
        nets.create("resnet18", colour="red")
    with pytest.raises(UserError, match="unexpected keyword argument 'depth'"):
        nets.create("resnet18", depth=50)


@pytest.mark.parametrize("name", nets.NAMES)
def test_every_encoder_keeps_the_contract(name):
    model = nets.create(name, dtype=jnp.bfloat16)
    images = jnp.zeros((2, 32, 32, 4))
    (pooled, maps), variables = jax.eval_shape(lambda: model.init_with_output(jax.random.key(0), images, train=True))
    assert pooled.shape[0] == 2
    assert pooled.ndim == 2
    assert {a.dtype for a in jax.tree.leaves((pooled, variables))} == {jnp.dtype("float32")}
    assert all(a.dtype == jnp.bfloat16 and a.shape[0] == 2 for a in maps.values())


def test_convnet_on_fashion_mnist_sizes():
    model = nets.create("convnet")
    (pooled, maps), variables = jax.eval_shape(
        lambda: model.init_with_output(jax.random.key(0), jnp.zeros((2, 28, 28, 1)), train=True)
    )
    assert pooled.shape == (2, 960)
    assert [maps[f"stage{i}"].shape[1:] for i in (1, 2, 3, 4)] == [(28, 28, 24), (14, 14, 48), (7, 7, 96), (4, 4, 192)]
    assert sum(a.size for a in jax.tree.leaves(variables["params"])) == 218_664


def test_convnet_learns_and_evaluates_with_running_statistics():
    model = nets.ConvNet((4, 8), strides=(2, 1), pool=(1,))
    images = jax.random.normal(jax.random.key(0), (8, 8, 8, 1))
    variables = jax.jit(model.init, static_argnums=2)(jax.random.key(1), images, True)
    (trained, _), updated = model.apply(variables, images, train=True, mutable=["batch_stats"])
    for _ in range(100):
        _, updated = model.apply({**variables, **updated}, images, train=True, mutable=["batch_stats"])
    evaluated, _ = model.apply({**variables, **updated}, images, train=False)
    np.testing.assert_allclose(evaluated, trained, atol=1e-3)


def test_grid_average_takes_cells_as_torch_does():
    x = jnp.arange(25.0).reshape(1, 5, 5, 1)
    cells = [6.0, 8.0, 16.0, 18.0]  # torch's adaptive_avg_pool2d(x, 2): rows and columns 0-2 and 2-4
    np.testing.assert_allclose(grid_average(x, (1, 2)), [[12.0, *cells]])


def test_images_too_small_for_the_pooling_are_refused():
    with pytest.raises(UserError, match=r"pool=\(1, 2\) needs a last feature map of at least 2 x 2"):
        jax.eval_shape(lambda: nets.create("convnet").init(jax.random.key(0), jnp.zeros((1, 8, 8, 1)), True))
