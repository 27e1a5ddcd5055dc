"""A collapse is said in words, once at its first sign and again while it lasts."""

import math

import pytest

from ssl_jax import collapse, methods, nets
from ssl_jax.collapse import Alarm


def test_embeddings_that_are_alike_or_on_a_line():
    assert collapse.embedding({"embedding_std": 0.9, "effective_rank": 40.0}) is None
    assert collapse.embedding({}) is None
    assert "nearly alike (embedding_std 0.010" in collapse.embedding({"embedding_std": 0.01, "effective_rank": 40.0})
    assert "on a line (effective_rank 1.20)" in collapse.embedding({"embedding_std": 0.9, "effective_rank": 1.2})


@pytest.mark.parametrize(("loss", "step", "said"), [(2.303, 300, True), (2.303, 100, False), (2.0, 300, False)])
def test_a_loss_at_chance(loss, step, said):
    text = collapse.stuck_at_chance(10)({"loss": loss, "step": step})
    assert (text is not None) == said
    if text:
        assert f"guess among 10 (ln 10 = {math.log(10):.3f})" in text


def test_a_loss_at_a_multiple_of_chance():
    """As SimCLR's with `scale=2.0`; the number of candidates is what the step has logged."""
    warn = collapse.guess_among_candidates(scale=2.0)
    text = warn({"loss": 2 * math.log(31), "step": 300, "candidates": 31.0})
    assert f"guess among 31 (2 ln 31 = {2 * math.log(31):.3f})" in text
    assert warn({"loss": math.log(31), "step": 300, "candidates": 31.0}) is None
    assert warn({"loss": 2 * math.log(31), "step": 300}) is None
    assert warn({"loss": 0.0, "step": 300, "candidates": 1.0}) is None


@pytest.mark.parametrize(
    ("name", "arguments", "chance"),
    [
        ("simclr", {"scale": 2.0}, 2 * math.log(16)),
        ("simclr", {}, math.log(16)),
        ("cpc", {}, math.log(16)),
        ("nnclr", {}, math.log(16)),
        ("moco", {"queue_size": 15}, math.log(16)),
        ("moco_v3", {"temperature": 0.2}, 2 * 2 * 0.2 * math.log(16)),
        ("memory_bank", {"noise": None, "examples": 16}, math.log(16)),
    ],
)
def test_contrastive_methods_tell_a_loss_at_chance(name, arguments, chance):
    """Where all similarities are alike: one of 16 candidates, in the method's own measure of the loss."""
    warn = getattr(methods, name)(nets.ConvNet(widths=(4,), norm="layer"), **arguments).warn
    logged = {"loss": chance, "step": 300, "candidates": 16.0}
    assert "guess among 16 (" in warn(logged)
    assert warn({**logged, "loss": 0.9 * chance}) is None
    assert warn({**logged, "step": 100}) is None


def test_the_first_of_several_signs_is_said():
    first, second = (lambda logged: None), (lambda logged: "second")
    assert collapse.any_of(first, second)({}) == "second"
    assert collapse.any_of(first)({}) is None


def test_alarm_says_it_at_the_first_sign_and_every_ten_lines():
    heard = []
    alarm = Alarm(lambda logged: "all is one" if logged["x"] else None, heard.append)
    for step in range(1, 13):
        alarm.see(step, {"x": 1.0})
    assert heard == [f"Warning: step {step} looks like a collapse: all is one." for step in (1, 11)]
    alarm.see(13, {"x": 0.0})
    alarm.see(14, {"x": 1.0})
    assert len(heard) == 3
