"""SimCLR's training step at once and in micro-batches: temporary memory, and for a small network also time.

`python -m benchmarks.micro_batches [--rounds=3] [--json]`

Memory is what the compiler lays out for one device; the large network is compiled and not run. Batches at once and in
parts take turns, and the fastest round of each counts.
"""

import argparse
import dataclasses
import json
import os
import time
from collections.abc import Callable

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ssl_jax import gradient_caching, init_state, make_train_step, methods, nets

TX = optax.sgd(0.1)


@dataclasses.dataclass(frozen=True)
class Case:
    """A network, its images, a batch that fits, and one of many times its size."""

    encoder: str
    size: int
    part: int
    count: int
    run: bool


CASES = {
    "convnet": Case("convnet", 32, 64, 8, run=True),
    "resnet50": Case("resnet50", 224, 128, 32, run=False),
}


def method_of(case: Case, count: int):
    return gradient_caching(methods.simclr(nets.create(case.encoder)), count)


def compiled(case: Case, examples: int, count: int) -> Callable:
    """The training step for a batch of so many examples in so many parts."""
    shape = (examples, 2, case.size, case.size, 3)
    batch = {"views": jax.ShapeDtypeStruct(shape, jnp.float32)}
    few = {"views": jnp.zeros((2, *shape[1:]))}
    state = jax.eval_shape(lambda: init_state(method_of(case, 1), TX, few))
    return make_train_step(method_of(case, count), TX).lower(state, batch).compile()


def seconds(case: Case, steps: dict[tuple[int, int], Callable], rounds: int) -> dict[tuple[int, int], float]:
    """Of the fastest step of each."""
    took: dict[tuple[int, int], list[float]] = {key: [] for key in steps}
    for _ in range(rounds + 1):
        for (examples, count), step in steps.items():
            rng = np.random.default_rng(0)
            batch = {"views": jnp.asarray(rng.normal(size=(examples, 2, case.size, case.size, 3)), jnp.float32)}
            state = init_state(method_of(case, 1), TX, batch)
            began = time.perf_counter()
            jax.block_until_ready(step(state, batch))
            took[examples, count].append(time.perf_counter() - began)
    return {key: min(times[1:]) for key, times in took.items()}


def measure(name: str, rounds: int) -> list[dict]:
    """Rows for one network: a batch that fits, the large batch in parts, and at once."""
    case = CASES[name]
    settings = [(case.part, 1), (case.part * case.count, case.count), (case.part * case.count, 1)]
    steps = {setting: compiled(case, *setting) for setting in settings}
    took = seconds(case, steps, rounds) if case.run else {}
    memory = {setting: step.memory_analysis().temp_size_in_bytes / 2**20 for setting, step in steps.items()}
    return [
        {
            "network": f"{case.encoder}, {case.size} px",
            "batch": examples,
            "micro_batches": count,
            "temporary_mb": round(memory[examples, count], 1),
            "of_one": round(memory[examples, count] / memory[settings[0]], 2),
            "s": round(took[examples, count], 2) if took else None,
        }
        for examples, count in settings
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", default=",".join(CASES))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    if not args.json:
        print(
            "| network | batch | micro-batches | temporary MB | of the first line | s per step |",
            "|---|---|---|---|---|---|",
            sep="\n",
        )
    for name in args.networks.split(","):
        for row in measure(name, args.rounds):
            if args.json:
                print(json.dumps(row), flush=True)
                continue
            cells = [
                row["network"],
                f"{row['batch']:,}",
                row["micro_batches"],
                f"{row['temporary_mb']:,}",
                row["of_one"],
            ]
            print(f"| {' | '.join(map(str, cells))} | {row['s'] or ''} |", flush=True)


if __name__ == "__main__":
    main()
