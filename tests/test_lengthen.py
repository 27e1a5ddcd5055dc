"""A finished run made longer in another workdir: what it begins with, what is recorded, and what kills cost."""

import itertools
import json
import pathlib
import shutil

import jax.numpy as jnp
import pytest
import recipes

from ssl_jax import UserError, cli, lengthen, workdir
from ssl_jax import pretrain as loop
from ssl_jax.evaluate import load_run
from ssl_jax.experiment import build
from ssl_jax.report.page import facts
from ssl_jax.training import fit
from ssl_jax.verify import verify

FIELDS = {"steps": 9, "log_every": 2, "checkpoint_every": 4, "knn_every": -1}  # nearly as in `test_resume`


def pretrain(directory: pathlib.Path, **fields) -> tuple:
    """Run; returns the state and what was announced."""
    heard = []
    return loop.pretrain(recipes.config("simclr", **{**FIELDS, **fields}), directory, announce=heard.append), heard


def contents(directory: pathlib.Path) -> dict:
    return {path: path.read_bytes() for path in directory.rglob("*") if path.is_file() and path.name != ".lock"}


@pytest.fixture(scope="module")
def short(tmp_path_factory) -> pathlib.Path:
    directory = tmp_path_factory.mktemp("short")
    pretrain(directory)
    return directory


@pytest.fixture(scope="module")
def longer(short, tmp_path_factory) -> tuple:
    directory, before = tmp_path_factory.mktemp("long"), contents(short)
    state, heard = pretrain(directory, steps=15, lengthen=str(short))
    assert contents(short) == before, "the shorter run is only read"
    return directory, recipes.bits(state), heard


def test_a_home_directory_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(UserError, match=f"There is no run in {tmp_path}/no-such-run"):
        lengthen.take({"config": {"lengthen": "~/no-such-run"}}, tmp_path / "longer", steps=5)


def test_what_it_is(short, longer):
    """The shorter run's last state, trained with the longer run's schedules from their middle on, made by hand."""
    directory, state, heard = longer
    parts = build(recipes.config("simclr", **{**FIELDS, "steps": 15}))
    _, begun, _ = load_run(short)
    kwargs = {"batch_size": 64, "steps": 15, "state": begun, **parts.parts}
    recipes.assert_same_bits(fit(parts.method, parts.inputs, **kwargs), state)
    last = workdir.read_metrics(short)[-1]["learning_rate"]
    assert f"from step 9 of {short} with the schedules of 15 steps" in heard[-1]
    assert f"was {last:.3g} there and is {float(parts.rate(jnp.asarray(9))):.3g} here" in heard[-1]
    lines = workdir.read_metrics(directory)
    assert [row["step"] for row in lines] == [10, 12, 14, 15]
    assert lines[0]["probe_accuracy"] > 0.15, "the probe goes on, and does not begin anew"


def test_what_the_records_say(short, longer, capsys):
    directory = longer[0]
    record = workdir.read_run(directory)
    assert record["config"]["lengthen"] == str(short)
    assert record["lengthened"]["step"] == 9
    assert record["lengthened"]["run"] == workdir.read_run(short)
    assert ("Goes on from", f"{short}, step 9") in facts(record, workdir.read_metrics(directory), None)
    before = contents(directory)
    assert cli.main(["verify", f"--workdir={directory}", "--steps=15"]) == 0
    said = (
        "The same bits after the steps 10 to 15 (digests compared: 4). Those before are of the run that it lengthens."
    )
    assert said in capsys.readouterr().out
    assert contents(directory) == before


def test_killed_and_killed_again(short, longer, tmp_path, monkeypatch):
    """Once before its first checkpoint, once after it, and the shorter run is gone meanwhile."""
    gone = tmp_path / "short"
    shutil.copytree(short, gone)
    loop_train = loop.train

    def killed_at(step: int):
        def train(*args, **kwargs):
            begun = int(kwargs["state"].step)
            for at, made in zip(itertools.count(begun), loop_train(*args, **kwargs)):
                if at == step:
                    raise RuntimeError("killed")
                yield made

        return train

    said = {}
    for step in (11, 14):
        monkeypatch.setattr(loop, "train", killed_at(step))
        with pytest.raises(RuntimeError, match="killed"):
            pretrain(tmp_path / "long", steps=15, lengthen=str(gone))
        shutil.rmtree(gone, ignore_errors=True)
        said[step] = [row["step"] for row in workdir.read_metrics(tmp_path / "long")]
    assert said == {11: [10], 14: [10, 12, 14]}
    monkeypatch.undo()
    state, heard = pretrain(tmp_path / "long", steps=15, lengthen=str(gone))
    assert heard[-1] == "Going on from the checkpoint of step 12."
    recipes.assert_same_bits(state, longer[1])
    digests = [[row["digest"] for row in workdir.read_metrics(d)] for d in (tmp_path / "long", longer[0])]
    assert digests[0] == digests[1]
    assert verify(tmp_path / "long").differs is None


