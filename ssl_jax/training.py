"""The one training loop: an iterator over steps, which any script or the command line drives."""

import collections
from collections.abc import Generator

import jax
import optax
from jax.sharding import Mesh

from ssl_jax import data
from ssl_jax.core import Method, Metrics, TrainState, UserError
from ssl_jax.sharding import check_divisible, data_mesh, put
from ssl_jax.train_step import Views, init_state, make_train_step


def train(
    method: Method,
    source: data.Source,
    *,
    tx: optax.GradientTransformation,
    views: Views | None,
    batch_size: int,
    steps: int,
    seed: int = 0,
    mesh: Mesh | None = None,
    state: TrainState | None = None,
) -> Generator[tuple[TrainState, Metrics, dict], None, None]:
    """Train from `state` (or from the seed) up to `steps`, yielding after every step.

    What is seen at a step depends on (seed, step) only, so a run continued from a saved state is the run that was
    never interrupted.

    Args:
      method: what to train.
      source: images, see `ssl_jax.data`; labels are not used.
      tx: optax optimizer.
      views: see `make_train_step`.
      batch_size: global batch, a multiple of the number of devices.
      steps: total, counted from the run's very start.
      seed: of initialisation, order and augmentation.
      mesh: devices; all by default.
      state: where to go on from. Its buffers are donated: use the yielded state instead.

    Yields:
      `(state, metrics, batch)`: the state after the step, valid until the next one is asked for; metrics, on the
      device; and the host's batch (with `"label"` if there are labels).
    """
    mesh = mesh or data_mesh()
    check_divisible(batch_size, mesh)
    start = 0 if state is None else int(state.step)
    if state is None:
        state = initial_state(method, source, tx=tx, views=views, seed=seed, mesh=mesh)
    step = make_train_step(method, tx, views=views, mesh=mesh)
    batches = data.batches(
        source,
        batch_size=batch_size,
        seed=seed,
        start=start,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )
    # An accelerator is kept busy by a few steps ahead, and more would only hold memory. Several CPU devices share a
    # pool of threads, so that the collectives of two steps at once may keep each other waiting.
    ahead = 0 if mesh.devices.flat[0].platform == "cpu" else 2
    running: collections.deque[jax.Array] = collections.deque()
    try:
        for _ in range(start, steps):
            batch = next(batches)
            state, metrics = step(state, put({"image": batch["image"], "id": batch["id"]}, mesh))
            running.append(metrics["loss"])
            if len(running) > ahead:
                jax.block_until_ready(running.popleft())
            yield state, metrics, batch
    finally:
        batches.close()


def initial_state(
    method: Method,
    source: data.Source,
    *,
    tx: optax.GradientTransformation,
    views: Views | None,
    seed: int = 0,
    mesh: Mesh | None = None,
) -> TrainState:
    """The state at step 0 for images shaped as those of `source`."""
    example = next(data.epoch(source, batch_size=1))
    example = {"image": example["image"], "id": example["id"]}
    return init_state(method, tx, example, views=views, seed=seed, mesh=mesh)


def fit(method: Method, source: data.Source, **kwargs) -> TrainState:
    """Train to the end and return the last state; arguments as `train`."""
    last = collections.deque(train(method, source, **kwargs), maxlen=1)
    if not last:
        raise UserError("There is nothing to train: `steps` is not above the step of the state given.")
    return last[0][0]
