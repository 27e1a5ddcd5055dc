"""The short form of `python -m tests.chaos`: killed while it saves and while it trains, and the same end."""

import killing


def test_killed_while_it_saves(tmp_path, monkeypatch):
    monkeypatch.setattr(killing, "MOMENTS", ("save",))
    plan = killing.Plan(steps=60, interval=20, evaluate=50)
    kills, killed, alone = killing.chaos(plan, tmp_path, 1, 0, lambda text: None)
    assert killed == alone
    assert len(kills) == 1
    assert kills[0].reached - kills[0].saved <= 2 * plan.interval