def test_checkpoints_that_are_gone(longer, tmp_path):
    shutil.copytree(longer[0], tmp_path / "run")
    fields = {"steps": 15, "lengthen": workdir.read_run(longer[0])["config"]["lengthen"]}
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    with pytest.raises(UserError, match="has come to step 15, but its checkpoints are gone"):
        pretrain(tmp_path / "run", **fields)
    shutil.rmtree(tmp_path / "run" / lengthen.FOLDER)
    with pytest.raises(UserError, match="lengthened is gone, the state that the run began with"):
        verify(tmp_path / "run")


def test_in_place_is_told_what_to_do(short):
    with pytest.raises(UserError, match=rf"holds the run with steps=9, .*new --workdir, and --config.lengthen={short}"):
        pretrain(short, steps=15)
    with pytest.raises(UserError, match=r"holds a run with another config \(steps: 9 -> 5\)"):
        pretrain(short, steps=5)
    with pytest.raises(
        UserError, match=r"another config \(optimizer_args.weight_decay: 0.0001 -> 0.5; steps: 9 -> 15\)"
    ):
        pretrain(short, steps=15, optimizer_args={"weight_decay": 0.5})
    before, now = ({"config": {"steps": None, "epochs": epochs}, "data": {"fingerprint": "a"}} for epochs in (100, 200))
    assert "holds the run with epochs=100" in lengthen.instead(short, before, now)
    assert lengthen.instead(short, now, before) is None


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"steps": 15, "seed": 1}, r"can't be lengthened with another config \(seed: 0 -> 1\)"),
        ({"steps": 15, "train_split": "test"}, r"another config \(train_split: train -> test; data: .* -> "),
        ({"steps": 9}, r"has come to step 9, and the longer run would end at step 9: raise --config.epochs"),
        ({"steps": 15, "lengthen": "nowhere"}, r"There is no run in nowhere"),
    ],
)
def test_what_can_not_be_lengthened(short, tmp_path, fields, text):
    with pytest.raises(UserError, match=text):
        pretrain(tmp_path, **{"lengthen": str(short), **fields})
    assert not (tmp_path / "run.json").exists()


def test_runs_without_an_end_to_go_on_from(short, tmp_path):
    record, empty = workdir.read_run(short), tmp_path / "empty"
    record["config"]["lengthen"] = str(short)
    with pytest.raises(UserError, match="is the workdir itself"):
        lengthen.take(record, short, steps=15)
    empty.mkdir()
    (empty / "run.json").write_text(json.dumps(record))
    record["config"]["lengthen"] = str(empty)
    with pytest.raises(UserError, match="empty has no checkpoint to go on from"):
        lengthen.take(record, tmp_path, steps=15)
    record["config"]["rounds"] = 3
    (empty / "run.json").write_text(json.dumps(record))
    with pytest.raises(UserError, match="empty works in 3 rounds of one length"):
        lengthen.take(record, tmp_path, steps=15)


def test_another_rate_from_there_on_and_once_more(longer, tmp_path):
    record = workdir.read_run(longer[0])
    record["config"] |= {"steps": 20, "lengthen": str(longer[0]), "schedule": "constant", "learning_rate": 1e-4}
    taken = lengthen.take(record, tmp_path, steps=20)
    assert (taken["step"], taken["run"]["lengthened"]["step"]) == (15, 9)
    assert taken["learning_rate"] == workdir.read_metrics(longer[0])[-1]["learning_rate"]
    assert [path.name for path in (tmp_path / lengthen.FOLDER).iterdir()] == ["15"]
