"""Fine-tuning: an encoder and a linear classifier on it trained with labels, from given parameters or from scratch."""

import collections
import dataclasses
import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from jaxtyping import Int

from ssl_jax import data, memory, methods
from ssl_jax.checks import check_features
from ssl_jax.core import Carry, Method, PyTree, UserError
from ssl_jax.evaluation.features import embed, to_float
from ssl_jax.evaluation.labels import count_classes, labels_of
from ssl_jax.evaluation.linear import fit_linear, moments
from ssl_jax.evaluation.pretrained import with_part
from ssl_jax.evaluation.tuning import FineTuning, optimizer
from ssl_jax.methods.supervised import classify_with
from ssl_jax.sharding import by_example, data_mesh, put
from ssl_jax.train_step import Step, Views, make_train_step
from ssl_jax.training import initial_state
from ssl_jax.training import train as train_loop

DEFAULT = FineTuning()
PROBED = 20_000  # images, evenly spaced, that a classifier is fitted to before it is trained further


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class FineTuned:
    """What `fine_tune` found.

    Attributes:
      accuracy: on the test images, 0..1.
      ema_accuracy: that of the averaged weights, or None without them.
      steps: number of updates.
      params: `{"encoder": ..., "classifier": ...}`.
      model_state: batch statistics, `{"encoder": ...}`.
      average: `{"params", "model_state"}` averaged over the run, or None.
    """

    accuracy: float
    ema_accuracy: float | None
    steps: int
    params: PyTree
    model_state: PyTree
    average: PyTree


