"""The one training step: views, loss, gradient, optimizer, teacher; the same for every method and any mesh."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Int, Key, PRNGKeyArray

from ssl_jax.core import Carry, Method, Metrics, PyTree, TrainState
from ssl_jax.losses import memory_split_over
from ssl_jax.sharding import DATA, data_mesh, replicated
from ssl_jax.sharding_rules import REPLICATED, Rules, gathered, state_shardings

Views = Callable[[Key[Array, " b"], Array], PyTree]
Step = Callable[[TrainState, PyTree], tuple[TrainState, Metrics]]


def example_keys(rng: PRNGKeyArray, ids: Int[Array, " b"]) -> Key[Array, " b"]:
    """One key per example, from its id: what an example looks like never depends on the batch or the devices."""
    return jax.vmap(lambda i: jax.random.fold_in(rng, i))(ids)


def with_views(views: Views | None, rng: PRNGKeyArray, batch: PyTree) -> PyTree:
    """Add `batch["views"]`, made from `batch["image"]` by `views(keys, image)`; None leaves the batch as it is."""
    if views is None:
        return batch
    return {**batch, "views": views(example_keys(rng, batch["id"]), batch["image"])}


def init_state(
    method: Method,
    tx: optax.GradientTransformation,
    batch: PyTree,
    *,
    views: Views | None = None,
    seed: int = 0,
    mesh: Mesh | None = None,
    sharding: Rules = REPLICATED,
) -> TrainState:
    """Initialise a run from a seed and an example batch, of which only shapes matter.

    Every device holds the whole state, or what `state_shardings` says by the rules `sharding`. Two examples
    are enough: no statistic of the batch enters the initial state.
    """
    mesh = mesh or data_mesh()

    def init(seed: Array) -> TrainState:
        rng = jax.random.key(seed)
        example = jax.tree.map(lambda x: jnp.zeros((2, *x.shape[1:]), x.dtype), batch)
        params, carry = method.init(jax.random.fold_in(rng, 0), with_views(views, rng, example))
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            rng=jax.random.fold_in(rng, 1),
            params=params,
            carry=carry,
            opt_state=tx.init(params),
        )

    number = np.int64(seed)  # as an argument, so that all seeds share one program
    places = state_shardings(jax.eval_shape(init, number), sharding, mesh) if sharding else replicated(mesh)
    return jax.jit(init, out_shardings=places)(number)


def on_whole_parameters(method: Method, shardings: TrainState) -> Callable:
    """`method.loss` for a state that is split: parameters and teacher are gathered for it, memory stays as it is."""
    memory = jax.tree.leaves(shardings.carry.memory)
    by_row = next((s.mesh.abstract_mesh for s in memory if s.spec and s.spec[0] == DATA), None)

    def loss(params: PyTree, carry: Carry, *rest: PyTree) -> tuple[Array, tuple[Carry, Metrics]]:
        split = {name: getattr(carry, name) for name in ("model_state", "teacher")}
        together = gathered(split, {name: getattr(shardings.carry, name) for name in split})
        with memory_split_over(by_row):
            value, (after, metrics) = method.loss(gathered(params, shardings.params), carry.replace(**together), *rest)
        # What the loss hands on untouched need not be split once more.
        kept = {id(whole): part for whole, part in zip(*map(jax.tree.leaves, (together, split)), strict=True)}
        return value, (jax.tree.map(lambda x: kept.get(id(x), x), after), metrics)

    return loss


def gradients(
    method: Method, views: Views | None, state: TrainState, batch: PyTree, mesh: Mesh, sharding: Rules = REPLICATED
) -> tuple[Array, Carry, Metrics, PyTree]:
    """Loss, carry, metrics and gradient of the step that `state` stands before; the loss finds the mesh around it."""
    loss_of = on_whole_parameters(method, state_shardings(state, sharding, mesh)) if sharding else method.loss
    view_rng, loss_rng = jax.random.split(jax.random.fold_in(state.rng, state.step))
    batch = with_views(views, view_rng, batch)
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        (loss, (carry, metrics)), grads = jax.value_and_grad(loss_of, has_aux=True)(
            state.params, state.carry, batch, loss_rng, state.step
        )
    return loss, carry, metrics, grads


def make_train_step(
    method: Method,
    tx: optax.GradientTransformation,
    *,
    views: Views | None = None,
    mesh: Mesh | None = None,
    sharding: Rules = REPLICATED,
) -> Step:
    """Compile-once function `(state, batch) -> (state, metrics)`; the state's buffers are donated.

    Args:
      method: what to train.
      tx: any optax optimizer.
      views: `(keys [b], image uint8 [b h w c]) -> views`, run on the accelerator inside the step; None if the batch
        brings its own `"views"`.
      mesh: devices; the batch is expected to be split over its `data` axis (`sharding.put`).
      sharding: rules by which the state is split, see `sharding_rules.state_shardings`; as `init_state` was given.

    The loss sees the global batch: batch norm, means and negatives are global by construction, whatever the devices.
    It is traced with the mesh as the ambient one, so that losses can find it (`losses.ntxent` for its ring).

    A step whose loss or gradient is not finite, or whose parameters would not be (by their norms), is not applied: all
    but the counter of steps stays as it was. `metrics["skipped"]` is 1 for it, and 0 for others.
    """
    mesh = mesh or data_mesh()

    def step(state: TrainState, batch: PyTree) -> tuple[TrainState, Metrics]:
        loss, carry, metrics, grads = gradients(method, views, state, batch, mesh, sharding)
        with jax.numpy_dtype_promotion("standard"):  # optax raises floats to int32 counts, which "strict" refuses
            updates, opt_state = tx.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        carry = method.update(params, carry, state.step)
        new = {"params": params, "carry": carry, "opt_state": opt_state}
        old = {name: getattr(state, name) for name in new}
        metrics = {"loss": loss, "grad_norm": optax.tree.norm(grads), **metrics}
        applied = jnp.isfinite(loss) & jnp.isfinite(metrics["grad_norm"]) & jnp.isfinite(optax.tree.norm(params))
        # A branch, since XLA would fuse a select into the arithmetic before it, and so change its last bits.
        kept = jax.lax.cond(applied, lambda new, old: new, lambda new, old: old, new, old)
        after = state.replace(step=state.step + 1, **kept)
        if sharding:
            after = jax.lax.with_sharding_constraint(after, state_shardings(state, sharding, mesh))
        return after, {**metrics, "skipped": 1.0 - applied.astype(jnp.float32)}

    # With rules the places follow from shapes, which are known when the step is traced.
    return jax.jit(step, donate_argnums=0, out_shardings=(None if sharding else replicated(mesh), None))
