"""Measure on one GPU, part by part, each within a time limit; and make the page of what was measured.

    python -m benchmarks.gpu steps --out=DIR --seconds=500     # against PyTorch; also: ntxent, equality, ...
    python -m benchmarks.gpu page --out=DIR [--write]          # docs/benchmarks/gpu.md

Every row is written as soon as it is measured (`DIR/PART.json`), the most telling first; what libraries print goes to
`DIR/log.txt`. `--tiny` tries a part in a minute on any machine. `benchmarks/on_gpu.sh` runs all parts and the tests.
"""

import argparse
import importlib
import os
import pathlib

from benchmarks.gpu import page, record, turns

# name: module and function of a part; whether it measures in this process; what it is
PARTS = {
    "machine": ("machine", "run", True, "the card, and what it does at most"),
    "steps": ("steps", "against_torch", False, "SimCLR's step beside PyTorch's"),
    "ntxent": ("ntxent", "run", True, "the contrastive loss, dense and in tiles"),
    "deterministic": ("steps", "deterministic", False, "what --deterministic costs"),
    "augmentation": ("augmentation", "run", True, "views per second"),
    "equality": ("equality", "run", True, "forms, repeated runs and resumed runs give the same"),
}


def measure(part: str, folder: pathlib.Path, seconds: float | None, *, tiny: bool) -> bool:
    """Run a part; whether there was time for all of it."""
    module, function, here, _ = PARTS[part]
    clock = record.Clock(seconds)
    # Compiled programs are not kept, so that compilation is timed, and no process repeats what another compiled.
    os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "false"
    os.environ.pop("XLA_PYTHON_CLIENT_MEM_FRACTION", None)  # an older name, which may not be given beside the newer
    os.environ.update(turns.SHARED)
    if part == "ntxent":  # alone on the card, and near its limit, where pieces of memory would not fit together
        os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "true"
    machine = record.host() | {"tiny": tiny}
    if here:
        machine |= importlib.import_module("benchmarks.gpu.local").machine()
    rows = record.Record(folder, part, machine, clock)
    complete = getattr(importlib.import_module(f"benchmarks.gpu.{module}"), function)(rows, tiny=tiny)
    rows.close(complete=complete)
    return complete


def main() -> None:
    about = "; ".join(f"{name}: {words}" for name, (*_, words) in PARTS.items())
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=(*PARTS, "page"), help=f"{about}; page: make the page")
    parser.add_argument("--out", type=pathlib.Path, required=True, help="folder of the records")
    parser.add_argument("--seconds", type=float, help="time limit; what is left out is said")
    parser.add_argument("--tiny", action="store_true", help="a trial of the program; its figures mean nothing")
    parser.add_argument("--write", action="store_true", help=f"with page: write {page.OUT.name}, else print")
    args = parser.parse_args()
    if args.part != "page":
        done = measure(args.part, args.out, args.seconds, tiny=args.tiny)
        print(f"{args.part}: {'all measured' if done else 'the time was over before all was measured'}")
        return
    text = page.text(record.load(args.out))
    if args.write:
        page.OUT.write_text(text)
    else:
        print(text)


if __name__ == "__main__":
    main()