def fine_tune(
    encoder: nn.Module,
    params: PyTree | None,
    state: PyTree | None,
    train: data.Source,
    test: data.Source,
    *,
    recipe: FineTuning = DEFAULT,
    prepare: Callable[[jax.Array], jax.Array] = to_float,
    views: Views | None = None,
    seed: int = 0,
    mesh: Mesh | None = None,
) -> FineTuned:
    """Train a linear classifier and the encoder under it with labels, and score them once on the test images.

    The library's own step and loop with `methods.supervised`; the same seed gives the same bits. Repeated calls with
    the same encoder, recipe and functions, and as many steps, compile once.

    Args:
      encoder: see `ssl_jax.nets.functional`.
      params: its pretrained parameters; they are not changed. None trains from scratch: random ones of the seed
        (see `from_scratch` for a recipe that suits them).
      state: its batch statistics, as `nets.functional.encode` takes them; None for None or no statistics.
      train: labelled images.
      test: labelled images of the same classes.
      recipe: rates, schedule, length and regularisation; see `FINE_TUNING` for those of papers.
      prepare: `uint8 [b h w c] -> float [b s s c]`, what the encoder is shown in evaluation (`augment.prepare` with the
        size and the normalisation that it was pretrained with).
      views: augmentation, `(keys [b], uint8 [b h w c]) -> float [b 1 s s c]`, such as `augment.single`; None shows
        what `prepare` makes.
      seed: of random parameters, order and augmentation.
      mesh: devices; all by default.

    Raises:
      UserError: no labels, other classes in the test images, parameters that do not fit the encoder, or impossible
        numbers in the recipe; or what the network computes is not finite.
    """
    mesh = mesh or data_mesh()
    classes = count_classes(train, test)
    batch_size = -(-min(recipe.batch_size, len(train)) // mesh.size) * mesh.size
    steps = recipe.count_steps(len(train), batch_size)
    views = views or _unchanged(prepare)
    if params is None:
        recipe = dataclasses.replace(recipe, frozen_statistics=False)
    method, tx, step = _parts(encoder, classes, recipe, steps, views, mesh)
    source = _filled(train, batch_size)
    start = initial_state(method, source, tx=tx, views=views, seed=seed, mesh=mesh)
    if params is not None:
        start = with_part(start, "encoder", params, state or {})
    if recipe.head == "probe":
        rows = np.linspace(0, len(train) - 1, min(len(train), PROBED)).astype(int)
        features = embed(method, start, data.Subset(train, rows), prepare=prepare, mesh=mesh)
        start = with_part(start, "classifier", {"dense0": _probe(features, labels_of(train)[rows], classes)})
    elif recipe.head == "zero":
        start = with_part(start, "classifier", jax.tree.map(np.zeros_like, start.params["classifier"]))
    run = train_loop(
        method,
        source,
        tx=tx,
        views=views,
        batch_size=batch_size,
        steps=steps,
        seed=seed,
        mesh=mesh,
        state=start,
        step=step,
    )
    end, metrics, _ = collections.deque(run, maxlen=1).pop()
    if metrics["skipped"]:
        raise UserError(
            "The last step of the fine-tuning was not applied, for its loss or gradient is not finite: the network's "
            "weights are broken, or training diverged; evaluate an earlier checkpoint, or lower the learning rates."
        )

    def accuracy(params: PyTree, model_state: PyTree) -> float:
        found = classify(encoder, params, model_state, test, prepare=prepare, mesh=mesh)
        return float(np.mean(found == labels_of(test)))

    average = end.carry.teacher
    return FineTuned(
        accuracy=accuracy(end.params, end.carry.model_state),
        ema_accuracy=None if average is None else accuracy(average["params"], average["model_state"]),
        steps=steps,
        params=end.params,
        model_state=end.carry.model_state,
        average=average,
    )


def classify(
    encoder: nn.Module,
    params: PyTree,
    model_state: PyTree,
    source: data.Source,
    *,
    prepare: Callable[[jax.Array], jax.Array] = to_float,
    batch_size: int = 512,
    mesh: Mesh | None = None,
) -> Int[np.ndarray, " n"]:
    """The class that a fine-tuned network gives to each image; arguments as in `FineTuned` and `fine_tune`.

    Raises:
      UserError: what it computes for an image is not finite, which says nothing of its class.
    """
    mesh = mesh or data_mesh()
    batch_size = -(-min(batch_size, len(source)) // mesh.size) * mesh.size
    found = _classes(encoder, params["classifier"]["dense0"]["bias"].shape[0], prepare, mesh)
    batches = data.epoch(source, batch_size=batch_size)
    rows = [np.asarray(found(params, model_state, put(b["image"], mesh)))[b["valid"]] for b in batches]
    classes = np.concatenate(rows)
    if (wrong := int(np.sum(classes < 0))) > 0:
        raise UserError(
            f"The network gives NaN or infinity for {wrong:,} of the {len(classes):,} images of {source.name}; its "
            "weights are broken, or training diverged: evaluate an earlier checkpoint, or lower the learning rates."
        )
    return classes


def with_average(method: Method, momentum: float) -> Method:
    """The method with a moving average of all that it trains as the teacher in its carry; see `FineTuning.ema`."""

    def of(params: PyTree, carry: Carry) -> PyTree:
        return {"params": params, "model_state": carry.model_state}

    def init(rng: jax.Array, batch: PyTree) -> tuple[PyTree, Carry]:
        params, carry = method.init(rng, batch)
        return params, carry.replace(teacher=of(params, carry))

    def update(params: PyTree, carry: Carry, step: jax.Array) -> Carry:
        k = jnp.asarray(step, jnp.float32)
        now = jnp.minimum(jnp.float32(momentum), (1 + k) / (10 + k))
        return carry.replace(teacher=memory.ema(carry.teacher, of(params, carry), now))

    return dataclasses.replace(method, init=init, update=update)


@functools.lru_cache(maxsize=16)
def _parts(
    encoder: nn.Module, classes: int, recipe: FineTuning, steps: int, views: Views, mesh: Mesh
) -> tuple[Method, optax.GradientTransformation, Step]:
    """Method, optimizer and compiled step; the same objects for the same arguments, so that jit compiles once."""
    method = methods.supervised(
        encoder,
        classes=classes,
        label_smoothing=recipe.label_smoothing,
        mixup=recipe.mixup,
        cutmix=recipe.cutmix,
        frozen_statistics=recipe.frozen_statistics or recipe.frozen,
    )
    if recipe.frozen:  # no backward pass through what does not move
        loss = method.loss
        method = dataclasses.replace(
            method,
            loss=lambda params, *rest: loss({**params, "encoder": jax.lax.stop_gradient(params["encoder"])}, *rest),
        )
    if recipe.ema is not None:
        method = with_average(method, recipe.ema)
    tx = optimizer(recipe, steps)
    return method, tx, make_train_step(method, tx, views=views, mesh=mesh)


@functools.lru_cache(maxsize=16)
def _unchanged(prepare: Callable[[jax.Array], jax.Array]) -> Views:
    return lambda keys, image: prepare(image)[:, None]


@functools.lru_cache(maxsize=16)
def _classes(encoder: nn.Module, classes: int, prepare: Callable[[jax.Array], jax.Array], mesh: Mesh) -> Callable:
    logits = classify_with(encoder, classes)

    def run(params: PyTree, model_state: PyTree, image: jax.Array) -> jax.Array:
        scores = logits(params, model_state, prepare(image))
        finite = jnp.all(jnp.isfinite(scores), axis=-1)
        return jnp.where(finite, jnp.argmax(scores, axis=-1), -1)

    return jax.jit(run, out_shardings=by_example(mesh))


def _filled(source: data.Source, count: int) -> data.Source:
    """The source itself, or its rows over and over if there are fewer than `count`."""
    return source if len(source) >= count else data.Subset(source, np.resize(np.arange(len(source)), count))


def _probe(features: np.ndarray, labels: np.ndarray, classes: int) -> dict[str, np.ndarray]:
    """A linear classifier as `few_labels` fits it, for features as they are, standardised by these alone."""
    check_features(features)
    mean, scale = moments(features)
    x = ((features - mean) * scale).astype(np.float32)
    fitted, _ = fit_linear(x, labels, [(0.1, 0.1)], classes=classes, epochs=100, batch_size=len(x))
    kernel = np.asarray(fitted["weight"][0]) * scale[:, None]
    return {"kernel": kernel, "bias": np.asarray(fitted["bias"][0]) - mean @ kernel}
