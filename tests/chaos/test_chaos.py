"""The short form of `python -m tests.chaos`: killed while it saves and while it trains, and the same end."""

import killing


def test_killed_twice(tmp_path, monkeypatch):
    monkeypatch.setattr(killing, "MOMENTS", ("save", "training"))
    plan = killing.Plan(steps=100, interval=20, evaluate=30)
    kills, killed, alone = killing.chaos(plan, tmp_path, 2, 0, lambda text: None)
    assert killed == alone
    assert len(kills) == 2
    assert all(kill.reached - kill.saved <= 2 * plan.interval for kill in kills)
    assert kills[1].resumed >= kills[0].saved
