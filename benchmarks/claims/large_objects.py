"""Two objects in a picture, one large and one small: which of them a representation keeps."""

import functools

import flax.linen as nn
import numpy as np
import optax
from PIL import Image

import ssl_jax
from benchmarks.claims.finding import Finding, beats, verdict
from benchmarks.claims.runs import Budget, kept
from ssl_jax import augment, data, evaluation, methods, nets, schedules, train_step, training
from ssl_jax.core import Method
from ssl_jax.experiment import statistics

CANVAS, LARGE, SMALL = 40, 28, 12
TRAIN, TEST, BATCH, STEPS = 10_000, 5_000, 128, 200
SETTINGS = ("SimCLR", "autoencoder", "untrained")


def large_objects(budget: Budget) -> Finding:
    """Large objects suppress small ones in contrastive learning, more than in reconstruction (Chen et al., 2021).

    10,000 pictures of 40 x 40 pixels hold a Fashion-MNIST item of 28 x 28 in a corner and another one, shrunk to 12 x
    12, somewhere beside it; the two classes are independent. The same again with the small item alone, at the same
    place. SimCLR and the autoencoder (from perturbed images), with the ConvNet and the settings of their small forms,
    learn from each for 200 steps of 128 pictures. The class of each item is then read out by a linear probe on the
    training pictures, on 5,000 pictures of test items. Suppression is how many points the small item's class loses when
    the large one stands beside it. It holds if, in every seed, SimCLR loses more than the autoencoder, and the small
    item beside the large one is read out worse from SimCLR than from the autoencoder.
    """
    found = {name: [_accuracies(budget, name, seed) for seed in budget.seeds] for name in SETTINGS}
    return conclude(found)


def conclude(found: dict[str, list[dict[str, float]]]) -> Finding:
    """The finding from `{"large", "small", "alone"}` in percent: of each setting and seed."""
    figures = {}
    for name, rows in found.items():
        large, small, alone = ([row[key] for row in rows] for key in ("large", "small", "alone"))
        lost = [a - s for a, s in zip(alone, small, strict=True)]
        figures[name] = {"large item": large, "small item": small, "small item alone": alone, "suppression": lost}
    ours, other = figures["SimCLR"], figures["autoencoder"]
    holds = [beats(ours["suppression"], other["suppression"]), beats(other["small item"], ours["small item"])]
    basis = "points lost by the small item beside the large one: " + ", ".join(
        f"{name} {np.mean(f['suppression']):.1f}" for name, f in figures.items()
    )
    return Finding(
        verdict=verdict(holds, basis), figures=figures, bars=("large item", "small item", "small item alone")
    )


@functools.lru_cache(maxsize=4)
def pictures(split: str, count: int, alone: bool = False) -> tuple[data.ArraySource, np.ndarray, np.ndarray]:
    """Pictures, and the classes of the large and of the small item; the same ones in every call.

    Args:
      split: of Fashion-MNIST.
      count: number of pictures.
      alone: leave the large items out; all else stays.
    """
    items = data.load("fashion_mnist", split)
    rng = np.random.default_rng((CANVAS, len(items), count))
    large, small = rng.integers(0, len(items), (2, count))
    canvas = np.zeros((count, CANVAS, CANVAS, 1), np.uint8)
    free = CANVAS - LARGE  # width of the strip beside the large item, which the small one just fits into
    for i in range(count):
        bottom, right = rng.integers(0, 2, 2) * free
        y, x = rng.integers(0, CANVAS - SMALL + 1), (0 if right else LARGE)
        if rng.integers(0, 2):  # in the strip above or below instead of the one to the side
            y, x = (0 if bottom else LARGE), y
        if not alone:
            canvas[i, bottom : bottom + LARGE, right : right + LARGE] = items[large[i]]["image"]
        shrunk = Image.fromarray(items[small[i]]["image"][..., 0]).resize((SMALL, SMALL), Image.Resampling.LANCZOS)
        canvas[i, y : y + SMALL, x : x + SMALL, 0] = np.asarray(shrunk)
    labels = items.labels
    assert labels is not None
    source = data.from_arrays(canvas, name=f"large and small items {split}{', small alone' if alone else ''}")
    return source, labels[large], labels[small]


def _accuracies(budget: Budget, name: str, seed: int) -> dict[str, float]:
    """Accuracies in percent of one setting and seed: of both items beside each other, and of the small one alone."""
    train, test, batch, steps = (200, 100, 32, 2) if budget.test else (TRAIN, TEST, BATCH, STEPS)

    def read(alone: bool) -> dict[str, float]:
        source, *train_labels = pictures("train", train, alone)
        others, *test_labels = pictures("test", test, alone)
        mean, std = statistics(pictures("train", train)[0])  # the same for both kinds of pictures
        prepare = functools.partial(augment.prepare, size=CANVAS, mean=mean, std=std)
        encoder = nets.create("convnet", **({"widths": (8, 16)} if budget.test else {}))
        method, views = _method(name, encoder, mean, std)
        rate = schedules.with_warmup(schedules.cosine(3e-3, 0.0, steps=steps), steps=steps, warmup=steps // 10)
        arguments = {"tx": optax.adamw(rate, weight_decay=1e-4), "views": views, "seed": seed}
        if name == "untrained":
            state = training.initial_state(method, source, **arguments)
        else:
            state = ssl_jax.fit(method, source, batch_size=batch, steps=steps, **arguments)
        x, y = (ssl_jax.embed(method, state, s, prepare=prepare) for s in (source, others))
        return {
            item: 100 * evaluation.linear_probe(x, a, y, b, epochs=2 if budget.test else 20)["accuracy"]
            for item, a, b in zip(("large", "small"), train_labels, test_labels, strict=True)
        }

    def compute(alone: bool) -> dict[str, float]:
        return kept(
            budget.root / "large_objects" / f"{name}-{seed}-{steps}{'-alone' if alone else ''}.json",
            lambda: read(alone),
        )

    return {**compute(False), "alone": compute(True)["small"]}


def _method(
    name: str, encoder: nn.Module, mean: tuple[float, ...], std: tuple[float, ...]
) -> tuple[Method, train_step.Views]:
    """Method and views, as in the small forms of the configs."""
    scale = {"mean": mean, "std": std}
    if name == "autoencoder":
        lost = {"jitter": (0.8, 0.8, 0.0, 0.0), "jitter_prob": 1.0, "erase_prob": 1.0, "drop": 0.3}
        views = augment.perturbed(CANVAS, crop_scale=(0.6, 1.0), flip=0.5, **lost, **scale)
        return methods.autoencoder(encoder, bottleneck=None), views
    views = augment.simclr(CANVAS, blur=False, crop_scale=(0.4, 1.0), erase_prob=0.5, **scale)
    return methods.simclr(encoder, temperature=0.2), views
