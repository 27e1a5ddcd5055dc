"""Try a claim: `python -m benchmarks.claims NAME [--seeds=0,1,2] [--test] [--root=runs/claims] [--write]`.

Without a name it lists the claims. Runs that are complete are not made again. `--test` is a trial of the script in a
minute, whose figures mean nothing. `--write` keeps figures and picture in docs/claims, from where
`python docs/generate.py` fills docs/claims.md.
"""

import argparse
import json
import pathlib

from benchmarks.claims import collapse, picture
from benchmarks.claims.runs import Budget, Finding, spread

CLAIMS = {
    "stop_gradient": collapse.stop_gradient,
    "centering": collapse.centering,
}
OUT = pathlib.Path(__file__).parents[2] / "docs" / "claims"


def sentence(name: str) -> str:
    """A claim in one sentence."""
    return (CLAIMS[name].__doc__ or "").splitlines()[0]


def table(finding: Finding) -> str:
    """All figures as Markdown: a row per setting."""
    names = list(dict.fromkeys(name for figures in finding.figures.values() for name in figures))
    lines = [f"| | {' | '.join(names)} |", "|---|" + "---|" * len(names)]
    for setting, figures in finding.figures.items():
        lines.append(f"| {setting} | {' | '.join(spread(figures[n], 3) if n in figures else '' for n in names)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", nargs="?", choices=CLAIMS)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--root", type=pathlib.Path, default=pathlib.Path("runs/claims"))
    parser.add_argument("--test", action="store_true")
    parser.add_argument("--write", action="store_true")
    args = parser.parse_args()
    if args.name is None:
        print("\n".join(f"{name}: {sentence(name)}" for name in CLAIMS))
        return
    seeds = tuple(int(seed) for seed in args.seeds.split(","))
    root = args.root / ("test" if args.test else "")
    finding = CLAIMS[args.name](Budget(seeds=seeds, root=root / args.name, test=args.test))
    print(f"{sentence(args.name)}\n\n{table(finding)}\n\n{finding.verdict}")
    if args.write:
        OUT.mkdir(exist_ok=True)
        record = {"claim": sentence(args.name), "seeds": seeds, "verdict": finding.verdict, "figures": finding.figures}
        (OUT / f"{args.name}.json").write_text(json.dumps(record, indent=1) + "\n")
        if finding.curves:
            picture.draw(finding, OUT / f"{args.name}.svg")


if __name__ == "__main__":
    main()
