"""What every method keeps, run over every config's `:test` variant: no config is named here, and none is excepted."""

import dataclasses
import functools
import json
import pathlib
import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import recipes

from ssl_jax import init_state, train
from ssl_jax.catalogue import FAMILIES, card
from ssl_jax.checkpoint import Checkpoints
from ssl_jax.evaluate import network_of
from ssl_jax.experiment import build
from ssl_jax.nets import functional
from ssl_jax.pretrain import Watch, pretrain, restore


@pytest.fixture(scope="module", params=recipes.NAMES)
def name(request) -> str:
    return request.param


def kinds(tree) -> list:
    """What jit compiles for: path, shape, dtype, weak type and sharding of every leaf."""
    return [
        (jax.tree_util.keystr(path), x.shape, x.dtype, x.aval.weak_type, x.sharding)
        for path, x in jax.tree.leaves_with_path(tree)
    ]


def test_loss_is_finite_and_state_keeps_its_kind(name):
    state = recipes.initial(name)
    before = kinds(state)
    assert not [path for path, *_, weak, _ in before if weak]
    for number, batch in enumerate(recipes.batches(name, 3), start=1):
        state, metrics = recipes.step(name)(state, recipes.on_devices(name, batch))
        scalars = {key: float(value) for key, value in metrics.items() if value.ndim == 0}
        assert np.isfinite(list(scalars.values())).all(), scalars
        assert kinds(state) == before
        assert int(state.step) == number


def test_card_says_what_state_is_kept(name):
    carry, about = recipes.initial(name).carry, card(recipes.config(name).method)
    assert about.family in FAMILIES
    arrays = {key for key, value in (carry.memory or {}).items() if any(x.ndim for x in jax.tree.leaves(value))}
    assert set(about.state) == arrays | ({"teacher"} if carry.teacher is not None else set())


def test_state_starts_alike_whatever_the_batch_and_differs_by_seed(name):
    parts, other = recipes.experiment(name), jax.tree.map(lambda x: x[:2] * 0, recipes.batches(name)[0])

    def init(seed):
        return init_state(parts.method, recipes.SGD, other, views=parts.views, mesh=parts.mesh, seed=seed)

    recipes.assert_same_bits(init(0), recipes.initial(name))
    params = [jax.tree.leaves(recipes.bits(init(seed).params)) for seed in (0, 1)]
    assert not all(np.array_equal(a, b) for a, b in zip(*params, strict=True))


def test_step_is_traced_and_compiled_once_in_a_run(name, caplog):
    parts, traces = recipes.experiment(name), []

    def counted(*args):
        traces.append(args)
        return parts.method.loss(*args)

    method = dataclasses.replace(parts.method, loss=counted)
    with jax.log_compiles():
        run = train(method, parts.source, tx=recipes.SGD, views=parts.views, batch_size=recipes.BATCH, steps=5)
        assert len(list(run)) == 5
    assert len(traces) == 1
    assert len([text for text in caplog.messages if re.match(r"Compiling.*\bstep\b", text)]) == 1


def test_loss_falls_when_all_else_is_held(name):
    """Teacher, memory, batch, views and draws as at step 0, so that what falls is the loss as the gradient sees it."""
    step, batch = recipes.step(name), recipes.on_devices(name, recipes.batches(name)[0])
    state, losses = recipes.initial(name), []
    for _ in range(30):
        start = recipes.initial(name)
        state, metrics = step(state.replace(step=start.step, rng=start.rng, carry=start.carry), batch)
        losses.append(float(metrics["loss"]))
    assert losses[-1] < 0.9 * losses[0], losses


def test_no_gradient_into_teacher_or_memory(name):
    parts, state = recipes.experiment(name), recipes.initial(name)
    batch = recipes.viewed(name, state.rng, recipes.batches(name)[0])

    def loss(remembered):
        carry = state.carry.replace(**remembered)
        return parts.method.loss(state.params, carry, batch, state.rng, state.step)[0]

    remembered = {"teacher": state.carry.teacher, "memory": state.carry.memory}
    gradients = jax.jit(jax.grad(loss, allow_int=True))(remembered)
    for path, gradient in jax.tree.leaves_with_path(gradients):
        if gradient.dtype != jax.dtypes.float0:
            assert not np.any(gradient), jax.tree_util.keystr(path)


