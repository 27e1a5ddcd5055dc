"""The library as a script uses it: the README's example, the loop as an iterator, a loop of one's own."""

import contextlib
import io
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import recipes

import ssl_jax
from ssl_jax import UserError
from ssl_jax.train_step import with_views

README = pathlib.Path(__file__).parents[1] / "README.md"
TX = optax.sgd(0.05)
LOADED = ssl_jax.data.load("digits", "train[:200]")


def example() -> str:
    """The first block of Python below the heading "As a library"."""
    _, heading, text = README.read_text().partition("\n## As a library\n")
    assert heading, "the README has no heading 'As a library'"
    return re.search(r"```python\n(.*?)```", text, re.DOTALL)[1]


def test_example_of_the_readme():
    said = io.StringIO()
    names: dict = {}
    with contextlib.redirect_stdout(said):
        exec(compile(example(), "README.md", "exec"), names)
    features = names["features"]
    assert said.getvalue().strip() == str(features.shape)
    assert features.shape[0] == 1260
    assert features.dtype == np.float32
    assert np.isfinite(features).all()
    assert int(names["state"].step) == 100
    assert len(example().strip().splitlines()) <= 12


@pytest.fixture(scope="module")
def parts() -> dict:
    """Arguments of `train`, without a length."""
    method = ssl_jax.methods.byol(ssl_jax.nets.create("convnet", widths=(4, 8)), hidden=16, dim=8)
    views = ssl_jax.augment.simclr(8, blur=False, flip=0.0)
    return {"method": method, "source": LOADED, "tx": TX, "views": views, "batch_size": 16}


@pytest.fixture(scope="module")
def six_steps(parts):
    return recipes.bits(ssl_jax.fit(**parts, steps=6))


def test_iterator_yields_every_step(parts, six_steps):
    states = []
    for state, metrics, batch in ssl_jax.train(**parts, steps=6):
        states.append(int(state.step))
        assert metrics["loss"].shape == ()
        np.testing.assert_array_equal(batch["label"], LOADED.labels[batch["id"]])
    assert states == [1, 2, 3, 4, 5, 6]
    recipes.assert_same_bits(state, six_steps)


def test_going_on_from_a_state(parts, six_steps):
    half = ssl_jax.fit(**parts, steps=3)
    recipes.assert_same_bits(ssl_jax.fit(**parts, steps=6, state=half), six_steps)


def test_seed_and_labels(parts, six_steps):
    """The seed changes a run; labels can't, not even their absence."""
    other = recipes.bits(ssl_jax.fit(**parts, steps=6, seed=1))
    assert not np.array_equal(jax.tree.leaves(other.params)[0], jax.tree.leaves(six_steps.params)[0])
    unlabelled = ssl_jax.data.from_arrays(LOADED[np.arange(len(LOADED))]["image"])
    recipes.assert_same_bits(ssl_jax.fit(**{**parts, "source": unlabelled}, steps=6), six_steps)


def test_nothing_to_train(parts):
    state = ssl_jax.fit(**parts, steps=1)
    with pytest.raises(UserError, match="nothing to train"):
        ssl_jax.fit(**parts, steps=1, state=state)
    with pytest.raises(UserError, match="exceeds the 200 images"):
        ssl_jax.fit(**{**parts, "batch_size": 208}, steps=1)


def test_method_in_a_loop_of_ones_own(parts):
    """Half the loss at twice the rate, the carry kept and updated after one's own optimizer: as the library's step."""
    method, views = parts["method"], parts["views"]
    batches = [LOADED[np.arange(i, i + 16)]["image"] for i in (0, 16)]
    ids = np.arange(16, dtype=np.int32)
    state = ssl_jax.init_state(method, TX, {"image": batches[0], "id": ids}, views=views)
    params, carry, opt_state = recipes.copy((state.params, state.carry, state.opt_state))
    look = jax.jit(lambda rng, batch: with_views(views, rng, batch))
    step, twice = ssl_jax.make_train_step(method, TX), optax.sgd(0.1)

    @jax.jit
    def own(params, carry, opt_state, batch, rng, number):
        def total(params):
            value, (new_carry, _) = method.loss(params, carry, batch, rng, number)
            return 0.5 * value, new_carry

        (value, carry), grads = jax.value_and_grad(total, has_aux=True)(params)
        updates, opt_state = twice.update(grads, opt_state, params)
        params = optax.apply_updates(params, updates)
        return params, method.update(params, carry, number), opt_state, value

    for number, image in enumerate(batches):
        batch = look(jax.random.key(number), {"image": image, "id": ids})
        _, rng = jax.random.split(jax.random.fold_in(state.rng, number))
        params, carry, opt_state, value = own(
            params, carry, opt_state, {"views": batch["views"]}, rng, jnp.asarray(number, jnp.int32)
        )
        state, metrics = step(state, {"views": batch["views"]})
        np.testing.assert_allclose(metrics["loss"], 2 * value, rtol=1e-6)
    for a, b in zip(jax.tree.leaves((state.params, state.carry)), jax.tree.leaves((params, carry)), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=2e-6)


def test_half_precision_keeps_parameters_whole(parts):
    encoder = ssl_jax.nets.create("convnet", widths=(4, 8), dtype=jnp.bfloat16)
    method = ssl_jax.methods.byol(encoder, hidden=16, dim=8)
    for state, metrics, _ in ssl_jax.train(**{**parts, "method": method}, steps=2):
        assert np.isfinite(metrics["loss"])
        assert metrics["loss"].dtype == jnp.float32
        floats = [x for x in jax.tree.leaves((state.params, state.carry)) if jnp.issubdtype(x.dtype, jnp.floating)]
        assert {x.dtype for x in floats} == {jnp.dtype("float32")}
