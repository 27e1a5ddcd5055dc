"""Trials of one evaluation: which seed each of them has."""

import numpy as np


def trial_seed(seed: int, trial: int) -> int:
    """A seed, 0 to 2^31 - 1, for a trial of whatever is trained, drawn from the pair.

    With `seed + trial` the second trial of one seed would be the first one of the next, so that trials of several
    seeds would not be independent.
    """
    return int(np.random.SeedSequence((seed, trial)).generate_state(1)[0] >> 1)
