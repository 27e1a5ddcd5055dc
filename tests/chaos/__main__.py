"""The long form: `python -m tests.chaos --kills=50`, from the repository's root. Exit status 1 if anything is lost."""

import argparse
import collections
import pathlib
import tempfile
import time

from tests.chaos.killing import Plan, chaos, evaluate, kill_evaluations, kill_preparations


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--config", default="simclr:test")
    parser.add_argument("--steps", type=int, default=1000)
    options = parser.parse_args()
    began, say = time.time(), lambda text: print(text, flush=True)
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        plan = Plan(config=options.config, steps=options.steps, cache=str(folder / "cache"))
        say(f"{options.config}, {plan.steps} steps, a checkpoint every {plan.interval}, seed {options.seed}")
        kills, killed, alone = chaos(plan, folder, options.kills, options.seed, say)
        kill_evaluations(plan, folder, options.kills // 5, options.seed, say)
        prepared = kill_preparations(plan, folder, options.kills // 5, options.seed, say)
        results = [evaluate(plan, folder / of, folder / "log.txt") for of in ("killed", "alone")]
    lost = [kill.reached - kill.saved for kill in kills]
    same = lambda a, b: "the same" if a == b else "DIFFERENT"  # noqa: E731
    moments = dict(collections.Counter(kill.moment for kill in kills))
    say(f"{len(kills)} kills ({moments}) in {time.time() - began:.0f} s")
    say(f"steps lost by a kill: at most {max(lost)}, on average {sum(lost) / len(lost):.1f}; interval {plan.interval}")
    say(f"digest of the end: {killed} killed, {alone} undisturbed: {same(killed, alone)}")
    say(f"evaluation, killed {options.kills // 5} times: {len(results[0])} results, {same(*results)}")
    say(f"data prepare, killed {options.kills // 5} times: {same(prepared, True)} records")
    whole = prepared and killed == alone and results[0] == results[1] and len(kills) == options.kills
    return 0 if whole and max(lost) <= plan.interval else 1


if __name__ == "__main__":
    raise SystemExit(main())
