"""The long form: `python -m tests.chaos --kills=50`, from the repository's root. Exit status 1 if anything is lost."""

import argparse
import collections
import pathlib
import tempfile
import time

from tests.chaos.killing import Plan, chaos


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--config", default="simclr:test")
    parser.add_argument("--steps", type=int, default=1500)
    options = parser.parse_args()
    plan = Plan(config=options.config, steps=options.steps)
    print(f"{plan}, {options.kills} kills, seed {options.seed}", flush=True)
    began = time.time()
    with tempfile.TemporaryDirectory() as folder:
        kills, killed, alone = chaos(
            plan, pathlib.Path(folder), options.kills, options.seed, lambda text: print(text, flush=True)
        )
    lost = [kill.reached - kill.saved for kill in kills]
    moments = collections.Counter(kill.moment for kill in kills)
    whole = killed == alone and len(kills) == options.kills and max(lost) <= 2 * plan.interval
    print(f"{len(kills)} kills ({dict(moments)}) in {time.time() - began:.0f} s")
    print(
        f"steps lost by a kill: at most {max(lost)}, on average {sum(lost) / len(lost):.1f}; interval {plan.interval}"
    )
    print(f"more than the interval: {sum(n > plan.interval for n in lost)}, while the save was under way")
    print(f"digest of the end: {killed} killed, {alone} undisturbed: {'the same' if killed == alone else 'DIFFERENT'}")
    return 0 if whole else 1


if __name__ == "__main__":
    raise SystemExit(main())
