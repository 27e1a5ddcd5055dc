"""The step at which a run stopped because nothing was finite any more, made again to see what was not."""

import json
import pathlib
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ssl_jax import data, skips
from ssl_jax.core import PyTree, TrainState, UserError
from ssl_jax.evaluate import load_run
from ssl_jax.experiment import Experiment
from ssl_jax.sharding import put
from ssl_jax.train_step import gradients, with_views
from ssl_jax.training import for_step


def replay(directory: str | pathlib.Path) -> str:
    """Make the first of the steps that stopped a run again, from the state that it kept; changes nothing on disk.

    Returns:
      Lines of text: what of state, views, loss, metrics, gradient and update is not finite, leaf by leaf, and the ids
      of the images.

    Raises:
      UserError: the run was not stopped so, or its checkpoint or data is gone.
    """
    directory = pathlib.Path(directory)
    try:
        record = json.loads((directory / skips.FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"No run in {directory} was stopped by steps that were not finite ({skips.FILE}).") from None
    experiment, state, _ = load_run(directory, step=record["checkpoint"])
    state = state.replace(step=jnp.full_like(state.step, record["step"] - 1))
    batch = batch_at(experiment, record["step"] - 1)
    if batch["id"].tolist() != record["ids"]:
        raise UserError("The data gives other images now than those that the run saw at this step.")
    lines = [
        f"Step {record['step']:,}, the first of {record['in_a_row']} that were not applied, from the state kept as the "
        f"checkpoint of step {record['checkpoint']:,}. Not finite:"
    ]
    found = [f"  {line}" for part, tree in parts(experiment, state, batch) for line in not_finite(part, tree)]
    lines += found or ["  nothing: on these devices, with these versions, the step is finite"]
    return "\n".join([*lines, f"Images (rows of the data): {', '.join(map(str, record['ids']))}"])


def batch_at(experiment: Experiment, step: int) -> data.Examples:
    """The batch of a step, counted from 0."""
    config = experiment.config
    batches = data.batches(experiment.inputs, batch_size=config.batch_size, seed=config.seed, start=step)
    try:
        return next(batches)
    finally:
        batches.close()


def parts(experiment: Experiment, state: TrainState, batch: data.Examples) -> list[tuple[str, PyTree]]:
    """Named trees of a step, in the order in which they come about."""
    method, views = experiment.method, experiment.views

    @jax.jit
    def run(state: TrainState, batch: PyTree) -> list[PyTree]:
        view_rng, _ = jax.random.split(jax.random.fold_in(state.rng, state.step))
        seen = with_views(views, view_rng, batch)["views"]
        loss, carry, metrics, grads = gradients(method, views, state, batch, experiment.mesh, experiment.sharding)
        with jax.numpy_dtype_promotion("standard"):  # as in `train_step`
            updates, _ = experiment.tx.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        norms = {"gradient": optax.tree.norm(grads), "new params": optax.tree.norm(params)}
        return [seen, loss, metrics, carry, grads, updates, norms]

    names = ("views", "loss", "metric", "carry", "gradient", "update", "norm of the")
    made = run(state, put(for_step(method, batch), experiment.mesh))
    kept = {"params": state.params, "carry": state.carry, "opt_state": state.opt_state}
    return [("state", kept), *zip(names, made, strict=True)]


def not_finite(part: str, tree: PyTree) -> Iterator[str]:
    """A line for every leaf that is not finite, with its path and how much of it."""
    for path, x in jax.tree.leaves_with_path(tree):
        if jnp.issubdtype(x.dtype, jnp.inexact):
            bad = int(np.sum(~np.isfinite(np.asarray(x))))
            name = f"{part} {jax.tree_util.keystr(path, simple=True, separator='/')}".strip()
            if bad:
                yield f"{name}: {x}" if x.ndim == 0 else f"{name}: {bad:,} of {x.size:,} values"
