"""Fill in the generated parts of the documentation: `python docs/generate.py [--check]`.

A part stands between `<!-- NAME -->` and `<!-- /NAME -->` in README.md, docs/methods/*.md, docs/claims.md and
docs/benchmarks/methods.md. What it says is read off the methods' cards, their configs, `ssl_jax/measured.json` and
docs/claims/*.md.
`--check` only says which files are out of date.
"""

import importlib
import pathlib
import re
import statistics
import sys
from collections.abc import Mapping
from typing import Any

from ssl_jax import catalogue

ROOT = pathlib.Path(__file__).parents[1]
RECIPE = (
    ("encoder", lambda c: " ".join([c.encoder, *(f"{k}={v}" for k, v in c.encoder_args.items())])),
    ("views", lambda c: f"`{c.augment}`, {c.view_size} px"),
    ("batch, epochs", lambda c: f"{c.batch_size}, {c.epochs:g}"),
    ("optimizer", lambda c: " ".join([c.optimizer, *(f"{k}={_plain(v)}" for k, v in c.optimizer_args.items())])),
    (
        "learning rate",
        lambda c: (
            f"{c.learning_rate:g}, scaling {c.learning_rate_scaling}, warm-up {c.warmup_epochs:g} epochs, {c.schedule}"
        ),
    ),
    ("arguments", lambda c: ", ".join(f"{k}={_plain(v)}" for k, v in c.method_args.items()) or "the defaults"),
)


def _plain(value: object) -> str:
    """A config's value in a line of text."""
    if not hasattr(value, "items"):
        return str(value)
    return "{" + ", ".join(f"{k}: {_plain(v)}" for k, v in value.items()) + "}"


def paper(number: str) -> str:
    """A link to a paper by its arXiv number or address."""
    if not re.fullmatch(r"\d{4}\.\d{4,5}|cs/\d+", number):
        return f"[paper]({number})"
    return f"[{number}](https://arxiv.org/abs/{number})"


def methods_table() -> str:
    """All methods: family, idea, state, papers, published and measured."""
    lines = [
        f"| method | idea | state it keeps | papers | published | {catalogue.FIGURES} |",
        "|---|---|---|---|---|---|",
    ]
    family = None
    for name in catalogue.names():
        about = catalogue.card(name)
        if about.family != family:
            family = about.family
            lines.append(f"| **{family}** | | | | | |")
        cells = [
            f"[`{name}`](docs/methods/{name}.md)",
            f"{catalogue.summary(name)[0]}: {catalogue.idea(name)}",
            ", ".join(about.state) or "none",
            ", ".join(map(paper, about.papers)),
            about.published,
            catalogue.figures_text(name),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def figures_table() -> str:
    """What was measured, sorted by linear accuracy within each data set, beside the untrained encoder."""
    lines = [
        "| config | encoder | k-NN | linear | 10 labels | untrained: k-NN, linear, 10 labels | CPU s | peak MB |",
        "|---|---|---|---|---|---|---|---|",
    ]
    found = catalogue.measured()
    for data in sorted({figures["data"] for figures in found.values()}):
        rows = {config: figures for config, figures in found.items() if figures["data"] == data}
        raw = next(iter(rows.values()))["raw"]
        lines.append(
            f"| **{data}**, raw pixels | | {raw['knn']:.1f} | {raw['linear']:.1f} | {raw['labels_10']:.1f} | | | |"
        )
        for config, f in sorted(rows.items(), key=lambda item: -catalogue.mean(item[1], "linear")):
            untrained = f["untrained"]
            own = " | ".join(_spread(f, key) for key in ("knn", "linear", "labels_10"))
            lines.append(
                f"| `{config}` | {f['encoder']} | {own} | "
                f"{untrained['knn']:.1f}, {untrained['linear']:.1f}, {untrained['labels_10']:.1f} | "
                f"{f['cpu_seconds']} | {f['peak_mb']} |"
            )
    return "\n".join(lines)


def _spread(figures: Mapping[str, Any], key: str) -> str:
    """Mean of a figure over seeds, with its deviation where there are several."""
    values = [seed["run"][key] for seed in catalogue.by_seed(figures).values()]
    deviation = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{catalogue.mean(figures, key):.1f}{deviation}"


def claims() -> str:
    """Every claim that was tried, as its script wrote it."""
    found = sorted((ROOT / "docs" / "claims").glob("*.md"))
    return "\n".join(path.read_text() for path in found).rstrip() or "None was tried yet."


def recipe(name: str) -> str:
    """A method's config as a table."""
    config = importlib.import_module(f"ssl_jax.configs.{name}").get_config("")
    about = catalogue.card(name)
    lines = [
        "| | |",
        "|---|---|",
        f"| family | {about.family} |",
        f"| papers | {', '.join(map(paper, about.papers))} |",
    ]
    lines += [f"| encoders | {about.encoders} |", f"| state it keeps | {', '.join(about.state) or 'none'} |"]
    lines += [f"| {title} | {text(config)} |" for title, text in RECIPE]
    lines += [f"| published | {about.published or 'none for this recipe'} |"]
    lines += [f"| {catalogue.FIGURES} | {catalogue.figures_text(name)} |"]
    return "\n".join(lines)


def filled(text: str, part: str, content: str) -> str:
    """`text` with what stands between the marks of a part replaced; the marks must be there."""
    pattern = rf"(<!-- {part} -->\n).*?(<!-- /{part} -->)"
    if not re.search(pattern, text, re.DOTALL):
        raise SystemExit(f"no marks <!-- {part} --> and <!-- /{part} -->")
    return re.sub(pattern, lambda m: f"{m[1]}{content}\n{m[2]}", text, flags=re.DOTALL)


def pages() -> dict[pathlib.Path, str]:
    """Every file with generated parts, as it should be."""
    parts = {
        ROOT / "README.md": ("methods", methods_table()),
        ROOT / "docs/benchmarks/methods.md": ("figures", figures_table()),
        ROOT / "docs/claims.md": ("claims", claims()),
    }
    parts |= {ROOT / f"docs/methods/{name}.md": ("recipe", recipe(name)) for name in catalogue.names()}
    return {path: filled(path.read_text(), part, content) for path, (part, content) in parts.items()}


def main() -> None:
    stale = {path: text for path, text in pages().items() if path.read_text() != text}
    for path, text in stale.items():
        print(path.relative_to(ROOT))
        if "--check" not in sys.argv:
            path.write_text(text)
    if stale and "--check" in sys.argv:
        raise SystemExit("out of date; run: python docs/generate.py")


if __name__ == "__main__":
    main()
