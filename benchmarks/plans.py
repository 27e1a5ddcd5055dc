"""Plans of the papers' recipes on TPU slices that are not here: fits or not, seconds of a step, hours, scaling.

`python -m benchmarks.plans [--only=dino] [--out=docs/benchmarks/plans.json]` compiles, minutes each, and adds to the
file; with `--estimates` those that are not in it yet are estimated instead, within a minute each.
`python -m benchmarks.plans --table` writes the file's tables, and forecasts what lies between the compiled sizes.

Needs the TPU compiler (`pip install 'ssl_jax[tpu]'`) and no TPU.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import time
from typing import Any

from ssl_jax import forecast, hardware
from ssl_jax.collectives import Collective

OUT = pathlib.Path(__file__).parents[1] / "docs" / "benchmarks" / "plans.json"
LARGE = ("--config.batch_size=32768",)
TWO_SLICES = ("--slices=2", "--config.batch_size=8192")
R200X2 = ("--config.encoder=resnet200", "--config.encoder_args.width=2", "--config.epochs=1000")
CASES: dict[str, tuple[str, str, tuple[str, ...]]] = {  # name: config, topology, further flags
    "simclr-4096-v5e-256": ("simclr", "v5e:16x16", ()),
    "simclr-32768-v5e-256": ("simclr", "v5e:16x16", LARGE),
    "simclr-4096-v3-128": ("simclr", "v3:8x8", ()),
    "simclr-4096-v4-128": ("simclr", "v4:4x4x4", ()),
    "simclr-4096-v5p-512": ("simclr", "v5p:4x8x8", ()),
    "dino-1024-v5e-256": ("dino", "v5e:16x16", ()),
    "dino-1024-v4-128": ("dino", "v4:4x4x4", ()),
    "dino-1024-v5p-512": ("dino", "v5p:4x8x8", ()),
    "simclr-32768-v4-128": ("simclr", "v4:4x4x4", LARGE),
    "simclr-32768-v5p-512": ("simclr", "v5p:4x8x8", LARGE),
    "simclr-8192-2xv5e-256": ("simclr", "v5e:16x16", TWO_SLICES),
    "simclr-8192-2xv5e-256-tiled": ("simclr", "v5e:16x16", (*TWO_SLICES, "--config.method_args.form=tiled")),
    "byol-r200x2-4096-v5e-256": ("byol", "v5e:16x16", R200X2),
    "byol-r200x2-4096-v4-128": ("byol", "v4:4x4x4", R200X2),
    "byol-r200x2-4096-v5p-512": ("byol", "v5p:4x8x8", R200X2),
}


def command(name: str) -> list[str]:
    """The command line of a case; all are in bfloat16, as these machines are used."""
    config, topology, more = CASES[name]
    return ["plan", f"--config={config}", f"--topology={topology}", "--config.dtype=bfloat16", *more]


def planned(name: str) -> dict[str, Any]:
    """One compilation, in a process of its own, and what `--nocompile` estimates in its place."""
    began = time.perf_counter()
    record, guess = output(command(name)), estimated(name)
    print(f"{name}: {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)
    guess = {key: guess[key] for key in ("memory", "bytes_accessed_per_device", "seconds")}
    return {"command": " ".join(["ssl-jax", *command(name)]), **record, "estimate": guess}


def estimated(name: str) -> dict[str, Any]:
    """The plan of the traced step alone."""
    arguments = [*command(name), "--nocompile"]
    return {"command": " ".join(["ssl-jax", *arguments]), **output(arguments)}


def output(arguments: list[str]) -> dict[str, Any]:
    """What a command prints as JSON."""
    done = subprocess.run(
        [sys.executable, "-m", "ssl_jax", *arguments, "--json"], stdout=subprocess.PIPE, text=True, check=False
    )
    if done.returncode not in (0, 2):  # 2: it does not fit
        raise SystemExit(f"{' '.join(arguments)} failed")
    return json.loads(done.stdout)


def main() -> None:
    """Compile, or print tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="cases whose names contain this")
    parser.add_argument("--out", type=pathlib.Path, default=OUT)
    parser.add_argument("--estimates", action="store_true")
    parser.add_argument("--table", action="store_true")
    args = parser.parse_args()
    if args.table:
        print(tables(json.loads(args.out.read_text())))
        return
    for name in CASES:
        known = json.loads(args.out.read_text()) if args.out.exists() else {}
        if args.only in name and not (args.estimates and name in known):
            found = estimated(name) if args.estimates else planned(name)
            known = {**(json.loads(args.out.read_text()) if args.out.exists() else {}), name: found}  # minutes later
            args.out.write_text(json.dumps({key: known[key] for key in CASES if key in known}, indent=1) + "\n")


