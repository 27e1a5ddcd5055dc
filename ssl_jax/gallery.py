"""The report of a run in a workdir: gathers views, neighbours and a map of the embedding, and writes the page."""

import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ssl_jax import data, hosts, report, results, workdir
from ssl_jax.core import PyTree, TrainState, UserError
from ssl_jax.evaluate import load_run, network_of
from ssl_jax.evaluation import assign_words, attention_maps, keep_mass, word_gallery
from ssl_jax.experiment import Experiment, load_data, normalization
from ssl_jax.losses import l2_normalize
from ssl_jax.nets import ViT
from ssl_jax.sharding import replicated
from ssl_jax.train_step import example_keys, with_views
from ssl_jax.training import for_step

MAP_POINTS, BANK, QUERIES, NEIGHBOURS, VIEWED = 1000, 5000, 10, 8, 8
LOOKED_AT, MASS = 6, 0.6  # images whose attention is shown; share of it that DINO's figures keep
READ, WORDS, PLACES = 1000, 8, 8  # images that words are looked for in, words shown, and places of each


def views(experiment: Experiment, *, seed: int = 0) -> np.ndarray:
    """Some training images, each followed by its random views as the network sees them, uint8 `[n 1+v h w c]`."""
    image = jnp.asarray(_examples(experiment)["image"])
    made = experiment.views(example_keys(jax.random.key(seed), jnp.arange(len(image))), image)
    made = made[0] if isinstance(made, tuple) else made
    return np.concatenate([as_bytes(experiment, x) for x in (experiment.prepare(image)[:, None], made)], axis=1)


def pictures(experiment: Experiment, state: TrainState, *, seed: int = 0) -> dict[str, np.ndarray] | None:
    """What the method makes of some training images, uint8 `[n h w c]` by name; None if it makes none."""
    make = experiment.method.pictures
    names: list[str] = []
    if make is None:
        return None
    batch = for_step(experiment.method, {**_examples(experiment), "id": np.arange(VIEWED, dtype=np.int32)})

    def run(params: PyTree, carry: PyTree, batch: PyTree, rng: Array) -> tuple[Array, ...]:
        view_rng, rng = jax.random.split(rng)
        made = make(params, carry, with_views(experiment.views, view_rng, batch), rng)
        names[:] = made  # jit would sort them
        return tuple(made.values())

    made = jax.jit(run)(state.params, state.carry, batch, jax.random.key(seed))
    return {name: as_bytes(experiment, x) for name, x in zip(names, made, strict=True)}


def as_bytes(experiment: Experiment, views: Array) -> np.ndarray:
    """Float images on the scale of the views as uint8."""
    normalize = normalization(experiment.config.normalize, experiment.source)
    mean, std = (np.asarray(v or d, np.float32) for v, d in ((normalize["mean"], (0.0,)), (normalize["std"], (1.0,))))
    return np.round(np.clip(np.asarray(views, np.float32) * std + mean, 0, 1) * 255).astype(np.uint8)


def _examples(experiment: Experiment) -> dict[str, np.ndarray]:
    """Training images spread evenly over the data."""
    return experiment.source[np.linspace(0, len(experiment.source) - 1, VIEWED).astype(int)]


def _sample(source: data.Source, count: int, seed: int) -> data.Source:
    rows = np.random.default_rng(seed).permutation(len(source))[:count]
    return data.Subset(source, np.sort(rows))


def _names(source: data.Source, rows: np.ndarray) -> Any:
    if source.labels is None or source.classes is None:
        return None
    return np.asarray(source.classes)[source.labels[rows]].tolist()


def neighbours(experiment: Experiment, state: TrainState, test: data.Source, *, encoder: str = "student") -> dict:
    """The training images nearest (cosine) to some test images, as `report.write` takes them."""
    bank, queries = _sample(experiment.source, BANK, 0), _sample(test, QUERIES, 0)
    a, b = (l2_normalize(jnp.asarray(experiment.embed(state, s, encoder=encoder))) for s in (bank, queries))
    similarity, nearest = jax.lax.top_k(b @ a.T, min(NEIGHBOURS, len(bank)))
    index = np.asarray(nearest)
    found = bank[index.reshape(-1)]["image"]
    everything = np.arange(len(queries))
    return {
        "query": queries[everything]["image"],
        "neighbours": found.reshape(*index.shape, *found.shape[1:]),
        "similarity": np.asarray(similarity, np.float64),
        "query_label": _names(queries, everything),
        "neighbour_label": _names(bank, index),
    }


