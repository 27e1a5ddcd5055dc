"""Decoders: every size of image comes out, from vectors and from maps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssl_jax.core import UserError
from ssl_jax.nets.decoders import ConvDecoder, double


def shape_of(decoder, *shape):
    x = jnp.zeros(shape, jnp.float32)
    return jax.eval_shape(lambda: decoder.init_with_output(jax.random.key(0), x, train=True)[0])


@pytest.mark.parametrize("size", [(8, 8), (28, 28), (7, 13), (1, 5)])
@pytest.mark.parametrize("halvings", [0, 1, 3])
@pytest.mark.parametrize("channels", [1, 3])
def test_vectors_become_images_of_any_size(size, halvings, channels):
    made = shape_of(ConvDecoder(size, channels, width=4, halvings=halvings), 2, 5)
    assert made.shape == (2, *size, channels)
    assert made.dtype == jnp.float32


@pytest.mark.parametrize(("grid", "size"), [((4, 4), (28, 28)), ((7, 7), (28, 28)), ((3, 5), (9, 11)), ((6, 6),) * 2])
def test_maps_become_images_of_any_size(grid, size):
    assert shape_of(ConvDecoder(size, 3, width=4, dtype=jnp.bfloat16), 2, *grid, 5).shape == (2, *size, 3)


def test_doubling_repeats_pixels():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3, 4, 5)), jnp.float32)
    np.testing.assert_array_equal(double(x), np.asarray(x).repeat(2, 1).repeat(2, 2))


def test_width_doubles_with_every_halving_up_to_512():
    variables = jax.eval_shape(
        lambda: ConvDecoder((64, 64), 3, width=100, halvings=4).init(jax.random.key(0), jnp.zeros((2, 5)), train=True)
    )
    params = variables["params"]
    assert params["dense"]["kernel"].shape == (5, 4 * 4 * 512)
    assert [params[f"stage{i}_conv"]["kernel"].shape[-1] for i in (3, 2, 1, 0)] == [512, 400, 200, 100]


@pytest.mark.parametrize("shape", [(2, 5, 5), (2, 9, 4, 3)])
def test_other_inputs_are_refused(shape):
    with pytest.raises(UserError, match="takes"):
        shape_of(ConvDecoder((8, 8), 1), *shape)
