"""What views must differ in: SimCLR with single and paired augmentations, on photographs in colour."""

import itertools
from typing import Any

import numpy as np

from benchmarks.claims.finding import Finding, beats, verdict
from benchmarks.claims.runs import Budget, figures, pretrain

# Fields of `augment.View` that switch one kind of change on.
KINDS: dict[str, dict[str, Any]] = {
    "crop": {"crop_scale": (0.2, 1.0), "crop_ratio": (0.75, 1.3333)},
    "flip": {"flip": 0.5},
    "colour": {"jitter": (0.8, 0.8, 0.8, 0.2), "jitter_prob": 0.8, "grey_prob": 0.2},
    "blur": {"blur_prob": 0.5, "blur_taps": 7},
    "erase": {"erase_prob": 0.8},
}
NONE: dict[str, Any] = {
    "crop_scale": (1.0, 1.0),
    "crop_ratio": (1.0, 1.0),
    "flip": 0.0,
    "jitter": (0.0, 0.0, 0.0, 0.0),
    "jitter_prob": 0.0,
    "grey_prob": 0.0,
    "blur_prob": 0.0,
    "erase_prob": 0.0,
}


def augmentations(budget: Budget) -> Finding:
    """Augmentation decides what is learned, and crop with colour is the pair that works (Chen et al., 2020, figure 5).

    SimCLR on 32 x 32 patches of eight photographs in colour, 150 steps of 128 images, with an encoder of half the usual
    width: each kind of change alone, and each pair, in both views. The task is to tell from which photograph a patch
    of other squares comes. Linear probe and k-NN on the training patches, all test patches. It holds if crop with
    colour is above crop alone and above colour alone in every seed, and its mean is the highest of the table, by the
    linear probe. Unlike in the paper, changes are made to both views, and the images are not cropped besides.
    """
    names = ("crop", "colour") if budget.test else tuple(KINDS)
    config, found = budget.config("simclr"), {}
    for first, second in itertools.combinations_with_replacement(names, 2):
        args = {**NONE, **KINDS[first], **KINDS[second]}
        fields = {**budget.narrow(), "data": "photos" if budget.test else "photos:skimage", "knn_every": -1}
        fields |= {"batch_size": 64, "steps": 3} if budget.test else {"batch_size": 128, "steps": 150}
        fields |= {f"augment_args.{name}": value for name, value in args.items()}
        fields["log_every"] = 10
        found[first, second] = figures([pretrain(budget, config, seed, fields) for seed in budget.seeds])
    return conclude(found)


def conclude(found: dict[tuple[str, str], dict[str, list[float]]]) -> Finding:
    """The finding from the figures of each pair, a single change being a pair with itself."""
    linear = {pair: figures["linear"] for pair, figures in found.items()}
    both, crop, colour = linear["crop", "colour"], linear["crop", "crop"], linear["colour", "colour"]
    best = max(linear, key=lambda pair: float(np.mean(linear[pair])))
    holds = [beats(both, crop), beats(both, colour), best == ("crop", "colour")]
    basis = (
        f"linear probe: crop with colour {np.mean(both):.1f}, crop {np.mean(crop):.1f}, colour {np.mean(colour):.1f}; "
        f"the highest is {name_of(best)} with {np.mean(linear[best]):.1f}"
    )
    names = list(dict.fromkeys(name for pair in found for name in pair))
    tables = {}
    for figure, title in (("linear", "linear probe, %"), ("k-NN", "k-NN, %")):
        means = {pair: float(np.mean(figures[figure])) for pair, figures in found.items()}
        means |= {(second, first): value for (first, second), value in means.items()}
        tables[title] = {first: {second: means[first, second] for second in names} for first in names}
    return Finding(
        verdict=verdict(holds, basis), figures={name_of(pair): f for pair, f in found.items()}, tables=tables
    )


def name_of(pair: tuple[str, str]) -> str:
    """A pair in words."""
    return f"{pair[0]} alone" if pair[0] == pair[1] else f"{pair[0]} and {pair[1]}"
