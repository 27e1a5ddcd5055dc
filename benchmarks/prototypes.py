"""iBOT's scores of patches, all at once and in tiles: temporary memory, and processor time where they fit.

`python -m benchmarks.prototypes [--cases=0,1,2] [--rounds=3] [--write]`

Value and gradient of the method's loss, on a ViT-S of one block, so that heads and losses are most of it.
Memory is what the compiler lays out for one device; the papers' sizes are compiled and not run. Dense and tiled take
turns, and the fastest round of each counts. `--write` keeps the rows in `docs/benchmarks/prototypes.md`.
"""

import argparse
import dataclasses
import os
import pathlib
import re
import time
from collections.abc import Callable
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax import methods, nets
from ssl_jax.core import Method

OUT = pathlib.Path(__file__).parents[1] / "docs" / "benchmarks" / "prototypes.md"
TITLES = (
    "method",
    "images",
    "prototypes",
    "MB a copy",
    "dense MB",
    "tiled MB",
    "dense s",
    "tiled s",
    "time",
    "loss off by",
)
VIEWS, PATCHES = 2, 196
DINOV2 = {"sinkhorn": True, "shared_head": False, "koleo": 0.1}


@dataclasses.dataclass(frozen=True)
class Case:
    """A method with its images on one device; `run` if its dense form fits here."""

    name: str
    images: int
    prototypes: int
    run: bool = False


CASES = (
    Case("ibot", 4, 8_192, run=True),  # one tile holds all patches, so none can be passed over
    Case("ibot", 16, 8_192, run=True),
    Case("dinov2", 2, 65_536, run=True),
    Case("ibot", 64, 8_192),
    Case("dinov2", 64, 65_536),
    Case("dino", 64, 65_536),
    Case("dino", 64, 1_024),
)


def method_of(case: Case, form: str) -> Method:
    vit = nets.ViT(patch=16, dim=384, depth=1, heads=6)
    if case.name == "dino":
        return methods.dino(vit, prototypes=case.prototypes)
    how = DINOV2 if case.name == "dinov2" else {}
    return methods.ibot(vit, prototypes=case.prototypes, form=form, **how)


def shapes(case: Case) -> tuple[tuple[int, ...], ...]:
    """Of the views; DINO's with small crops, which are most of its class tokens."""
    large = (case.images, VIEWS, 224, 224, 3)
    return (large, (case.images, 8, 96, 96, 3)) if case.name == "dino" else (large,)


def compiled(case: Case, form: str) -> tuple[Callable, Callable]:
    """`(params, carry, batch, rng) -> ((loss, ...), gradient)`, and the method's initialisation."""
    method = method_of(case, form)

    def step(params: Any, carry: Any, batch: Any, rng: Any) -> Any:
        loss = jax.value_and_grad(method.loss, has_aux=True)
        return loss(params, carry, batch, rng, jnp.zeros((), jnp.int32))

    batch = {"views": tuple(jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes(case))}
    params, carry = jax.eval_shape(method.init, jax.random.key(0), batch)
    return jax.jit(step).lower(params, carry, batch, jax.random.key(0)).compile(), method.init


def timed(case: Case, steps: dict[str, Callable], init: Callable, rounds: int) -> dict[str, tuple[float, float]]:
    """Processor seconds of the fastest round, and the loss."""
    rng = np.random.default_rng(0)
    batch = {"views": tuple(jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes(case))}
    params, carry = jax.jit(init)(jax.random.key(0), batch)
    found: dict[str, list[tuple[float, float]]] = {form: [] for form in steps}
    for _ in range(rounds):
        for form, step in steps.items():
            began = time.process_time()
            (loss, _), _ = jax.block_until_ready(step(params, carry, batch, jax.random.key(0)))
            found[form].append((time.process_time() - began, float(loss)))
    off = max(abs(a - b) / abs(a) for (_, a), (_, b) in zip(found["dense"], found["tiled"], strict=True))
    return {form: (min(s for s, _ in rows), off) for form, rows in found.items()}


def row(case: Case, rounds: int) -> list[str]:
    """A case as cells of the table."""
    forms = ("dense",) if case.name == "dino" else ("dense", "tiled")
    made = {form: compiled(case, form) for form in forms}
    steps = {form: step for form, (step, _) in made.items()}
    memory = {form: f"{step.memory_analysis().temp_size_in_bytes / 2**20:,.0f}" for form, step in steps.items()}
    rows = case.images * (10 if case.name == "dino" else VIEWS * PATCHES)
    cells = [case.name, str(case.images), f"{case.prototypes:,}", f"{rows * case.prototypes * 4 / 2**20:,.0f}"]
    cells += [memory["dense"], memory.get("tiled", "")]
    if not case.run or not rounds:
        return [*cells, "", "", "", ""]
    took = timed(case, steps, made["dense"][1], rounds)
    (dense, off), (tiled, _) = took["dense"], took["tiled"]
    return [*cells, f"{dense:.1f}", f"{tiled:.1f}", f"{tiled / dense:.2f}", f"{off:.0e}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", default=",".join(map(str, range(len(CASES)))))
    parser.add_argument("--rounds", type=int, default=3, help="0: memory alone")
    parser.add_argument("--write", action="store_true", help=f"keep the table in {OUT.name}")
    args = parser.parse_args()
    lines = ["| " + " | ".join(TITLES) + " |", "|---" * len(TITLES) + "|"]
    print(*lines, sep="\n", flush=True)
    for i in map(int, args.cases.split(",")):
        lines.append("| " + " | ".join(row(CASES[i], args.rounds)) + " |")
        print(lines[-1], flush=True)
    if args.write:
        marks = r"(<!-- table -->\n).*?(<!-- /table -->)"
        OUT.write_text(re.sub(marks, "\\g<1>" + "\n".join(lines) + "\n\\g<2>", OUT.read_text(), flags=re.DOTALL))


if __name__ == "__main__":
    main()
