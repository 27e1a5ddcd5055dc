import dataclasses

import numpy as np
import pytest

from ssl_jax import data, nets
from ssl_jax.core import UserError
from ssl_jax.evaluation import FineTuning, draw_labels, draw_share, fine_tune, from_scratch, semi, semi_supervised
from ssl_jax.evaluation.finetune import FineTuned
from ssl_jax.evaluation.trials import trial_seed

ENCODER = nets.ConvNet(widths=(4, 8), pool=(1,))
WIDER = nets.ConvNet(widths=(8, 16))
TRAIN, TEST = data.load("digits", "train"), data.load("digits", "test")


@pytest.fixture
def calls(monkeypatch):
    """What `fine_tune` was called with; its accuracy is a function of that."""
    seen = []

    def fine_tune(encoder, params, state, train, test, *, recipe, seed, **kwargs):
        seen.append({"params": params, "rows": train.rows, "recipe": recipe, "seed": seed, **kwargs})
        accuracy = 0.9 + 0.1 * len(seen[1:]) if params else 0.25
        ema = None if recipe.ema is None else accuracy + 0.01
        return FineTuned(accuracy=accuracy, ema_accuracy=ema, steps=7, params={}, model_state={}, average=None)

    monkeypatch.setattr(semi, "fine_tune", fine_tune)
    return seen


def run(**kwargs):
    return semi_supervised(ENCODER, {"a": 1}, {"b": 2}, TRAIN, TEST, **kwargs)


def test_both_learn_from_the_same_labels_and_the_figures_are_over_trials(calls):
    recipe = FineTuning(ema=0.9, epochs=3.0)
    found = run(per_class=2, trials=3, seed=4, recipe=recipe, views=len)
    tuned, scratch = calls[:3], calls[3:]
    assert [call["params"] for call in calls] == [{"a": 1}] * 3 + [None] * 3
    for trial, (a, b) in enumerate(zip(tuned, scratch, strict=True)):
        np.testing.assert_array_equal(a["rows"], draw_labels(TRAIN.labels, per_class=2, seed=4, trial=trial))
        np.testing.assert_array_equal(a["rows"], b["rows"])
        assert (a["recipe"], b["recipe"]) == (recipe, from_scratch(recipe))
        assert a["seed"] == b["seed"] == trial_seed(4, trial)
        assert a["views"] is b["views"] is len
    assert (found["labels"], found["trials"]) == (20, 3)
    row = found["fine_tuned"]
    assert row["accuracies"] == pytest.approx([0.9, 1.0, 1.1])
    assert row["accuracy"] == pytest.approx(1.0)
    assert row["std"] == pytest.approx(0.1)
    assert row["ema"]["accuracy"] == pytest.approx(1.01)
    assert row["steps"] == 7
    assert found["from_scratch"]["accuracies"] == [0.25] * 3


def test_labels_by_share_and_by_name(calls, monkeypatch):
    run(share=0.1, trials=2, beside_scratch=False)
    for trial, call in enumerate(calls):
        np.testing.assert_array_equal(call["rows"], draw_share(TRAIN.labels, share=0.1, trial=trial))
    calls.clear()
    monkeypatch.setattr(semi, "rows_named", lambda source, names: np.asarray([int(n) for n in names]))
    found = run(names=["3", "1"], trials=2)
    assert [call["rows"].tolist() for call in calls] == [[3, 1]] * 4
    seeds = [trial_seed(0, trial) for trial in range(2)]
    assert [call["seed"] for call in calls] == seeds * 2
    assert found["labels"] == 2


def test_one_trial_has_no_deviation_and_scratch_may_be_another_recipe_or_left_out(calls):
    mine = FineTuning(head_rate=0.5)
    found = run(per_class=1, trials=1, scratch=mine)
    assert found["fine_tuned"]["std"] is None
    assert "ema" not in found["fine_tuned"]
    assert calls[1]["recipe"] is mine
    assert run(per_class=1, trials=1, beside_scratch=False)["from_scratch"] is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "exactly one of `share`, `per_class` and `names`"),
        ({"share": 0.1, "per_class": 1}, "exactly one of"),
        ({"per_class": 200}, "Class 8 has 122 training examples, fewer than the 200 asked for"),
        ({"per_class": 1, "trials": 0}, "`trials` must be above 0"),
        ({"names": ["a"]}, "has no file names"),
    ],
)
def test_impossible_choices_are_refused_before_anything_is_trained(calls, arguments, message):
    with pytest.raises(UserError, match=message):
        run(**arguments)
    assert not calls


def test_pretrained_on_the_same_data_it_beats_scratch():
    """A trunk that has learnt digits with labels, of which the fine-tuning then sees two of each."""
    recipe = FineTuning(steps=80, batch_size=256, head_rate=0.03, head="random")
    learnt = fine_tune(WIDER, None, None, TRAIN, TEST, recipe=recipe)
    assert learnt.accuracy > 0.8
    short = dataclasses.replace(recipe, steps=20, batch_size=16, head="probe", trunk_rate=1e-4, head_rate=1e-3)
    trunk = learnt.params["encoder"], learnt.model_state["encoder"]
    found = semi_supervised(WIDER, *trunk, TRAIN, TEST, per_class=2, recipe=short, trials=1)
    assert found["fine_tuned"]["accuracy"] > found["from_scratch"]["accuracy"] + 0.15


def test_trials_of_all_seeds_have_seeds_of_their_own():
    seeds = {trial_seed(seed, trial) for seed in range(20) for trial in range(20)}
    assert len(seeds) == 400
    assert all(0 <= seed < 2**31 for seed in seeds), "as jax.random.key takes them without 64 bits"
    assert trial_seed(3, 1) == trial_seed(3, 1)


def test_from_scratch_learns_at_the_rate_of_its_optimizer():
    sgd = FineTuning(optimizer="sgd", head_rate=0.5, trunk_rate=2e-4, head="random")
    assert (from_scratch(FineTuning()).head_rate, from_scratch(sgd).head_rate) == (3e-3, 0.1)
    assert from_scratch(sgd, rate=0.05).head_rate == 0.05
    assert from_scratch(sgd).trunk_rate is None
