"""Targets of a higher level than pixels: the visual words of BoWNet, in rounds, and of OBoW, from a moving average."""

import pathlib

from benchmarks.claims.finding import Finding, beats, keeps_up, verdict
from benchmarks.claims.runs import Budget, figures, pretrain, seconds

ROUND = 90  # steps of each of BoWNet's three rounds: rotations, words, words of the words' network
# Batches of 128, so that there are twice the steps. What each takes for about the processor time of BoWNet's three
# rounds; the page says what it was.
STEPS = {"bownet": 3 * ROUND, "obow": 290, "autoencoder": 590, "rotation": 2 * ROUND}


def high_level_targets(budget: Budget) -> Finding:
    """Predicting visual words beats reconstructing pixels at equal cost (Gidaris et al., 2020 and 2021).

    BoWNet (three rounds), OBoW and the autoencoder (from perturbed images), the small forms with batches of 128 images
    of Fashion-MNIST and as many steps as take each about the same processor time (which stands in the table,
    compilation included). Frozen features, linear probe and k-NN on 10,000 training images, all test images. It holds
    if the linear probe is above the autoencoder's in every seed, for OBoW and for BoWNet's last network.
    """
    runs = {name: _runs(budget, name) for name in ("bownet", "obow", "autoencoder")}
    found = {name: {**figures(paths), "CPU s": [seconds(p) for p in paths]} for name, paths in runs.items()}
    found["untrained"] = figures(runs["autoencoder"], untrained=True)
    return compare_targets(found)


def compare_targets(found: dict[str, dict[str, list[float]]]) -> Finding:
    """The finding from the figures of `bownet`, `obow`, `autoencoder` and `untrained`."""
    linear = {name: values["linear"] for name, values in found.items()}
    holds = [beats(linear[name], linear["autoencoder"]) for name in ("obow", "bownet")]
    said = ", ".join(
        f"{title} {'above' if held else 'not above'} the autoencoder in every seed"
        for title, held in zip(("OBoW", "BoWNet"), holds, strict=True)
    )
    titles = {"bownet": "BoWNet", "obow": "OBoW", "autoencoder": "autoencoder", "untrained": "untrained encoder"}
    return Finding(
        verdict=verdict(holds, f"linear probe: {said}"),
        figures={titles[name]: values for name, values in found.items()},
        bars=("linear", "k-NN"),
    )


def rounds(budget: Budget) -> Finding:
    """BoWNet gains from round to round, and a moving-average teacher does as well (Gidaris et al., 2020 and 2021).

    One run of BoWNet in three rounds of equal length, looked at after each: the network that tells rotations apart, the
    first network that predicts words, made of its features, and a second one that predicts the words of the first.
    Beside it the rotation network trained for two rounds, and OBoW with about the processor time of all three rounds.
    Batches of 128 images of Fashion-MNIST; linear probe and k-NN on 10,000 training images, all test images. It holds
    if, by the linear probe, the first network of words is above the rotations' in every seed, the second above the
    first in every seed, and OBoW's mean above the second's or no more than 0.3 points below.
    """
    runs = _runs(budget, "bownet")
    length = _length(budget, "bownet") // 3
    found = {
        name: figures(runs, step=length * (at + 1))
        for at, name in enumerate(("rotations (teacher)", "words, first round", "words, second round"))
    }
    found["words, second round"]["CPU s"] = [seconds(run) for run in runs]
    for name, title in (("rotation", "rotations, two rounds long"), ("obow", "OBoW")):
        paths = _runs(budget, name)
        found[title] = {**figures(paths), "CPU s": [seconds(path) for path in paths]}
    return compare_rounds(found)


def compare_rounds(found: dict[str, dict[str, list[float]]]) -> Finding:
    """The finding from the figures of each network, as `rounds` names them."""
    linear = {name: values["linear"] for name, values in found.items()}
    teacher, first, second = (linear[n] for n in ("rotations (teacher)", "words, first round", "words, second round"))
    holds = {
        "student above its teacher": beats(first, teacher),
        "second round above the first": beats(second, first),
        "OBoW no worse than BoWNet": keeps_up(linear["OBoW"], second),
    }
    said = ", ".join(f"{name}: {'yes' if held else 'no'}" for name, held in holds.items())
    return Finding(verdict=verdict(list(holds.values()), said), figures=found, bars=("linear", "k-NN"))


def _length(budget: Budget, name: str) -> int:
    return (6 if name == "bownet" else 4) if budget.test else STEPS[name]


def _runs(budget: Budget, name: str) -> list[pathlib.Path]:
    """The run of each seed."""
    steps = _length(budget, name)
    fields = {"steps": steps, "knn_every": -1, "batch_size": 64 if budget.test else 128}
    if not budget.test:  # a fifth of BoWNet's rounds, where that of the small form would be longer than they are
        fields["warmup_epochs"] = round(ROUND * 128 / 60_000 / 5, 4)
    if name == "bownet":
        fields |= {"rounds": 3, "checkpoint_every": steps // 3, "keep_checkpoints": 3}
    return [pretrain(budget, budget.config(name), seed, fields) for seed in budget.seeds]
