"""k-NN and the linear probe on 60,000 x 512 features: time, and how far they are from scikit-learn.

`python -m benchmarks.evaluation [--train=60000] [--costs=0.01,0.1] [--few=500,2000,5000] [--write]`

Features are Fashion-MNIST's pixels through a fixed random layer of 512 rectified units: real images, and no encoder to
wait for. Each line is a call of `ssl_jax.evaluation` on all 10,000 test images, compilation included. scikit-learn's
neighbours and its logistic regression at several C, of which the best on the test set counts, stand beside them. For
few rows the probe is compared in the mean of four random draws. `--write` keeps the lines in
`docs/benchmarks/evaluation.md`.
"""

import argparse
import itertools
import os
import pathlib
import re
import time
from collections.abc import Callable, Iterator
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier

from ssl_jax import data, evaluation
from ssl_jax.evaluation import linear, neighbors

OUT = pathlib.Path(__file__).parents[1] / "docs" / "benchmarks" / "evaluation.md"
DIM = 512
KS = (1, 20, 200)
TITLES = ("what", "s", "processor s", "accuracy", "beside")
DRAWS = 4
FEW_COSTS = (0.001, 0.01, 0.1, 1.0)
FEW_TITLES = ("rows", "linear", "logistic regression, best of C = " + ", ".join(map(str, FEW_COSTS)), "points above it")


def features(split: str, rows: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """A fixed random layer of the pixels, `[n 512]`, and the labels."""
    source = data.load("fashion_mnist", split)
    source = source if rows is None else data.Subset(source, np.arange(rows))
    pixels = source[np.arange(len(source))]["image"].reshape(len(source), -1).astype(np.float32) / 255 - 0.3
    weight = np.random.default_rng(0).normal(size=(pixels.shape[1], DIM)).astype(np.float32) / 28
    return np.maximum(pixels @ weight, 0), np.asarray(source.labels)


def timed(run: Callable[[], Any]) -> tuple[Any, list[str]]:
    """What a call gives, with its seconds on the clock and of all processors."""
    began, spent = time.perf_counter(), time.process_time()
    found = run()
    return found, [f"{time.perf_counter() - began:.1f}", f"{time.process_time() - spent:.1f}"]


def percent(value: float) -> str:
    return f"{100 * value:.2f} %"


def rows(arrays: tuple[np.ndarray, ...], costs: list[float]) -> Iterator[list[str]]:
    """The lines of the table, one by one."""
    train, y, test, test_y = arrays
    for metric in neighbors.METRICS:
        found, seconds = timed(lambda m=metric: evaluation.knn_accuracy(*arrays, ks=KS, metric=m))
        yield [f"k-NN, {metric}, k = {KS}", *seconds, ", ".join(map(percent, found.values())), ""]
    wide = {"rates": linear.WIDE_RATES, "penalties": linear.WIDE_PENALTIES}
    grids = {"linear, one setting": {"rates": (0.1,), "penalties": (0.0,)}, "linear, 6 settings": {}}
    probes = {}
    for name, grid in {**grids, "linear, 50 settings": wide}.items():
        probes[name], seconds = timed(lambda g=grid: evaluation.linear_probe(*arrays, **g))
        yield [name, *seconds, percent(probes[name]["accuracy"]), ""]

    own = evaluation.knn_predict(train, y, test, ks=(5,), metric="l2", votes="uniform")[0]
    theirs, seconds = timed(lambda: KNeighborsClassifier(5, algorithm="brute").fit(train, y).predict(test))
    other = int(np.sum(own != theirs))
    accuracy = percent(float(np.mean(theirs == test_y)))
    yield ["scikit-learn's neighbours, L2, k = 5", *seconds, accuracy, f"{other} predictions other than ours"]
    if costs:
        yield _regression(arrays, probes, costs)


def _regression(arrays: tuple[np.ndarray, ...], probes: dict[str, dict[str, float]], costs: list[float]) -> list[str]:
    """scikit-learn's logistic regression at its best cost, and how far the probes are above it in points."""
    train, y, test, test_y = arrays
    x, u = linear.standardize(train, test)
    models = [LogisticRegression(C=cost, max_iter=300) for cost in costs]
    scores, seconds = timed(lambda: [model.fit(x, y).score(u, test_y) for model in models])
    ahead = {name: 100 * (found["accuracy"] - max(scores)) for name, found in probes.items()}
    beside = "our probe: " + ", ".join(f"{points:+.2f} of {name.split(', ')[1]}" for name, points in ahead.items())
    name = f"scikit-learn's logistic regression, best of C = {', '.join(map(str, costs))}"
    return [name, *seconds, percent(max(scores)), beside]


def few_rows(arrays: tuple[np.ndarray, ...], counts: list[int]) -> Iterator[list[str]]:
    """The default probe on so many random training rows, and logistic regression on the same; means over the draws."""
    train, y, test, test_y = arrays
    for count in counts:
        ours, theirs = [], []
        for draw in range(DRAWS):
            drawn = np.random.default_rng(draw).permutation(len(train))[:count]
            ours.append(evaluation.linear_probe(train[drawn], y[drawn], test, test_y)["accuracy"])
            x, u = linear.standardize(train[drawn], test)
            models = [LogisticRegression(C=cost, max_iter=500, tol=1e-3) for cost in FEW_COSTS]
            theirs.append(max(model.fit(x, y[drawn]).score(u, test_y) for model in models))
        own, other = float(np.mean(ours)), float(np.mean(theirs))
        yield [f"{count:,}", percent(own), percent(other), f"{100 * (own - other):+.2f}"]


def memory() -> str:
    """Bytes of one step of the search through ImageNet's features, as compiled here."""
    shapes = ((neighbors.BANK_TILE, 2048), (neighbors.TILE, 2048))
    bank, query = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes)
    k = 200 + neighbors.SPARE
    best = tuple(jax.ShapeDtypeStruct((neighbors.TILE, k), kind) for kind in (jnp.float32, jnp.int32))
    offset = jax.ShapeDtypeStruct((), jnp.int32)
    step = neighbors._nearer.lower(bank, query, best, offset, k=k, metric="cosine").compile().memory_analysis()
    given, more = step.argument_size_in_bytes, step.temp_size_in_bytes + step.output_size_in_bytes
    return f"A step of the search in 1.28 M x 2048: {given / 1e6:,.0f} MB of tiles, {more / 1e6:,.0f} MB besides."


