"""What the report shows of a run, taken from its state."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
import recipes

from ssl_jax import gallery, report


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


def test_a_vision_transformer_shows_where_it_looks_and_others_do_not(tmp_path):
    experiment, state = recipes.experiment("ibot", 1), recipes.initial("ibot", 1)
    found = gallery.attention(experiment, state, experiment.source, encoder="teacher")
    images, heads, *grid = found["maps"].shape
    assert (images, heads) == (gallery.LOOKED_AT, experiment.config.encoder_args.heads)
    assert found["image"].dtype == np.uint8
    assert found["kept"].shape == (images, *grid)
    mean = found["maps"].mean(axis=1)
    held = np.where(found["kept"], mean, 0).sum(axis=(1, 2)) / mean.sum(axis=(1, 2))
    assert (held >= gallery.MASS - 1e-6).all()
    assert gallery.attention(recipes.experiment("simclr", 1), recipes.initial("simclr", 1), experiment.source) is None
    page = report.write(tmp_path, title="x", run={}, metrics=[], attention=found).read_text()
    assert page.count('alt="Image 1, attention of head ') == heads


def test_words_are_shown_of_methods_that_have_them(tmp_path):
    experiment, state = recipes.experiment("obow", 1), recipes.initial("obow", 1)
    found = gallery.words(experiment, state, experiment.source)
    assert [each["name"] for each in found] == list(state.carry.memory["words"])
    for each in found:
        m, r, *_ = each["picture"].shape
        assert each["row"].shape == each["column"].shape == (m, r)
        assert 0 < each["used"] <= each["size"] == experiment.config.method_args.words
        seen = each["picture"][each["row"] >= 0]
        assert seen.dtype == np.uint8
        assert seen.std() > 10
    assert gallery.words(recipes.experiment("simclr", 1), recipes.initial("simclr", 1), experiment.source) is None
    page = report.write(tmp_path, title="x", run={}, metrics=[], words=found).read_text()
    assert page.count('class="near looks"') == sum(len(each["word"]) for each in found)
