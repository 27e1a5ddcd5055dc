"""What the report shows of a run, taken from its state."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
import recipes

from ssl_jax import gallery


@pytest.mark.parametrize("name", [name for name in recipes.NAMES if recipes.experiment(name, 1).method.pictures])
def test_pictures_are_bytes_and_the_image_is_the_clean_view(name):
    experiment = recipes.experiment(name, 1)
    made = gallery.pictures(experiment, recipes.initial(name, 1))
    assert len(made) >= 2
    image = experiment.prepare(experiment.source[np.arange(gallery.VIEWED)]["image"])
    for x in made.values():
        assert x.shape == image.shape
        assert x.dtype == np.uint8
    assert len(np.unique(next(iter(made.values())))) > 10


def test_most_methods_make_none_and_names_keep_their_order():
    experiment, state = recipes.experiment("simclr", 1), recipes.initial("simclr", 1)
    assert gallery.pictures(experiment, state) is None
    bright = lambda params, carry, batch, rng: {  # noqa: E731
        name: jnp.full((3, 8, 8, 1), value) for name, value in (("z", 9.0), ("a", -9.0))
    }
    drawn = dataclasses.replace(experiment, method=dataclasses.replace(experiment.method, pictures=bright))
    made = gallery.pictures(drawn, state)
    assert list(made) == ["z", "a"]
    assert (made["z"].min(), made["a"].max()) == (255, 0)  # cut off at black and white
