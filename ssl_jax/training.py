"""The one training loop: an iterator over steps, which any script or the command line drives."""

import collections
import time
from collections.abc import Generator

import jax
import optax
from jax.sharding import Mesh

from ssl_jax import data
from ssl_jax.core import Carry, Method, Metrics, PyTree, TrainState, UserError
from ssl_jax.sharding import check_divisible, data_mesh, put, replicated
from ssl_jax.sharding_rules import REPLICATED, Rules, state_shardings
from ssl_jax.train_step import Step, Views, init_state, make_train_step, with_views


class Waiting:
    """How long steps have waited for their data: for the batch, and for the host's part of moving it to the devices."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def take(self) -> float:
        """Seconds since the last call."""
        seconds, self.seconds = self.seconds, 0.0
        return seconds


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
    sharding: Rules = REPLICATED,
    state: TrainState | None = None,
    rounds: int = 1,
    step: Step | None = None,
    waiting: Waiting | None = None,
) -> Generator[tuple[TrainState, Metrics, dict], None, None]:
    """Train from `state` (or from the seed) up to `steps`, yielding after every step.

    What is seen at a step depends on (seed, step) only, so a run continued from a saved state is the run that was
    never interrupted.

    Args:
      method: what to train.
      source: images, see `ssl_jax.data`; labels are used only by a method that says so (`Method.labels`).
      tx: optax optimizer.
      views: see `make_train_step`.
      batch_size: global batch, a multiple of the number of devices.
      steps: total, counted from the run's very start.
      seed: of initialisation, order and augmentation.
      mesh: devices; all by default.
      sharding: rules by which the state is split over them, see `sharding_rules.state_shardings`.
      state: where to go on from. Its buffers are donated: use the yielded state instead.
      rounds: parts of equal length that the run falls into; between them comes `method.refresh`, and the optimizer
        with its schedules starts anew. A run saved at such a boundary has not been refreshed yet.
      step: what `make_train_step` made of the same method, optimizer, views and mesh, so that many short runs compile
        it once; None makes it here.
      waiting: where to count the time that steps wait for data.

    Yields:
      `(state, metrics, batch)`: the state after the step, valid until the next one is asked for; metrics, on the
      device; and the host's batch (with `"label"` if there are labels).
    """
    mesh = mesh or data_mesh()
    check_divisible(batch_size, mesh)
    check_rounds(method, steps, rounds)
    boundaries = round_starts(steps, rounds)[1:]
    start = 0 if state is None else int(state.step)
    if state is None:
        state = initial_state(method, source, tx=tx, views=views, seed=seed, mesh=mesh, sharding=sharding)
    elif sharding:
        state = jax.device_put(state, state_shardings(state, sharding, mesh))
    step = step or make_train_step(method, tx, views=views, mesh=mesh, sharding=sharding)
    batches = data.batches(
        source,
        batch_size=batch_size,
        seed=seed,
        start=start,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )
    # An accelerator is kept busy by a few steps ahead, and more would only hold memory. Several CPU devices share a
    # pool of threads, so that the collectives of two steps at once may starve each other, as those of one step can
    # (see `runtime.threads_for_virtual_devices`).
    ahead = 0 if mesh.devices.flat[0].platform == "cpu" else 2
    running: collections.deque[jax.Array] = collections.deque()
    try:
        for at in range(start, steps):
            if at in boundaries:
                state = begin_round(
                    method,
                    state,
                    source,
                    tx=tx,
                    views=views,
                    batch_size=batch_size,
                    seed=seed,
                    mesh=mesh,
                    sharding=sharding,
                )
            asked = time.perf_counter()
            batch = next(batches)
            placed = put(for_step(method, batch), mesh)
            if waiting is not None:
                waiting.seconds += time.perf_counter() - asked
            state, metrics = step(state, placed)
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
    sharding: Rules = REPLICATED,
) -> TrainState:
    """The state at step 0 for images shaped as those of `source`."""
    example = for_step(method, next(data.epoch(source, batch_size=1)))
    return init_state(method, tx, example, views=views, seed=seed, mesh=mesh, sharding=sharding)


def for_step(method: Method, batch: dict) -> dict:
    """What of a batch the training step is given: images and ids, and labels if the method learns from them."""
    names = ("image", "id", "label") if method.labels else ("image", "id")
    if method.labels and "label" not in batch:
        raise UserError(f"{method.name} learns from labels, but the data has none; for folders, one folder per class.")
    return {name: batch[name] for name in names}


def round_starts(steps: int, rounds: int) -> tuple[int, ...]:
    """Steps at which the rounds of a run begin; the first is 0.

    Raises:
      UserError: there are more rounds than steps, or none.
    """
    if not 1 <= rounds <= max(steps, 1):
        raise UserError(f"A run of {steps} steps can't have {rounds} rounds.")
    return tuple(round(i * steps / rounds) for i in range(rounds))


def check_rounds(method: Method, steps: int, rounds: int) -> None:
    """Raise a `UserError` if a run has rounds that its method does not know, or too many of them."""
    if round_starts(steps, rounds)[1:] and method.refresh is None:
        raise UserError(f"{method.name} does not work in rounds: use rounds=1.")


def begin_round(
    method: Method,
    state: TrainState,
    source: data.Source,
    *,
    tx: optax.GradientTransformation,
    views: Views | None,
    batch_size: int,
    seed: int,
    mesh: Mesh,
    sharding: Rules = REPLICATED,
) -> TrainState:
    """The state after `method.refresh`, with a new optimizer state; a pure function of the state and the data."""
    rng = jax.random.fold_in(jax.random.fold_in(state.rng, state.step), 2)  # the step itself takes 0 and 1
    make = jax.jit(lambda rng, batch: with_views(views, rng, batch))
    raw = data.batches(
        source,
        batch_size=batch_size,
        seed=seed,
        start=int(state.step),
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )
    batches = (make(jax.random.fold_in(rng, i), put(for_step(method, b), mesh)) for i, b in enumerate(raw))
    try:
        assert method.refresh is not None
        params, carry = method.refresh(rng, state.params, state.carry, batches)
    finally:
        raw.close()

    def renew(params: PyTree, carry: Carry) -> tuple[PyTree, Carry, PyTree]:
        return params, carry, tx.init(params)

    places: PyTree = replicated(mesh)
    if sharding:
        after = state.replace(params=params, carry=carry, opt_state=jax.eval_shape(tx.init, params))
        split = state_shardings(after, sharding, mesh)
        places = split.params, split.carry, split.opt_state
    params, carry, opt_state = jax.jit(renew, out_shardings=places)(params, carry)
    return state.replace(params=params, carry=carry, opt_state=opt_state)


def fit(method: Method, source: data.Source, **kwargs) -> TrainState:
    """Train to the end and return the last state; arguments as `train`."""
    last = collections.deque(train(method, source, **kwargs), maxlen=1)
    if not last:
        raise UserError("There is nothing to train: `steps` is not above the step of the state given.")
    return last[0][0]