def test_encode_gives_rows_and_named_maps(name):
    parts, state = recipes.experiment(name), recipes.initial(name)
    image = jax.eval_shape(parts.prepare, recipes.batches(name)[0]["image"][:5])
    pooled, maps = jax.eval_shape(parts.method.encode, state.params, state.carry, image)
    assert pooled.ndim == 2
    assert len(pooled) == 5
    assert pooled.dtype == jnp.float32
    assert maps
    assert all(isinstance(key, str) and len(value) == 5 for key, value in maps.items())


def test_the_encoder_alone_gives_what_encode_gives(name):
    """What protocols train further, and exports write; of what stands before an encoder also the values."""
    parts, state = recipes.experiment(name), recipes.initial(name)
    network = network_of(parts, state)
    image = recipes.batches(name)[0]["image"][:2]

    def both(variables, carry, image):
        alone = functional.encode(network.encoder, *variables, parts.prepare(image), train=False)[:2]
        return parts.method.encode(state.params, carry, parts.prepare(image)), alone

    arguments = ((network.params, network.state), state.carry, image)
    (pooled, maps), (alone, others) = jax.eval_shape(both, *arguments)
    assert alone == pooled
    assert others.items() <= maps.items()
    if parts.method.module is not None:
        (pooled, maps), (alone, others) = jax.jit(both)(*arguments)
        np.testing.assert_array_equal(alone, pooled)


def test_views_depend_on_the_example_and_not_on_its_place(name):
    views = functools.partial(recipes.views(name), jax.random.key(3))
    batch = recipes.batches(name)[0]
    order = np.random.default_rng(0).permutation(recipes.BATCH)
    made, moved = views(batch), views({key: value[order] for key, value in batch.items()})
    company = {
        key: np.concatenate([value[:1], value[:1].repeat(recipes.BATCH - 1, 0) * 0]) for key, value in batch.items()
    }
    alone = views(company)
    for a, b, c in zip(*map(jax.tree.leaves, (made, moved, alone)), strict=True):
        np.testing.assert_array_equal(np.asarray(a)[order], b)
        np.testing.assert_array_equal(np.asarray(a)[0], np.asarray(c)[0])
        assert not np.array_equal(a[0], a[1])


@pytest.fixture(scope="module")
def undisturbed(name, tmp_path_factory):
    """A run through `pretrain`, whose checkpoints and lines fall on different steps."""
    directory = tmp_path_factory.mktemp(name) / "run"
    config = recipes.config(name, steps=12, log_every=4, checkpoint_every=5, keep_checkpoints=3)
    return config, directory, pretrain(config, directory, announce=lambda text: None)


def lines(directory: pathlib.Path) -> list[dict]:
    """`metrics.jsonl` without what clocks say."""
    rows = map(json.loads, (directory / "metrics.jsonl").read_text().splitlines())
    return [{key: row[key] for key in row if key not in ("time", "images_per_second", "data_wait")} for row in rows]


def test_resumed_run_is_the_undisturbed_run(name, undisturbed, tmp_path):
    config, first, state = undisturbed
    second = tmp_path / "run"
    shutil.copytree(first, second)
    for lost in (10, 12):
        shutil.rmtree(second / "checkpoints" / str(lost))
    heard = []
    resumed = pretrain(config, second, announce=heard.append)
    assert "step 5" in heard[-1]
    recipes.assert_same_bits(resumed, state)
    assert lines(second) == lines(first)
    assert [row["step"] for row in lines(first)] == [4, 8, 12]
    saved = [stored(config, directory, state) for directory in (first, second)]
    recipes.assert_same_bits(*saved)
    recipes.assert_same_bits(saved[0][0], state)


def stored(config, directory: pathlib.Path, state) -> tuple:
    """State and probe of the last checkpoint."""
    watch = Watch(build(config), announce=lambda text: None)
    watch.start(state)
    checkpoints = Checkpoints(directory / "checkpoints", read_only=True)
    try:
        return restore(checkpoints, state, watch)[0], watch.probe
    finally:
        checkpoints.close()


def test_looking_on_changes_no_bit(undisturbed, name, tmp_path):
    _, _, state = undisturbed
    config = recipes.config(name, steps=12, log_every=5, checkpoint_every=7, probe=False, knn_every=-1)
    recipes.assert_same_bits(pretrain(config, tmp_path, announce=lambda text: None), state)
