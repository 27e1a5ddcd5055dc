"""One of several processes: what they say to each other, and steps on one device each; `test_hosts.py` starts it.

python tests/several_processes.py HOST:PORT COUNT I FILE.npz [DIRECTORY EVERY]

The last two: a run to go on with, and after how many steps to save. Two processes have the state split between them.
"""

import pathlib
import sys

import jax
import numpy as np
import recipes
from test_devices import widen

from ssl_jax import hosts, make_train_step
from ssl_jax.core import UserError
from ssl_jax.pretrain import pretrain
from ssl_jax.sharding import whole
from ssl_jax.sharding_rules import REPLICATED, Rules, rules_of, state_shardings

NAME = "simclr"
FIELDS = {"optimizer": "sgd", "steps": 10, "log_every": 1, "checkpoint_every": 1, "keep_checkpoints": 99}

EVERYTHING = ((".", "largest"),)  # arrays too small for fsdp are split as well


def local(batch: dict) -> dict:
    """This process's rows."""
    share = recipes.BATCH // jax.process_count()
    return jax.tree.map(lambda x: x[jax.process_index() * share :][:share], batch)


def parameters(devices: int, sharding: Rules = REPLICATED) -> dict[str, np.ndarray]:
    """After twenty steps of SGD in float64, from one batch of views, with the state split by some rules."""
    start = recipes.initial(NAME, devices)
    batch = recipes.viewed(NAME, jax.random.key(1), recipes.batches(NAME)[0])
    with jax.enable_x64(True):
        parts = recipes.experiment(NAME, devices, "float64")
        step, state = make_train_step(parts.method, recipes.SGD, mesh=parts.mesh, sharding=sharding), widen(start)
        state = jax.device_put(state, state_shardings(state, sharding, parts.mesh))
        assert all(x.is_fully_replicated for x in jax.tree.leaves(state.params)) == (not sharding)
        batch = {**batch, "views": jax.tree.map(lambda x: np.asarray(x, np.float64), batch["views"])}
        batch = recipes.on_devices(NAME, local(batch), devices)
        for _ in range(20):
            state, _ = step(state, batch)
        params = whole(state.params, parts.mesh)
    return {jax.tree_util.keystr(path): np.asarray(x) for path, x in jax.tree.leaves_with_path(params)}


def talk(count: int, me: int, folder: pathlib.Path) -> None:
    """What `ssl_jax.hosts` promises; in a folder that all see."""
    assert (jax.process_count(), jax.process_index(), jax.device_count()) == (count, me, count)
    assert hosts.exchange({"who": "ab" * (1 + 40 * me)}) == [{"who": "ab" * (1 + 40 * i)} for i in range(count)]
    assert hosts.on_first(lambda: ["first", me]) == ["first", 0]
    assert hosts.together(lambda: me) == me
    vote = hosts.Vote(recipes.experiment(NAME, count).mesh)
    assert [vote.any(False), vote.any(me == 1), vote.any(False)] == [False, True, False]

    def fail():
        if me == 1:
            raise UserError("no data here")

    hosts.check_shared(folder)
    hosts.PATIENCE = 0.1
    own = folder / f"of_{count}" / str(me)
    own.mkdir(parents=True)
    for bad in (
        lambda: hosts.together(fail),
        lambda: hosts.agree({"config.seed": 0, "jax": f"0.{min(me, 1)}"}, "Use one version."),
        lambda: hosts.check_shared(own),
    ):
        try:
            bad()
        except hosts.Agreed as error:
            print(error)
        else:
            raise AssertionError("both must raise")


if __name__ == "__main__":
    address, count, me, file = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    with hosts.session(coordinator=address, processes=count, process=me, timeout=120):
        talk(count, me, pathlib.Path(file).parent)
        found = parameters(count, rules_of("fsdp", own=EVERYTHING) if count == 2 else REPLICATED)
        if me == 0:
            np.savez(file, **found)
        if sys.argv[5:]:
            directory, every = sys.argv[5:]
            pretrain(recipes.config(NAME, **{**FIELDS, "checkpoint_every": int(every)}, knn_every=-1), directory)
