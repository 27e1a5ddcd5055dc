"""Try a claim: `python -m benchmarks.claims NAME [--seeds=0,1,2] [--test] [--root=runs/claims] [--write]`.

Without a name it lists the claims. Runs are kept under ROOT/runs by what they are, so that claims share them; what is
complete is not made again. `--test` is a trial of the script in a minute, whose figures mean nothing. `--write` keeps
page, picture (drawn by matplotlib, which the extra `bench` brings along) and the figures of each seed in docs/claims,
which `python docs/generate.py` joins to docs/claims.md.
"""

import argparse
import dataclasses
import importlib.util
import json
import os
import pathlib

import jax
from absl import logging

from benchmarks.claims import (
    augmentations,
    auxiliary,
    collapse,
    label_curve,
    large_objects,
    negatives,
    picture,
    ranking,
    words,
)
from benchmarks.claims.finding import Finding, page, sentence
from benchmarks.claims.runs import Budget

CLAIMS = {
    "label_curve": label_curve.label_curve,
    "stop_gradient": collapse.stop_gradient,
    "centering": collapse.centering,
    "rounds": words.rounds,
    "high_level_targets": words.high_level_targets,
    "negatives": negatives.negatives,
    "augmentations": augmentations.augmentations,
    "large_objects": large_objects.large_objects,
    "auxiliary": auxiliary.auxiliary,
    "ranking": ranking.ranking,
}
OUT = pathlib.Path(__file__).parents[2] / "docs" / "claims"


def write(name: str, finding: Finding, out: pathlib.Path) -> None:
    """Keep page, picture and the figures of each seed in a directory."""
    out.mkdir(exist_ok=True)
    (out / f"{name}.md").write_text(page(name, CLAIMS[name], finding))
    (out / f"{name}.json").write_text(json.dumps(dataclasses.asdict(finding)) + "\n")
    picture.draw(finding, out / f"{name}.svg")


def settings(root: pathlib.Path, *, test: bool) -> None:
    """Keep compiled programs under `root` unless JAX was told another place; quiet libraries."""
    logging.set_verbosity(logging.ERROR)  # orbax warns of what was asked for
    if jax.config.jax_compilation_cache_dir is None:
        jax.config.update("jax_compilation_cache_dir", str(root.resolve() / "xla"))
    if test:  # nearly all of a trial is compilation
        os.environ["XLA_FLAGS"] = f"--xla_backend_optimization_level=0 {os.environ.get('XLA_FLAGS', '')}"
        os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"  # which the command line leaves as it is
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", nargs="?", choices=CLAIMS)
    parser.add_argument("--seeds", help="0,1,2 by default, and 0 with --test")
    parser.add_argument("--root", type=pathlib.Path, default=pathlib.Path("runs/claims"))
    parser.add_argument("--test", action="store_true")
    parser.add_argument("--write", action="store_true")
    args = parser.parse_args(argv)
    if args.name is None:
        print("\n".join(f"{name}: {sentence(claim)}" for name, claim in CLAIMS.items()))
        return
    if args.test and args.write:
        parser.error("the figures of a trial are not to be kept: leave out --test or --write")
    if args.write and not importlib.util.find_spec("matplotlib"):  # said now, not after hours of runs
        parser.error("--write draws a picture with matplotlib, which is not installed: pip install matplotlib")
    settings(args.root, test=args.test)
    seeds = tuple(int(seed) for seed in (args.seeds or ("0" if args.test else "0,1,2")).split(","))
    finding = CLAIMS[args.name](Budget(seeds=seeds, root=args.root / ("test" if args.test else ""), test=args.test))
    print(page(args.name, CLAIMS[args.name], finding))
    if args.write:
        write(args.name, finding, OUT)


if __name__ == "__main__":
    main()
