"""Try a claim: `python -m benchmarks.claims NAME [--seeds=0,1,2] [--test] [--root=runs/claims] [--write]`.

Without a name it lists the claims. Runs that are complete are not made again. `--test` is a trial of the script in a
minute, whose figures mean nothing. `--write` keeps page and picture in docs/claims, which
`python docs/generate.py` joins to docs/claims.md.
"""

import argparse
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


def page(name: str, finding: Finding, seeds: int) -> str:
    """What came of a claim as Markdown: its sentence, the verdict, every figure, the command, the picture."""
    names = list(dict.fromkeys(name for figures in finding.figures.values() for name in figures))
    lines = [f"## {sentence(name)}", "", f"**{finding.verdict[0].upper()}{finding.verdict[1:]}.**", ""]
    lines += [f"| {seeds} seeds | {' | '.join(names)} |", "|---|" + "---|" * len(names)]
    for setting, figures in finding.figures.items():
        lines.append(f"| {setting} | {' | '.join(spread(figures[n], 3) if n in figures else '' for n in names)} |")
    lines += ["", f"Command: `python -m benchmarks.claims {name} --write`."]
    return "\n".join(lines + (["", f"![{sentence(name)}](claims/{name}.svg)"] if finding.curves else [])) + "\n"


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
    text = page(args.name, finding, len(seeds))
    print(text)
    if args.write:
        OUT.mkdir(exist_ok=True)
        (OUT / f"{args.name}.md").write_text(text)
        if finding.curves:
            picture.draw(finding, OUT / f"{args.name}.svg")


if __name__ == "__main__":
    main()
