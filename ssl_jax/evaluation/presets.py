"""Linear probes as the papers train them: their optimizers, rates and schedules, on cached features."""

import dataclasses
import functools
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from ssl_jax import optim, schedules
from ssl_jax.checks import check_features, check_labels, check_positive
from ssl_jax.core import PyTree, UserError
from ssl_jax.evaluation.linear import accuracies

DROP = 0.1  # what every drop multiplies the rate by


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a linear classifier is trained on features as they are: by the epoch, without weight decay, momentum 0.9.

    Attributes:
      rate: base learning rate.
      batch_size: rows a step; a smaller training set is one batch.
      epochs: passes over the training set.
      scaling: "linear" (`rate * batch / 256`) or "none".
      optimizer: "sgd" or a LARS, see `ssl_jax.optim.create`.
      nesterov: momentum, of "sgd".
      drops: epochs at which the rate falls to a tenth; none of them: a cosine to 0.
      every: whether the cosine moves every "epoch" or every "step".
      init_std: deviation of the initial weights; biases begin at 0.
    """

    rate: float
    batch_size: int
    epochs: int
    scaling: str = "linear"
    optimizer: str = "sgd"
    nesterov: bool = False
    drops: tuple[int, ...] = ()
    every: str = "epoch"
    init_std: float = 0.01


PROBES: Mapping[str, Recipe] = MappingProxyType(
    {
        # facebookresearch/moco, main_lincls.py@010242b
        "moco": Recipe(rate=30.0, batch_size=256, epochs=100, scaling="none", drops=(60, 80)),
        # facebookresearch/simsiam, main_lincls.py@08f45d0, 90 epochs as in its README. Their LARC, which stands before
        # torch's SGD (so that the rate multiplies the momentum), adapts biases too.
        "simsiam": Recipe(rate=0.1, batch_size=4096, epochs=90, optimizer="lars_byol"),
        # facebookresearch/dino, eval_linear.py@04c0ad9: 8 GPUs with 128 images each
        "dino": Recipe(rate=0.001, batch_size=1024, epochs=100),
        # deepmind-research, byol/configs/eval.py@500ffd8. Batch size and initial weights: from memory of the paper.
        "byol": Recipe(rate=0.2, batch_size=1024, epochs=80, nesterov=True, every="step"),
        # google-research/simclr, README@0075cc0, without its weight decay of 1e-6, as the paper says (appendix B.6).
        "simclr": Recipe(rate=0.1, batch_size=4096, epochs=90, nesterov=True, every="step", init_std=0.0),
        # valeoai/obow, README, main_linear_classification.py and solver.py@45af149
        "obow": Recipe(rate=10.0, batch_size=1024, epochs=100, scaling="none"),
    }
)


def recipe_of(preset: str | Recipe) -> Recipe:
    """A recipe by its name in `PROBES`, or the recipe itself.

    Raises:
      UserError: there is no such preset.
    """
    if isinstance(preset, Recipe):
        return preset
    if preset not in PROBES:
        raise UserError(f"Unknown preset {preset!r} of the linear probe; choose one of {', '.join(PROBES)}.")
    return PROBES[preset]


def rate_schedule(recipe: Recipe, *, batch_size: int, steps_per_epoch: int, epochs: int) -> schedules.Schedule:
    """The learning rate by step; drops move with the number of epochs."""
    peak = optim.scaled_learning_rate(recipe.rate, batch_size, recipe.scaling)
    if recipe.drops:
        at = [round(drop * epochs / recipe.epochs) * steps_per_epoch for drop in recipe.drops]
        return schedules.drops(peak, at=at, factor=DROP)
    if recipe.every == "step":
        return schedules.cosine(peak, 0.0, steps=epochs * steps_per_epoch)
    by_epoch = schedules.cosine(peak, 0.0, steps=epochs)
    return lambda step: by_epoch(step // steps_per_epoch)


def init_classifier(recipe: Recipe, dim: int, classes: int, *, seed: int) -> dict[str, Array]:
    """Initial `{"weight": [d c], "bias": [c]}` from a seed."""
    weight = recipe.init_std * np.random.default_rng(seed).normal(size=(dim, classes))
    return {"weight": jnp.asarray(weight, jnp.float32), "bias": jnp.zeros((classes,), jnp.float32)}


@functools.lru_cache(maxsize=16)
def optimizer_of(recipe: Recipe, *, batch_size: int, steps_per_epoch: int, epochs: int) -> optax.GradientTransformation:
    """The recipe's optimizer with its schedule, the same object for the same numbers so that nothing is retraced."""
    rate = rate_schedule(recipe, batch_size=batch_size, steps_per_epoch=steps_per_epoch, epochs=epochs)
    more: dict[str, Any] = {"nesterov": True} if recipe.nesterov else {}
    return optim.create(recipe.optimizer, rate, weight_decay=0.0, momentum=0.9, **more)


