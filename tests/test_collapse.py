"""A collapse is said in words, once at its first sign and again while it lasts."""

import math

import pytest

from ssl_jax import collapse
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