def tables(known: dict[str, Any]) -> str:
    """Plans, estimates beside them, and scaling, as markdown."""
    parts = ["## Plans", plans(known), "## Estimates beside what was compiled", estimates(known)]
    small, large = (known.get(f"simclr-{batch}-v5e-256") for batch in (4096, 32768))
    if small and large:
        parts += ["## Scaling of SimCLR, ResNet-50, on v5e", scaling(small, large)]
    return "\n\n".join(parts)


def markdown(head: list[str], lines: list[list[Any]]) -> str:
    rows = [head, ["---"] * len(head), *lines]
    return "\n".join(f"| {' | '.join(str(cell) for cell in row)} |" for row in rows)


def plans(known: dict[str, Any]) -> str:
    """One row per case."""
    head = ["recipe", "batch", "devices", "GiB of each", "largest array", "arithmetic ms", "collectives ms"]
    head += ["images/s", "MFU", "epochs", "hours", "chip-hours", "compiled in s"]
    lines = []
    for r in known.values():
        topology, seconds, run, memory = r["topology"], r["seconds"], r["run"], r["memory"]
        many = f"{topology['slices']} x " if topology["slices"] > 1 else ""
        most = "" if seconds["compiler"] else "at most "
        arithmetic = seconds["compiler"] or max(seconds["products"], seconds["memory"])
        room = f"{memory['total'] / 2**30:.2f} of {memory['available'] / 2**30:.2f}"
        lines.append(
            [
                f"{r['config']['method']}, {r['config']['encoder']}",
                f"{r['config']['batch_size']:,}",
                f"{many}{topology['name']} ({topology['devices']})",
                room if memory["fits"] else f"**{room}: does not fit**",
                (r["largest_arrays"] or [""])[0],
                f"{1e3 * arithmetic:.1f}" + ("" if seconds["compiler"] else " at least"),
                f"{1e3 * seconds['collectives']:.1f}",
                f"{most}{run['images_per_second']:,.0f}",
                f"{most}{100 * run['model_flop_utilisation']:.1f} %",
                f"{run['epochs']:.0f}",
                f"{run['hours']:.2f}",
                f"{run['chip_hours']:.0f}",
                f"{r['compile_seconds']:.0f}" if r["compile_seconds"] else "estimated",
            ]
        )
    return markdown(head, lines)


def estimates(known: dict[str, Any]) -> str:
    """Memory and seconds by `--nocompile`, over what the compiler says."""
    lines = []
    for name, r in known.items():
        guess = r.get("estimate")
        if guess and r["basis"] == "compiled":
            memory = [x["memory"]["total"] / 2**30 for x in (guess, r)]
            seconds = [1e3 * x["seconds"]["step"] for x in (guess, r)]
            cells = [f"{a:.2f} / {b:.2f} = {a / b:.2f}" for a, b in (memory, seconds)]
            lines.append([name, *cells])
    return markdown(["case", "GiB of a device: estimate / compiled", "ms of a step: estimate / compiled"], lines)


def scaling(small: dict[str, Any], large: dict[str, Any]) -> str:
    """Weak and strong scaling from two compiled steps of one recipe, with few and with many images for each chip.

    Arithmetic is a line through the two; the all-reduces keep their number and bytes and go through the slice's hops.
    """
    images = [r["config"]["batch_size"] / r["topology"]["devices"] for r in (small, large)]
    cycles = [r["seconds"]["compiler"] for r in (small, large)]
    slope = (cycles[1] - cycles[0]) / (images[1] - images[0])

    def row(kind: str, chips: int, batch: int) -> list[str]:
        topology = hardware.parse(f"v5e-{chips}")
        found = next(r for r in small["collectives"] if r["kind"] == "all-reduce")
        talk = Collective("all-reduce", found["bytes"] // found["count"], chips, found["count"], True)
        each = batch / chips
        arithmetic, talking = cycles[0] + slope * (each - images[0]), forecast.seconds_of(talk, topology)
        step = arithmetic + talking
        cells = [
            f"{1e3 * arithmetic:.1f}",
            f"{1e3 * talking:.1f}",
            f"{batch / step:,.0f}",
            f"{batch / step / chips:,.0f}",
        ]
        return [kind, str(chips), f"{batch:,}", f"{each:.0f}", *cells]

    sizes = (16, 32, 64, 128, 256)
    lines = [row("weak", chips, 16 * chips) for chips in sizes]
    lines += [row("weak", chips, 128 * chips) for chips in sizes]
    lines += [row("strong", chips, 4096) for chips in sizes[1:]]
    head = ["scaling", "chips", "batch", "images per chip", "arithmetic ms", "all-reduce ms", "images/s", "per chip"]
    return markdown(head, lines)


if __name__ == "__main__":
    main()
