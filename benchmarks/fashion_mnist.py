"""What recipes reach on Fashion-MNIST's test set, over seeds, beside raw pixels and the untrained encoder.

`python -m benchmarks.fashion_mnist [--configs=quickstart,byol:fashion_mnist] [--seeds=0,1,2] [--root=runs/benchmark]`

Each config and seed is a run of its own, pretrained and evaluated through the command line (runs that are complete are
not made again), and one Markdown table comes out: mean and deviation over seeds, in percent, and seconds of training.
"""

import argparse
import json
import pathlib
import subprocess
import sys

import numpy as np

PROTOCOLS = {
    "k-NN, k = 10": "k-NN (10)",
    "k-NN, k = 20": "k-NN (20)",
    "linear": "linear",
    "linear, 1 label per class": "1 label per class",
    "linear, 10 labels per class": "10 labels",
    "linear, 100 labels per class": "100 labels",
}


def run(config: str, seed: int, workdir: pathlib.Path) -> None:
    """Pretrain and evaluate, unless that was done before."""
    if (workdir / "evaluation.json").is_file():
        return
    command = [sys.executable, "-m", "ssl_jax"]
    subprocess.run(
        [*command, "pretrain", f"--config={config}", f"--config.seed={seed}", f"--workdir={workdir}", "--noreport"],
        check=True,
    )
    subprocess.run([*command, "evaluate", f"--workdir={workdir}", "--k=10,20"], check=True)


def figures(workdir: pathlib.Path) -> tuple[dict[tuple[str, str], float], float]:
    """Accuracies in percent by (features, protocol), and seconds of training."""
    record = json.loads((workdir / "evaluation.json").read_text())
    found = {(row["features"], row["protocol"]): 100 * row["value"] for row in record["results"]}
    seconds = json.loads((workdir / "metrics.jsonl").read_text().splitlines()[-1])["time"]
    return found, seconds


def cell(values: list[float]) -> str:
    """Mean and, of several seeds, deviation."""
    return f"{np.mean(values):.1f}" + (f" ± {np.std(values, ddof=1):.1f}" if len(values) > 1 else "")


def rows(config: str, runs: list[tuple[dict[tuple[str, str], float], float]]) -> list[str]:
    """Table rows of one config: the runs, and the untrained encoder."""
    lines = []
    for features, name in (("this run", f"`{config}`"), ("random encoder", f"`{config}`, untrained encoder")):
        cells = [cell([found[features, protocol] for found, _ in runs]) for protocol in PROTOCOLS]
        seconds = f"{np.mean([seconds for _, seconds in runs]):.0f}" if features == "this run" else ""
        lines.append(f"| {name} | {' | '.join(cells)} | {seconds} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--configs", default="quickstart")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--root", type=pathlib.Path, default=pathlib.Path("runs/benchmark"))
    args = parser.parse_args()
    print(f"| | {' | '.join(PROTOCOLS.values())} | training s |\n|---|{'---|' * (len(PROTOCOLS) + 1)}", flush=True)
    for i, config in enumerate(args.configs.split(",")):
        runs = []
        for seed in args.seeds.split(","):
            workdir = args.root / f"{config.replace(':', '-')}-{seed}"
            run(config, int(seed), workdir)
            runs.append(figures(workdir))
        if i == 0:
            raw = [f"{runs[0][0]['raw pixels', protocol]:.1f}" for protocol in PROTOCOLS]
            print(f"| raw pixels | {' | '.join(raw)} | |")
        print("\n".join(rows(config, runs)), flush=True)


if __name__ == "__main__":
    main()
