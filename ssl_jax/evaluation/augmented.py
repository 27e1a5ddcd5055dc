"""The linear probe of the papers: trained on features of images that are augmented anew in every epoch."""

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ssl_jax import data
from ssl_jax.checks import check_features, check_positive
from ssl_jax.core import UserError
from ssl_jax.evaluation.features import to_float
from ssl_jax.evaluation.linear import BATCH_SIZE, PENALTIES, RATES, accuracies, best_of, check_settings, moments, score
from ssl_jax.evaluation.presets import (
    Recipe,
    check_converged,
    classifier_step,
    init_classifier,
    optimizer_of,
    recipe_of,
)
from ssl_jax.sharding import data_mesh, put
from ssl_jax.train_step import Views, example_keys

SWEEP = Recipe(rate=1.0, batch_size=BATCH_SIZE, epochs=20, scaling="none", init_std=0.0)  # its rate is a factor
Encode = Callable[[Array], Array]


@functools.partial(jax.jit, static_argnames=("tx",))
def _step_of_each(params, opt_state, features, labels, seen, moments, settings, *, tx):
    """One step of all classifiers on the same rows, of which each uses those that it may see, `seen [s b]`."""
    mean, scale = moments
    x = (features.astype(jnp.float32) - mean[None]) * scale[None]

    def one(params, opt_state, seen, setting):
        return classifier_step(tx, params, opt_state, x, labels, seen=seen, factor=setting[0], penalty=setting[1])

    return jax.vmap(one)(params, opt_state, seen, settings)


def _labels(source: data.Source) -> np.ndarray:
    if source.labels is None:
        raise UserError(f"{source!r} has no labels, which a linear probe needs; for folders, one folder per class.")
    return source.labels


def _features(encode: Encode, source: data.Source, prepare: Callable, batch_size: int) -> np.ndarray:
    """Features `[n d]` of a source's images as they are."""
    mesh, rows, make = data_mesh(), [], jax.jit(prepare)
    for batch in data.epoch(source, batch_size=batch_size):
        rows.append(np.asarray(encode(make(put(batch["image"], mesh))), np.float32)[batch["valid"]])
    return np.concatenate(rows)