def main() -> None:
    """Measure, print, and keep if asked to."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--train", type=int, default=60_000, help="training rows")
    parser.add_argument("--write", action="store_true", help=f"keep the table in {OUT.name}")
    parser.add_argument("--costs", default="0.01,0.1", help="C of scikit-learn's logistic regression; empty for none")
    parser.add_argument("--few", default="500,2000,5000", help="rows of the table of small sets; empty for none")
    args = parser.parse_args()
    costs = [float(cost) for cost in args.costs.split(",") if cost]
    arrays = (*features("train", args.train), *features("test"))
    few = [int(count) for count in args.few.split(",") if count]
    lines: list[str] = []
    for titles, found in ((TITLES, rows(arrays, costs)), (FEW_TITLES, few_rows(arrays, few))):
        for cells in itertools.chain((titles, ("---",) * len(titles)), found):
            lines.append("| " + " | ".join(cells) + " |")
            print(lines[-1], flush=True)
        lines += ["", memory()] if titles is TITLES else []
        lines.append("")
        print("\n".join(lines[-2:]))
    if args.write:
        marks = r"(<!-- table -->\n).*?(<!-- /table -->)"
        OUT.write_text(
            re.sub(marks, "\\g<1>" + "\n".join(lines).rstrip() + "\n\\g<2>", OUT.read_text(), flags=re.DOTALL)
        )


if __name__ == "__main__":
    main()
