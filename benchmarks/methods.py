"""Every method with one equal, small budget: what its features are worth, and what it costs.

`python -m benchmarks.methods [--configs=simclr:fashion_mnist,...] [--seeds=0,1,2] [--root=runs/methods] [--write]`

Each config that has a `fashion_mnist` variant (400 steps of 256 images, the same small encoder where the method allows
it) is pretrained in a process of its own and evaluated on the test set by k-NN (20), linear probe and linear probe on
10 labels per class (5 draws); colorization, which needs colour, runs on `photos`. Beside each stand the same encoder
untrained, and raw pixels. Runs that are complete are not made again. `--write` keeps the figures in
`ssl_jax/measured.json`, each seed's beside those that are there, and their means, which `ssl-jax methods`, the README
and the documentation show (`python docs/generate.py`). Seconds are processor time of the whole pretraining, compilation
included.
"""

import argparse
import dataclasses
import functools
import importlib
import itertools
import json
import pathlib
import re
from typing import Any

import numpy as np

from benchmarks import pretraining
from ssl_jax import catalogue, config_flag, evaluate, evaluation
from ssl_jax.experiment import load_data
from ssl_jax.protocols import Subject, Task, frozen

OUT = pathlib.Path(__file__).parents[1] / "ssl_jax" / "measured.json"
# What a method needs besides its config: distillation a teacher, which is the run of SimCLR.
EXTRA = {"distillation:fashion_mnist": ["--config.teacher.workdir={root}/simclr-fashion_mnist-{seed}"]}


def variants(name: str) -> list[str]:
    """Variants of a packaged config, as its message for an unknown one lists them."""
    try:
        importlib.import_module(f"ssl_jax.configs.{name}").get_config("?")
    except ValueError as error:
        return re.search("this config has (.*)", str(error))[1].split(", ")  # type: ignore[index]
    return []


def all_configs() -> list[str]:
    """The small-budget form of every method; SimCLR's first, since distillation takes it for a teacher."""
    found = []
    for name in config_flag.config_names():
        small = [v for v in ("fashion_mnist", "photos") if v in variants(name)]
        found += [f"{name}:{small[0]}"] if small else []
    return sorted(found, key=lambda config: (not config.startswith("simclr:"), config))


def merged(before: dict | None, found: dict, seed: int) -> dict:
    """A config's entry with one more seed: `seeds` holds the figures of each, and what stands beside it their means.

    Seeds of another recipe (data, encoder, steps or batch size) are left behind.
    """
    recipe = {name: found[name] for name in ("data", "encoder", "steps", "batch_size")}
    same = before is not None and all(before[name] == value for name, value in recipe.items())
    seeds = {**(catalogue.by_seed(before) if same else {}), str(seed): {k: found[k] for k in found.keys() - recipe}}
    seeds = {number: dict(sorted(seeds[number].items())) for number in sorted(seeds, key=int)}
    return {**recipe, **mean(list(seeds.values())), "seeds": seeds}


def mean(trees: list[Any]) -> Any:
    """The mean of nested dicts of numbers; whole numbers stay whole."""
    if isinstance(trees[0], dict):
        return {name: mean([tree[name] for tree in trees]) for name in trees[0]}
    return round(float(np.mean(trees)), 2) if isinstance(trees[0], float) else round(np.mean(trees))


def figures(subject: Subject, task: Task) -> dict[str, float]:
    """Accuracies in percent under short names."""
    rows = frozen.knn(subject, task) + frozen.linear(subject, task, labels_per_class=(10,))
    names = {"k-NN, k = 20": "knn", "linear": "linear", "linear, 10 labels per class": "labels_10"}
    return {names[row["protocol"]]: round(100 * row["value"], 2) for row in rows}


@functools.cache
def raw_pixels(data: str, splits: tuple[str, str]) -> dict[str, float]:
    """Figures of raw pixels, once per data set."""
    config = importlib.import_module("ssl_jax.configs.common").base("simclr")
    config.data, config.image_size = data, 0
    train, test = (load_data(config, split) for split in splits)
    task = Task(train=train, test=test, seed=0, prepare=evaluation.to_float, normalize={}, size=0, channels=1)
    return figures(evaluate.raw_subject(), task)


def score(workdir: pathlib.Path) -> dict:
    """Figures of a run, of its encoder untrained and of raw pixels; kept in `scores.json`."""
    kept = workdir / "scores.json"
    if kept.is_file():
        return json.loads(kept.read_text())
    experiment, trained, initial = evaluate.load_run(workdir)
    config = experiment.config
    # All training images, also for a method that sees only some of them.
    task = dataclasses.replace(evaluate.task_of(experiment, seed=0), train=load_data(config, "train"))
    found = {
        "data": config.data,
        "encoder": config.encoder,
        "steps": int(trained.step),
        "batch_size": config.batch_size,
    }
    for name, state in (("run", trained), ("untrained", initial)):
        found[name] = figures(evaluate.subject_of(experiment, state, name), task)
    found["raw"] = raw_pixels(config.data, ("train", config.test_split))
    kept.write_text(json.dumps(found))
    return found


def row(config: str, figures: dict) -> str:
    """One line of the Markdown table."""
    cells = [f"`{config}`", *(f"{figures['run'][k]:.1f} ({figures['untrained'][k]:.1f})" for k in figures["run"])]
    return "| " + " | ".join([*cells, str(figures["cpu_seconds"]), str(figures["peak_mb"])]) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--configs", default="")
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--root", type=pathlib.Path, default=pathlib.Path("runs/methods"))
    parser.add_argument("--write", action="store_true", help=f"keep the figures in {OUT.name}")
    args = parser.parse_args()
    print("| config | k-NN (untrained) | linear | 10 labels | CPU s | peak MB |\n|---|---|---|---|---|---|", flush=True)
    table = json.loads(OUT.read_text()) if args.write and OUT.is_file() else {}
    configs = args.configs.split(",") if args.configs else all_configs()
    for seed, config in itertools.product(map(int, args.seeds.split(",")), configs):
        extra = [part.format(root=args.root, seed=seed) for part in EXTRA.get(config, [])]
        workdir = pretraining.pretrain(args.root / f"{config.replace(':', '-')}-{seed}", config, seed, extra)
        found = {**score(workdir), **pretraining.cost(workdir)}
        table[config] = merged(table.get(config), found, seed)
        print(row(f"{config}, seed {seed}", found), flush=True)
        if args.write:  # after every run, so that nothing is lost
            OUT.write_text(json.dumps(dict(sorted(table.items())), indent=1) + "\n")
    means = {k: np.mean([f["run"][k] for f in table.values()]) for k in ("knn", "linear", "labels_10")}
    print(f"mean of {len(table)}: " + ", ".join(f"{k} {v:.1f}" for k, v in means.items()))


if __name__ == "__main__":
    main()