def embedding_map(experiment: Experiment, state: TrainState, test: data.Source, *, encoder: str = "student") -> dict:
    """Some test images in the plane by t-SNE of their features, as `report.write` takes them."""
    from sklearn.manifold import TSNE  # heavy

    sample = _sample(test, MAP_POINTS, 1)
    features = np.asarray(l2_normalize(jnp.asarray(experiment.embed(state, sample, encoder=encoder))))
    perplexity = min(30.0, (len(sample) - 1) / 3)
    xy = TSNE(perplexity=perplexity, init="pca", random_state=0, max_iter=500).fit_transform(features)
    return {
        "xy": xy.astype(np.float64),
        "label": sample.labels,
        "classes": sample.classes,
        "thumbnails": sample[np.arange(len(sample))]["image"],
        "method": f"t-SNE (perplexity {perplexity:.0f})",
    }


def attention(experiment: Experiment, state: TrainState, source: data.Source, *, encoder: str = "student") -> Any:
    """Where a vision transformer looks in some images, as `report.write` takes it; None for other encoders."""
    network = network_of(experiment, state, encoder)
    vit = network.encoder
    if not isinstance(vit, ViT):
        return None

    def look(params: PyTree, inner: PyTree, image: Array) -> tuple[Array, Array, Array]:
        seen = experiment.prepare(image)
        maps = attention_maps(vit, params, inner, seen)
        return seen, maps, keep_mass(jnp.mean(maps, axis=1), MASS)

    rows = np.linspace(0, len(source) - 1, min(LOOKED_AT, len(source))).astype(int)
    run = jax.jit(look, out_shardings=replicated(experiment.mesh))
    seen, maps, kept = run(network.params, network.state, source[rows]["image"])
    return {
        "image": as_bytes(experiment, seen),
        "maps": np.asarray(maps, np.float64),
        "kept": np.asarray(kept),
        "mass": MASS,
        "query": vit.pool,
        "block": vit.depth,
    }


def words(experiment: Experiment, state: TrainState, source: data.Source) -> list[dict[str, Any]] | None:
    """Some visual words and where they are seen best, as `report.write` takes them; None for methods without."""
    if experiment.method.words is None:
        return None
    sample = _sample(source, READ, 2)
    mesh, prepare = experiment.mesh, experiment.prepare
    shown = []
    for name, assigned in assign_words(experiment.method, state, sample, prepare=prepare, mesh=mesh).items():
        found = word_gallery(assigned, words=WORDS, places=PLACES)
        if found is None:
            continue
        images = prepare(jnp.asarray(sample[np.maximum(found.image, 0).reshape(-1)]["image"]))
        shown.append(
            {
                "name": name,
                "size": assigned.size,
                "images": len(sample),
                "grid": assigned.word.shape[1:],
                "picture": as_bytes(experiment, images).reshape(*found.image.shape, *images.shape[1:]),
                **{field: getattr(found, field) for field in ("word", "frequency", "rank", "row", "column")},
                **{field: getattr(found, field) for field in ("used", "perplexity")},
            }
        )
    return shown


def write_report(directory: str | pathlib.Path, *, encoder: str = "student", step: int | None = None) -> pathlib.Path:
    """Write `report.html` for a run that has at least one checkpoint; returns its path."""
    directory = pathlib.Path(directory)
    experiment, state, _ = load_run(directory, step=step)
    try:
        test = load_data(experiment.config, experiment.config.test_split)
    except UserError:  # no such split: training images show the embedding as well
        test = experiment.source
    record = results.read(directory)
    evaluation = None if record is None else {**record, "results": results.current(record)}
    parts: dict[str, Any] = {  # made by all processes of a run that has several, and written by the first
        "views": views(experiment),
        "pictures": pictures(experiment, state),
        "attention": attention(experiment, state, test, encoder=encoder),
        "words": words(experiment, state, test),
        "neighbours": neighbours(experiment, state, test, encoder=encoder),
        "embedding_map": embedding_map(experiment, state, test, encoder=encoder) if len(test) >= 10 else None,
    }
    if not hosts.is_first():
        return directory / "report.html"
    return report.write(
        directory,
        title=f"{experiment.config.method} on {experiment.config.data}",
        run=workdir.read_run(directory),
        metrics=workdir.read_metrics(directory),
        evaluation=evaluation,
        **parts,
    )
