import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import recipes

from ssl_jax import clustering, data
from ssl_jax.core import Carry, TrainState, UserError
from ssl_jax.evaluation import Assigned, assign_words, teacher_of, word_gallery
from ssl_jax.evaluation.words import spread
from ssl_jax.training import initial_state

WITH_WORDS = [name for name in recipes.NAMES if recipes.experiment(name).method.words]


def assigned(word, score=None, size=10):
    word = np.asarray(word, np.int32)
    score = np.zeros(word.shape) if score is None else np.asarray(score, float)
    return Assigned(word=word, score=score, size=size)


def test_best_places_are_found_one_an_image_and_frequencies_counted():
    word = [[[3, 3], [1, 3]], [[3, 1], [1, 1]], [[3, 7], [3, 3]]]
    score = [[[-4, -2], [-9, -3]], [[-1, -5], [-8, -6]], [[-7, 0], [-np.inf, -7]]]
    found = word_gallery(assigned(word, score), words=3, places=4, images=1)
    np.testing.assert_array_equal(found.word, [3, 1, 7])
    np.testing.assert_allclose(found.frequency, [6 / 11, 4 / 11, 1 / 11])
    np.testing.assert_array_equal(found.rank, [1, 2, 3])
    # The third image has 3 twice with one score, of which the first counts, and once where the method does not look.
    np.testing.assert_array_equal(found.image, [[1, 0, 2, -1], [1, 0, -1, -1], [2, -1, -1, -1]])
    np.testing.assert_array_equal(found.row, [[0, 0, 0, -1], [0, 1, -1, -1], [0, -1, -1, -1]])
    np.testing.assert_array_equal(found.column, [[0, 1, 0, -1], [1, 0, -1, -1], [1, -1, -1, -1]])
    share = np.array([6, 4, 1]) / 11
    assert (found.used, found.perplexity) == (3, pytest.approx(np.exp(-(share * np.log(share)).sum())))
    held = word_gallery(assigned(word, score), words=3, places=1, images=2)  # 7 is in one image alone
    np.testing.assert_array_equal(held.word, [3, 1])


def test_words_are_the_most_used_and_others_down_to_the_rarest():
    ranked = np.arange(100, 121)
    np.testing.assert_array_equal(spread(ranked, 6), [100, 101, 102, 109, 114, 120])
    np.testing.assert_array_equal(spread(ranked, 21), ranked)
    for count in range(1, 21):
        chosen = spread(ranked, count)
        assert len(set(chosen.tolist())) == count
        assert count == 1 or chosen[-1] == 120
    word = np.concatenate([np.full(40 - 2 * k, k) for k in range(20)]).reshape(-1, 1, 1)
    found = word_gallery(assigned(word, size=20), words=4, places=2)
    np.testing.assert_array_equal(found.word, [0, 1, 10, 19])
    np.testing.assert_array_equal(found.rank, [1, 2, 11, 20])


def test_nothing_to_show_and_numbers_below_one():
    assert word_gallery(assigned(np.zeros((2, 1, 1)), np.full((2, 1, 1), -np.inf))) is None
    single = word_gallery(assigned([[[4]]]))  # held by one image, but there are no others
    np.testing.assert_array_equal(single.word, [4])
    with pytest.raises(UserError, match="at least one word"):
        word_gallery(assigned([[[4]]]), words=0)


def test_patches_of_a_brightness_are_its_word():
    """Words that are levels of brightness find the squares that were painted so, on 8 devices and a batch of 10."""
    levels = np.random.default_rng(0).integers(0, 4, (10, 2, 3))
    image = np.repeat(np.repeat(levels * 80 + 5, 4, axis=1), 4, axis=2).astype(np.uint8)[..., None]
    source = data.from_arrays(image)

    def words(params, carry, x):
        means = x.reshape(len(x), 2, 4, 3, 4).mean(axis=(2, 4))
        return {"brightness": -clustering.squared_distances(means[..., None], carry.memory["words"])}

    method = dataclasses.replace(recipes.experiment("simclr").method, words=words)
    vocabulary = jnp.asarray([0.0, 80 / 255, 160 / 255, 240 / 255, 9.0], jnp.float32)[:, None]
    carry = Carry(model_state={}, memory={"words": vocabulary})
    zero = jnp.zeros((), jnp.int32)
    state = TrainState(step=zero, rng=zero, params={}, carry=carry, opt_state=())
    found = assign_words(method, state, source)["brightness"]
    np.testing.assert_array_equal(found.word, levels)
    np.testing.assert_allclose(found.score, -((5 / 255) ** 2), rtol=1e-3)
    shown = word_gallery(found, words=5, places=3)
    assert (found.size, shown.used) == (5, len(np.unique(levels)))
    np.testing.assert_allclose(np.sort(shown.frequency), np.sort(np.bincount(levels.ravel()) / 60))
    for word, images, rows, columns in zip(shown.word, shown.image, shown.row, shown.column, strict=True):
        for at in zip(images, rows, columns, strict=True):
            assert at[0] < 0 or levels[at] == word


@pytest.mark.parametrize("name", WITH_WORDS)
def test_methods_score_every_word_at_every_place(name):
    experiment = recipes.experiment(name)  # shapes alone, so that nothing is compiled
    state = jax.eval_shape(lambda: initial_state(experiment.method, experiment.source, **experiment.parts))
    image = jax.eval_shape(experiment.prepare, experiment.source[np.arange(5)]["image"])
    shapes = jax.eval_shape(experiment.method.words, state.params, state.carry, image)
    size = experiment.config.method_args.get("words") or experiment.config.method_args.get("prototypes")
    for x in shapes.values():
        assert (x.ndim, x.shape[0], x.shape[3]) == (4, 5, size)
        assert x.dtype == jnp.float32
    places = {x.shape[1:3] != (1, 1) for x in shapes.values()}
    assert places == {name in ("bownet", "ibot", "obow")}


def test_words_of_obow_are_the_teachers_features_nearest_in_squared_distance():
    experiment, state = recipes.experiment("obow", 1), recipes.initial("obow", 1)
    image = experiment.prepare(experiment.source[np.arange(3)]["image"])
    _, maps = jax.jit(experiment.method.encode)(*teacher_of(state.params, state.carry), image)
    found = jax.jit(experiment.method.words)(state.params, state.carry, image)
    assert list(found) == list(state.carry.memory["words"])
    for level, scores in found.items():
        x, vocabulary = (np.asarray(a, np.float64) for a in (maps[level], state.carry.memory["words"][level]))
        expected = -((x[:, :, :, None] - vocabulary) ** 2).sum(-1)
        inner = np.s_[:, 1:-1, 1:-1] if x.shape[1] > 2 else np.s_[:]
        outside = np.ones(scores.shape, bool)
        outside[inner] = False
        np.testing.assert_allclose(np.asarray(scores)[inner], expected[inner], rtol=1e-3, atol=1e-4)
        assert np.isneginf(np.asarray(scores)[outside]).all()  # the border, which training leaves out


def test_bownet_has_no_words_in_its_first_round():
    experiment, state = recipes.experiment("bownet", 1), recipes.initial("bownet", 1)
    found = assign_words(
        experiment.method,
        state,
        data.Subset(experiment.source, np.arange(4)),
        prepare=experiment.prepare,
        mesh=experiment.mesh,
    )
    assert all(word_gallery(each) is None for each in found.values())


def test_a_method_without_words_is_named():
    with pytest.raises(UserError, match="simclr has no visual words"):
        assign_words(
            recipes.experiment("simclr").method, recipes.initial("simclr"), recipes.experiment("simclr").source
        )