def _train(encode, train, views, recipe, *, settings, held, moments, classes, epochs, batch_size, seed):
    """Train the settings twice, on all rows and on those that are not `held`, on the same views; both stacked."""
    mesh, n = data_mesh(), len(train)
    tx = optimizer_of(recipe, batch_size=batch_size, steps_per_epoch=max(n // batch_size, 1), epochs=epochs)
    both = jnp.asarray(settings * (1 if held is None else 2), jnp.float32)
    stack = lambda x: jnp.broadcast_to(x[None], (len(both), *x.shape))  # noqa: E731
    params = jax.tree.map(stack, init_classifier(recipe, len(moments[0]), classes, seed=seed))
    opt_state = jax.tree.map(stack, tx.init(jax.tree.map(lambda p: p[0], params)))
    rng = jax.random.key(seed)
    make = jax.jit(lambda step, ids, image: views(example_keys(jax.random.fold_in(rng, step), ids), image)[:, 0])
    batches = data.batches(train, batch_size=batch_size, seed=seed)
    try:
        for step in range(epochs * max(n // batch_size, 1)):
            batch = next(batches)
            on_device = put({name: batch[name] for name in ("image", "id")}, mesh)
            features = encode(make(step, on_device["id"], on_device["image"]))
            seen = np.ones((len(both), batch_size), np.float32)
            if held is not None:
                seen[len(settings) :] = ~held[batch["id"]]
            params, opt_state = _step_of_each(
                params, opt_state, features, jnp.asarray(batch["label"]), jnp.asarray(seen), moments, both, tx=tx
            )
    finally:
        batches.close()
    return params


def linear_probe_augmented(
    encode: Encode,
    train: data.Source,
    test: data.Source,
    *,
    views: Views,
    prepare: Callable[[Array], Array] = to_float,
    preset: str | Recipe | None = None,
    rates: Sequence[float] = RATES,
    penalties: Sequence[float] = PENALTIES,
    held_out: float = 0.1,
    epochs: int | None = None,
    batch_size: int | None = None,
    seed: int = 0,
) -> dict[str, float | int | str]:
    """Accuracy of a linear classifier on features of training images augmented anew in each epoch.

    The protocol of MoCo, SimSiam, DINO, BYOL, SimCLR and OBoW; they augment by a random resized crop and a flip. With
    a `preset` features are taken as they are and nothing is chosen. Without one, features are standardised by the
    training images' moments, and all pairs of rate and penalty are trained at once, each of them twice on the same
    views: once without the held-out rows, which choose the best, and once with them, which is what is scored. So a
    sweep encodes every view only once. The test set is touched once.

    Args:
      encode: float images `[b h w c] -> [b d]`, compiled (`jax.jit`); nothing is learned in it.
      train: images with labels.
      test: likewise.
      views: `(keys [b], uint8 [b h w c]) -> float [b v h w c]`, of which the first view is used, for example
        `augment.single(size, flip=0.5, mean=..., std=...)`.
      prepare: `uint8 [b h w c] -> float [b h w c]` of the images that are scored (`augment.prepare`), normalised as
        the views.
      preset: a name in `PROBES` or a `Recipe`; None for the sweep.
      rates: learning rates to choose from, of the sweep.
      penalties: weight decays to choose from, of the sweep.
      held_out: share of the training set to choose on, of the sweep.
      epochs: passes over the training set; the preset's, or 20.
      batch_size: images a step; the preset's, or 1024; rounded down to a multiple of the devices.
      seed: of order, views, initial weights and held-out rows.

    Returns:
      `{"accuracy" 0..1, "epochs", "batch_size"}`, and `"preset"`, or `"rate", "penalty", "held_out_accuracy"`.

    Raises:
      UserError: a source has no labels, features are not finite, a setting is out of its range, or a preset's
        classifier diverged.
    """
    labels, test_labels = _labels(train), _labels(test)
    check_settings(rates, penalties, held_out)
    recipe = SWEEP if preset is None else recipe_of(preset)
    epochs = recipe.epochs if epochs is None else epochs
    check_positive(epochs=epochs, batch_size=batch_size)
    devices = data_mesh().size
    batch_size = max(min(batch_size or recipe.batch_size, len(train)) // devices, 1) * devices
    classes = int(max(labels.max(), test_labels.max())) + 1
    clean = _features(encode, train, prepare, batch_size)
    check_features(clean)
    labels = _labels(train)  # those of the images that were read, where some are damaged
    settings, held, scaling = [(1.0, 0.0)], None, (np.zeros(clean.shape[1]), np.ones(clean.shape[1]))
    if preset is None:
        settings, scaling = list(itertools.product(rates, penalties)), moments(clean)
        held = np.zeros(len(train), bool)
        held[np.random.default_rng(seed).permutation(len(train))[: max(int(len(train) * held_out), 1)]] = True
    mean, scale = (np.asarray(x, np.float32) for x in scaling)
    params = _train(
        encode,
        train,
        views,
        recipe,
        settings=settings,
        held=held,
        moments=(mean, scale),
        classes=classes,
        epochs=epochs,
        batch_size=batch_size,
        seed=seed,
    )
    best = 0
    chosen: dict[str, Any] = {}
    if held is None:
        chosen["preset"] = preset if isinstance(preset, str) else "own"
        check_converged(params, chosen["preset"])
    else:
        without = jax.tree.map(lambda p: p[len(settings) :], params)
        accuracy, cross_entropy = score(without, (clean[held] - mean) * scale, labels[held])
        best = best_of(accuracy, cross_entropy)
        rate, penalty = (float(value) for value in settings[best])
        chosen = {"rate": rate, "penalty": penalty, "held_out_accuracy": float(accuracy[best])}
    features = _features(encode, test, prepare, batch_size)
    check_features(features)
    one = jax.tree.map(lambda p: p[best : best + 1], params)
    accuracy = accuracies(one, (features - mean) * scale, _labels(test))
    return {"accuracy": float(accuracy[0]), "epochs": epochs, "batch_size": batch_size, **chosen}
