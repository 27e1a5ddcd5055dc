"""A state that is split by rules: where it lies, what a step with it gives, and what it says to other devices."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import recipes
from jax.sharding import PartitionSpec as P
from test_devices import assert_close, parts_of, widen

from ssl_jax import UserError, init_state, make_train_step, methods, nets
from ssl_jax.checkpoint import Checkpoints
from ssl_jax.collectives import collectives
from ssl_jax.digest import digest
from ssl_jax.sharding import data_mesh, put
from ssl_jax.sharding_rules import FSDP, largest, rules_of, state_shardings, wide

ALL = ((".", largest),)  # networks of tests have no array that is large enough for FSDP


def places(tree) -> list:
    return [x.sharding for x in jax.tree.leaves(tree)]


@pytest.mark.parametrize(("name", "model"), [("moco", 1), ("memory_bank", 1), ("mae", 2)])
def test_split_state_gives_the_step_of_a_whole_one(name, model):
    """Everything is split that eight devices, or four by two, divide; views, loss, teacher and memory included."""
    parts, mesh = recipes.experiment(name), data_mesh(model=model)
    rules = (*(wide("data") if model > 1 else ()), *ALL)
    [batch] = recipes.batches(name)
    how = {"views": parts.views, "mesh": mesh, "sharding": rules}
    state = init_state(parts.method, recipes.SGD, batch, **how)
    before = places(state)
    assert sum(not place.is_fully_replicated for place in before) > len(before) / 3
    split = make_train_step(parts.method, recipes.SGD, **how)(state, put(batch, mesh))
    assert places(split[0]) == before
    whole = recipes.step(name)(recipes.initial(name), recipes.on_devices(name, batch))
    assert_close(*({**parts_of(state), **metrics} for state, metrics in (whole, split)), tolerance=1e-6)


def test_split_state_gives_the_step_of_a_whole_one_in_float64():
    """And may go from one way of splitting to another."""
    start, found = recipes.initial("simclr"), []
    batch = recipes.viewed("simclr", jax.random.key(1), recipes.batches("simclr")[0])
    with jax.enable_x64(True):
        batch["views"] = np.asarray(batch["views"], np.float64)
        method = recipes.experiment("simclr", dtype="float64").method
        for mesh, rules in ((data_mesh(), ()), (data_mesh(model=2), (*wide("data"), *ALL))):
            state = widen(recipes.copy(start))
            state = jax.device_put(state, state_shardings(state, rules, mesh))
            state, metrics = make_train_step(method, recipes.SGD, mesh=mesh, sharding=rules)(state, put(batch, mesh))
            found.append({**parts_of(state), "loss": metrics["loss"]})
    assert found[1]["loss"].dtype == jnp.float64
    statistics = [{"statistics": tree.pop("statistics")} for tree in found]
    assert_close(*found, tolerance=1e-9)
    assert_close(*statistics, tolerance=1e-6)


class Compiled:
    """A step of a small convolutional network on eight devices, and what goes in and out of it."""

    ROWS = 64

    def __init__(self, make, rules, devices: int = 8, model: int = 1):
        mesh = data_mesh(jax.devices()[:devices], model=model)
        method = make(nets.ConvNet((8, 16)))
        batch = {"views": np.random.default_rng(0).normal(size=(self.ROWS, 2, 8, 8, 3)).astype(np.float32)}
        how = {"mesh": mesh, "sharding": rules}
        self.state = init_state(method, optax.sgd(0.05, momentum=0.9), batch, **how)
        self.batch = put(batch, mesh)
        step = make_train_step(method, optax.sgd(0.05, momentum=0.9), **how)
        self.step = step.lower(self.state, self.batch).compile()
        self.bytes, self.times = {}, {}
        for found in collectives(self.step.as_text()):
            self.bytes[found.kind] = self.bytes.get(found.kind, 0) + found.bytes * found.times
            self.times[found.kind] = self.times.get(found.kind, 0) + found.times


def size(tree) -> int:
    return sum(x.nbytes for x in jax.tree.leaves(tree))


def batch_norms(params) -> list:
    """Mean and variance of every batch norm, as its scales."""
    leaves = jax.tree.leaves_with_path(params)
    return 2 * [x for path, x in leaves if re.search("norm.*scale", jax.tree_util.keystr(path))]


SCALARS = 256  # bytes: loss, norms and metrics


def test_data_parallel_is_one_gradient_and_batch_norms_and_the_ring():
    found = Compiled(lambda encoder: methods.simclr(encoder, hidden=32, dim=16, form="ring"), ())
    arrays = [*jax.tree.leaves(found.state.params), *batch_norms(found.state.params)]
    gradient = size(arrays)
    assert gradient <= found.bytes["all-reduce"] <= gradient + SCALARS
    # A block of rows is passed on by each device eight times: embeddings and ids, and back with two numbers more.
    rows = 2 * Compiled.ROWS
    assert found.bytes["collective-permute"] == rows * (16 + 1) * 4 + rows * (16 + 3) * 4
    assert found.times["collective-permute"] == 8 * (2 + 4)
    assert found.times["all-reduce"] <= len(arrays)  # no array twice, and the scalars with one of them
    assert set(found.bytes) <= {"all-reduce", "collective-permute"}


@pytest.fixture(scope="module")
def split():
    """MoCo with all that is large split over eight devices, and its queue by row."""
    rules = (("queue$", ("data",)), ("(kernel|projector/.*)$", "largest"))
    return Compiled(lambda encoder: methods.moco(encoder, dim=16, queue_size=4096), rules_of("replicated", own=rules))


def test_fully_split_gathers_each_parameter_once_and_reduces_each_gradient_once(split):
    state, carry = split.state, split.state.carry
    parameters = [x for x in jax.tree.leaves((state.params, carry.teacher)) if not x.sharding.is_fully_replicated]
    keys = Compiled.ROWS * 16 * 4  # every device sees all queries, and all keys that enter the queue; with their places
    assert size(parameters) <= split.bytes["all-gather"] <= size(parameters) + 2 * keys + 4 * Compiled.ROWS * 4
    norms = 2 * batch_norms(state.params)  # the teacher's too
    gradient = size(state.params) + size(norms) + keys
    reduced = split.bytes["all-reduce"] + split.bytes.get("reduce-scatter", 0)
    assert size(state.params) <= reduced <= gradient + 4 * Compiled.ROWS * 4 + SCALARS
    # Queries, keys and where they go, once each on the way there, and the queries' gradient on the way back.
    assert split.times["all-gather"] <= len(parameters) + 5
    assert (
        split.times["all-reduce"] + split.times.get("reduce-scatter", 0)
        <= len(jax.tree.leaves(state.params)) + len(norms) + 4
    )
    assert set(split.bytes) <= {"all-gather", "all-reduce", "reduce-scatter"}


def test_no_device_holds_the_queue(split):
    """Neither whole nor twice its own part: what is kept besides the state is less than a quarter of it."""
    queue = split.state.carry.memory["queue"]
    assert queue.sharding.spec == P("data")
    text = split.step.as_text()
    assert "f32[512,16]" in text, "the program's text is not understood"
    assert not re.search(r"f32\[(4096,16|16,4096)\]", text)
    assert split.step.memory_analysis().argument_size_in_bytes < size(split.state) / 4


def test_split_state_is_donated(split):
    aliased = split.step.memory_analysis().alias_size_in_bytes
    parts = [x.addressable_shards[0].data for x in jax.tree.leaves(split.state.replace(rng=None))]
    assert aliased >= size(parts)


def test_saved_on_eight_devices_goes_on_elsewhere(split, tmp_path):
    """Split over eight, it is restored whole on four and split on two by two: the same bits, and then the same step."""
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    try:
        checkpoints.save(0, {"state": split.state}, {"seed": 0})
        checkpoints.wait()
        make = lambda encoder: methods.moco(encoder, dim=16, queue_size=4096)  # noqa: E731
        places = [(4, 1, ()), (4, 2, rules_of("fsdp", own=(("queue$", ("data",)),), model=2))]
        others = [Compiled(make, rules, devices, model) for devices, model, rules in places]
        found = [split.step(jax.tree.map(jnp.copy, split.state), split.batch)]
        for other in others:
            trees, _ = checkpoints.restore(0, {"state": other.state})
            assert digest(trees["state"]) == digest(split.state)
            assert [x.sharding for x in jax.tree.leaves(trees)] == [x.sharding for x in jax.tree.leaves(other.state)]
            found.append(other.step(trees["state"], other.batch))
        for state, metrics in found[1:]:
            assert_close(
                {**parts_of(found[0][0]), "loss": found[0][1]["loss"]},
                {**parts_of(state), "loss": metrics["loss"]},
                tolerance=1e-6,
            )
        wrong = jax.eval_shape(lambda state: state.replace(params={"encoder": jnp.zeros(3)}), split.state)
        wrong = jax.device_put(jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), wrong.replace(rng=None)))
        with pytest.raises(UserError, match=r"another model or optimizer: params/encoder is not there, here \(3,\)"):
            checkpoints.restore(0, {"state": wrong.replace(rng=split.state.rng)})
    finally:
        checkpoints.close()


def shapes(**arrays) -> dict:
    return {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in arrays.items()}


def specs(rules, *, model: int = 1, **arrays) -> dict:
    return {name: s.spec for name, s in state_shardings(shapes(**arrays), rules, data_mesh(model=model)).items()}


def test_first_rule_that_is_found_says_how():
    rules = rules_of("fsdp", own=(("^queue", ("data",)), ("ue2", ()), ("kernel$", "largest")))
    found = specs(rules, queue=(8, 512), queue2=(16, 4), kernel=(3, 8), other=(256, 512), small=(8, 8), odd=(251, 253))
    assert found == {
        "queue": P("data"),
        "queue2": P("data"),
        "kernel": P(None, "data"),
        "other": P(None, "data"),
        "small": P(),
        "odd": P(),
    }
    assert specs((), queue=(8, 8)) == {"queue": P()}


def test_wide_layers_are_split_by_column_and_then_by_row():
    def of(rules):
        paths = {"mlp_in": {"kernel": (64, 256), "bias": (256,)}, "mlp_out": {"kernel": (256, 64), "bias": (64,)}}
        tree = {name: shapes(**arrays) for name, arrays in paths.items()}
        return jax.tree.leaves(jax.tree.map(lambda s: s.spec, state_shardings(tree, rules, data_mesh(model=2))))

    columns, rows = P(None, "model"), P("model", None)
    assert of(rules_of("replicated", model=2)) == [P("model"), columns, P(), rows]
    columns, rows = P("data", "model"), P("model", "data")
    assert of(rules_of("fsdp", model=2)) == [P("model"), columns, P(), rows]
    assert specs(wide(None), model=2, **{"last/kernel": (6, 7)}) == {"last/kernel": P(None, None)}


@pytest.mark.parametrize(
    ("own", "text"),
    [
        ((("qu[", ("data",)),), r"'qu\[' is no regular expression"),
        ((("quue", ("data",)),), "'quue' is for no array"),
        ((("queue", ("data", "data")),), "does not fit queue"),
        ((("queue", (None, "data")),), r"does not fit queue, which has the shape \(16, 5\), on the mesh {'data': 8}"),
        ((("queue", ("model",)),), "does not fit queue"),
        ((("queue", (None, None, None)),), "does not fit queue"),
        ((("queue", "rows"),), r"is \(pattern, spec\)"),
        ((("queue", ("rows",)),), r"is \(pattern, spec\)"),
        (("queue",), r"is \(pattern, spec\)"),
    ],
)
def test_rules_that_can_not_be(own, text):
    with pytest.raises(UserError, match=text):
        specs(rules_of("replicated", own=own), queue=(16, 5))


def test_names_and_meshes_that_are_none():
    with pytest.raises(UserError, match=r"config\.sharding is replicated or fsdp, not 'zero'"):
        rules_of("zero")
    with pytest.raises(UserError, match=r"model axis of 3 does not fit 8 device\(s\); it may have 1, 2, 4, 8"):
        data_mesh(model=3)
    assert data_mesh(model=8).shape == {"data": 1, "model": 8}
    assert FSDP[0][1]((128, 128), data_mesh()) == ("data",)
