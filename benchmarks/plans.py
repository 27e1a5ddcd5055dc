"""Plans of the papers' recipes on TPU slices that are not here: fits or not, seconds of a step, hours, scaling.

`python -m benchmarks.plans [--only=dino] [--out=docs/benchmarks/plans.json]` compiles, minutes each, and adds to the
file; `python -m benchmarks.plans --table` writes the file's tables, and forecasts what lies between the compiled sizes.

Needs the TPU compiler (`pip install 'ssl_jax[tpu]'`) and no TPU.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import time
from typing import Any

OUT = pathlib.Path(__file__).parents[1] / "docs" / "benchmarks" / "plans.json"
LARGE = ("--config.batch_size=32768",)
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
    "simclr-8192-2xv5e-256": ("simclr", "v5e:16x16", ("--slices=2", "--config.batch_size=8192")),
    "byol-r200x2-4096-v5p-512": (
        "byol",
        "v5p:4x8x8",
        ("--config.encoder=resnet200", "--config.encoder_args.width=2", "--config.epochs=1000"),
    ),
}


def command(name: str) -> list[str]:
    """The command line of a case; all are in bfloat16, as these machines are used."""
    config, topology, more = CASES[name]
    return ["plan", f"--config={config}", f"--topology={topology}", "--config.dtype=bfloat16", *more]


def planned(name: str) -> dict[str, Any]:
    """One compilation, in a process of its own."""
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "ssl_jax", *command(name), "--json"], stdout=subprocess.PIPE, text=True, check=False
    )
    if done.returncode not in (0, 2):  # 2: it does not fit
        raise SystemExit(f"{name} failed")
    print(f"{name}: {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)
    return {"command": " ".join(["ssl-jax", *command(name)]), **json.loads(done.stdout)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="cases whose names contain this")
    parser.add_argument("--out", type=pathlib.Path, default=OUT)
    parser.add_argument("--table", action="store_true")
    args = parser.parse_args()
    if args.table:
        print(tables(json.loads(args.out.read_text())))
        return
    for name in CASES:
        if args.only in name:
            found = planned(name)
            known = {**(json.loads(args.out.read_text()) if args.out.exists() else {}), name: found}
            args.out.write_text(json.dumps({key: known[key] for key in CASES if key in known}, indent=1) + "\n")


def tables(known: dict[str, Any]) -> str:
    raise NotImplementedError


if __name__ == "__main__":
    main()
