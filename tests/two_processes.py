"""One of two processes of a run: what they say to each other, and steps on one device each; `test_hosts.py` starts it.

python tests/two_processes.py HOST:PORT I FILE.npz
"""

import sys

import jax
import numpy as np
import recipes
from test_devices import widen

from ssl_jax import hosts, make_train_step
from ssl_jax.core import UserError

NAME, DEVICES = "simclr", 2


def local(batch: dict) -> dict:
    """This process's rows."""
    share = recipes.BATCH // jax.process_count()
    return jax.tree.map(lambda x: x[jax.process_index() * share :][:share], batch)


def parameters() -> dict[str, np.ndarray]:
    """After twenty steps of SGD in float64, from one batch of views."""
    start = recipes.initial(NAME, DEVICES)
    batch = recipes.viewed(NAME, jax.random.key(1), recipes.batches(NAME)[0])
    with jax.enable_x64(True):
        parts = recipes.experiment(NAME, DEVICES, "float64")
        step, state = make_train_step(parts.method, recipes.SGD, mesh=parts.mesh), widen(start)
        batch = {**batch, "views": jax.tree.map(lambda x: np.asarray(x, np.float64), batch["views"])}
        batch = recipes.on_devices(NAME, local(batch), DEVICES)
        for _ in range(20):
            state, _ = step(state, batch)
    return {jax.tree_util.keystr(path): np.asarray(x) for path, x in jax.tree.leaves_with_path(state.params)}


def talk(me: int) -> None:
    """What `ssl_jax.hosts` promises."""
    assert (jax.process_count(), jax.process_index(), jax.device_count()) == (2, me, DEVICES)
    assert hosts.exchange({"who": "ab" * (1 + 40 * me)}) == [{"who": "ab"}, {"who": "ab" * 41}]
    assert hosts.on_first(lambda: ["first", me]) == ["first", 0]
    assert hosts.together(lambda: me) == me
    vote = hosts.Vote(recipes.experiment(NAME, DEVICES).mesh)
    assert [vote.any(False), vote.any(me == 1), vote.any(False)] == [False, True, False]

    def fail():
        if me == 1:
            raise UserError("no data here")

    for bad in (
        lambda: hosts.together(fail),
        lambda: hosts.agree({"config.seed": 0, "jax": f"0.{me}"}, "Use one version."),
    ):
        try:
            bad()
        except hosts.Agreed as error:
            print(error)
        else:
            raise AssertionError("both must raise")


if __name__ == "__main__":
    address, me, file = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    with hosts.session(coordinator=address, processes=2, process=me, timeout=120):
        talk(me)
        found = parameters()
        if me == 0:
            np.savez(file, **found)
