"""Which layer is worth most: linear probes on every stage of pretrained encoders, beside the untrained ones.

`python -m benchmarks.layers [--configs=rotation:fashion_mnist,...] [--seed=0] [--root=runs/methods] [--write]`

The runs are those of `benchmarks.methods`; what is missing is made. The grids that maps are averaged over are chosen so
that every stage has about as many features. 10,000 training images, all test images. `--write` keeps the table in
docs/benchmarks/layers.md.
"""

import argparse
import pathlib
import re

import numpy as np

from benchmarks import pretraining
from benchmarks.claims.runs import directory, kept, load, task
from ssl_jax import evaluation

OUT = pathlib.Path(__file__).parents[1] / "docs" / "benchmarks" / "layers.md"
# Of the ConvNet, whose stages have 24, 48, 96 and 192 channels: 384 to 960 features each.
LAYERS = ("stage1@4", "stage2@4", "stage3@3", "stage4@2", "pooled")
CONFIGS = ("rotation", "relative_patch", "jigsaw", "autoencoder", "bownet", "obow", "simclr", "supervised")


def accuracies(workdir: pathlib.Path, *, untrained: bool = False) -> dict[str, float]:
    """Linear accuracy of each layer of a run in percent, or of its encoder as it was initialised."""

    def compute() -> dict[str, float]:
        experiment, trained, initial = load(workdir)
        images, state = task(experiment), initial if untrained else trained
        train, test = (
            evaluation.embed_layers(experiment.method, state, source, layers=LAYERS, prepare=experiment.prepare)
            for source in (images.train, images.test)
        )
        labels = [np.asarray(source.labels) for source in (images.train, images.test)]
        return {
            layer: 100 * evaluation.linear_probe(train[layer], labels[0], test[layer], labels[1])["accuracy"]
            for layer in LAYERS
        }

    return kept(workdir / f"layers-{'untrained' if untrained else 'last'}.json", compute)


def row(config: str, workdir: pathlib.Path) -> str:
    """One line of the table, its best layer in bold."""
    own, before = accuracies(workdir), accuracies(workdir, untrained=True)
    best = max(own, key=lambda layer: own[layer])
    cells = [
        f"{'**' if layer == best else ''}{own[layer]:.1f}{'**' if layer == best else ''} ({before[layer]:.1f})"
        for layer in LAYERS
    ]
    return f"| `{config}` | {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--configs", default=",".join(f"{name}:fashion_mnist" for name in CONFIGS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--root", type=pathlib.Path, default=pathlib.Path("runs/methods"))
    parser.add_argument("--write", action="store_true", help=f"keep the table in {OUT.name}")
    args = parser.parse_args()
    lines = [f"| config | {' | '.join(LAYERS)} |", "|---|" + "---|" * len(LAYERS)]
    print("\n".join(lines), flush=True)
    for config in args.configs.split(","):
        lines.append(row(config, pretraining.pretrain(args.root / directory(config, args.seed, {}), config, args.seed)))
        print(lines[-1], flush=True)
    if args.write:
        table = "\n".join(lines)
        marks = r"(<!-- layers -->\n).*?(<!-- /layers -->)"
        OUT.write_text(re.sub(marks, rf"\g<1>{table}\n\g<2>", OUT.read_text(), flags=re.DOTALL))


if __name__ == "__main__":
    main()
