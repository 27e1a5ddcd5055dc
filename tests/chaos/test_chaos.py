"""The short form of `python -m tests.chaos`: killed while it compiles, saves and evaluates, and the same end."""

import os

import killing


def test_killed_and_the_same_end(tmp_path, monkeypatch):
    monkeypatch.setattr(killing, "MOMENTS", ("compilation", "save"))
    cache = os.environ["JAX_COMPILATION_CACHE_DIR"]
    plan = killing.Plan(steps=60, interval=20, evaluate=50, protocols="knn", cache=cache)
    kills, killed, alone = killing.chaos(plan, tmp_path, 2, 0, lambda text: None)
    assert killed == alone
    assert len(kills) == 2
    assert max(kill.reached - kill.saved for kill in kills) <= plan.interval
    killing.kill_evaluations(plan, tmp_path, 1, 0, lambda text: None)
    rows = killing.evaluate(plan, tmp_path / "killed", tmp_path / "log.txt")
    assert {row["features"] for row in rows} == {"this run", "random encoder", "raw pixels"}