def classifier_step(
    tx: optax.GradientTransformation,
    params: PyTree,
    opt_state: PyTree,
    x: Float[Array, "b d"],
    y: Int[Array, " b"],
    *,
    seen: Float[Array, " b"] | None = None,
    factor: float | Array = 1.0,
    penalty: float | Array = 0.0,
) -> tuple[PyTree, PyTree]:
    """One step of a linear classifier; returns parameters and optimizer state.

    `seen` leaves out the rows where it is 0. `factor` multiplies the update, which is a rate of its own for SGD, whose
    rate stands outside of the momentum. `penalty` is weight decay on the weights.
    """
    weight = jnp.ones(len(x), jnp.float32) if seen is None else seen

    def loss(params: PyTree) -> Array:
        logits = x @ params["weight"] + params["bias"][None]
        cross_entropy = optax.softmax_cross_entropy_with_integer_labels(logits, y)
        decay = penalty * jnp.sum(params["weight"] ** 2) / 2
        return jnp.sum(cross_entropy * weight) / jnp.maximum(jnp.sum(weight), 1.0) + decay

    with jax.numpy_dtype_promotion("standard"):  # optax raises floats to int32 counts, which "strict" refuses
        updates, opt_state = tx.update(jax.grad(loss)(params), opt_state, params)
    return optax.apply_updates(params, jax.tree.map(lambda u: factor * u, updates)), opt_state


@functools.partial(jax.jit, static_argnames=("tx",))
def _pass(params, opt_state, features, labels, order, *, tx):
    """One pass; `order [steps b]` are the rows of each step."""

    def step(carry, rows):
        return classifier_step(tx, *carry, features[rows], labels[rows]), None

    return jax.lax.scan(step, (params, opt_state), order)[0]


def fit_recipe(
    features: Float[np.ndarray, "n d"],
    labels: Int[np.ndarray, " n"],
    recipe: Recipe,
    *,
    classes: int,
    epochs: int | None = None,
    seed: int = 0,
) -> dict[str, Array]:
    """Train a linear classifier by a recipe; returns `{"weight": [d c], "bias": [c]}`.

    The last rows of a pass that fill no batch are left out. `epochs` None are the recipe's.
    """
    n = len(features)
    epochs = recipe.epochs if epochs is None else epochs
    batch_size = min(recipe.batch_size, n)
    tx = optimizer_of(recipe, batch_size=batch_size, steps_per_epoch=n // batch_size, epochs=epochs)
    x, y = jnp.asarray(features, jnp.float32), jnp.asarray(labels)
    params = init_classifier(recipe, features.shape[1], classes, seed=seed)
    opt_state = tx.init(params)
    for epoch in range(epochs):
        order = np.random.default_rng((seed, epoch)).permutation(n)[: n // batch_size * batch_size]
        rows = jnp.asarray(order.reshape(-1, batch_size).astype(np.int32))
        params, opt_state = _pass(params, opt_state, x, y, rows, tx=tx)
    return params


def linear_probe_preset(
    train: Float[np.ndarray, "n d"],
    labels: Int[np.ndarray, " n"],
    test: Float[np.ndarray, "m d"],
    test_labels: Int[np.ndarray, " m"],
    *,
    preset: str | Recipe,
    epochs: int | None = None,
    seed: int = 0,
) -> dict[str, float | int | str]:
    """Accuracy of a linear classifier trained as a paper does, on features as they are.

    The settings are the paper's, so nothing is chosen and the test set is touched once, after the last epoch (MoCo,
    SimSiam and DINO report the best epoch of the test set). Differs from the papers' in that the features are those
    of unaugmented images, computed once; `linear_probe_augmented` makes them anew in each epoch. The rates are meant
    for the features that the paper had: pooled ones of a ResNet-50, or class tokens after a layer norm (DINO).

    Args:
      train: training features.
      labels: their classes.
      test: test features.
      test_labels: their classes.
      preset: a name in `PROBES`, or a `Recipe`.
      epochs: passes over the training set, those of the preset if None; its schedule is stretched to them.
      seed: of the initial weights and of the order.

    Returns:
      `{"accuracy" 0..1, "preset", "rate" (after scaling), "batch_size", "epochs"}`.

    Raises:
      UserError: no such preset, labels that do not fit the features, features that are not finite, or a classifier that
        diverged because the preset's rate is too high for features of this scale.
    """
    recipe = recipe_of(preset)
    epochs = recipe.epochs if epochs is None else epochs
    check_positive(epochs=epochs)
    check_features(train, test)
    check_labels(train, labels)
    check_labels(test, test_labels)
    classes = int(max(labels.max(), test_labels.max())) + 1
    params = fit_recipe(train, labels, recipe, classes=classes, epochs=epochs, seed=seed)
    name = preset if isinstance(preset, str) else "own"
    check_converged(params, name)
    batch_size = min(recipe.batch_size, len(train))
    return {
        "accuracy": float(accuracies(jax.tree.map(lambda p: p[None], params), test, test_labels)[0]),
        "preset": name,
        "rate": optim.scaled_learning_rate(recipe.rate, batch_size, recipe.scaling),
        "batch_size": batch_size,
        "epochs": epochs,
    }


def check_converged(params: PyTree, preset: str) -> None:
    """The classifier's weights must be finite."""
    if not all(np.isfinite(p).all() for p in jax.tree.leaves(params)):
        raise UserError(
            f"The linear probe {preset!r} diverged: its learning rate is too high for features of this scale; "
            "normalise the features, or let `linear_probe` choose the rate."
        )
