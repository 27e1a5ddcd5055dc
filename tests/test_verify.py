"""A run made again: the same digests, or the step from which they differ and what may be why."""

import json
import os

import jax
import pytest
import recipes

from ssl_jax import UserError, cli, runtime, workdir
from ssl_jax.digest import digest
from ssl_jax.pretrain import pretrain
from ssl_jax.verify import verify

FIELDS = {"steps": 9, "log_every": 4, "checkpoint_every": 4, "knn_every": -1, "probe": False}  # as in `test_resume`


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    directory = tmp_path_factory.mktemp("verified")
    return directory, pretrain(recipes.config("simclr", **FIELDS), directory, announce=lambda text: None)


def contents(directory) -> dict:
    return {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def change(path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


@pytest.mark.filterwarnings("ignore:the load_module")
def test_the_same_and_not_the_same(run, capsys):
    directory, state = run
    rows = workdir.read_metrics(directory)
    assert [row["step"] for row in rows] == [4, 8, 9]
    assert rows[-1]["digest"] == digest(state)
    assert len({row["digest"] for row in rows}) == 3
    before = contents(directory)
    assert cli.main(["verify", f"--workdir={directory}", "--steps=9"]) == 0
    assert "The same bits after 9 steps (digests compared: 3)." in capsys.readouterr().out
    assert contents(directory) == before
    assert verify(directory).compared == [4]
    with pytest.raises(UserError, match=r"first digest in .* is of step 4; raise --steps"):
        verify(directory, steps=3)

    change(directory / "metrics.jsonl", rows[1]["digest"], "0123456789abcdef")
    with pytest.raises(SystemExit) as end:
        cli.main(["verify", f"--workdir={directory}", "--steps=9"])
    assert end.value.code == 1
    out, err = capsys.readouterr()
    assert "Step 8 differs (equal up to step 4). Versions, devices, flags, commit and data are as they were." in out
    assert "step 9" not in err
    change(directory / "run.json", f'"jax": "{jax.__version__}"', '"jax": "0.0.1"')
    assert verify(directory, steps=8).reasons == [f"versions: jax was 0.0.1, is {jax.__version__}"]
    pretrain(recipes.config("simclr", **FIELDS), directory, announce=lambda text: None)
    continued = workdir.read_run(directory)["continued"]
    assert [(entry["step"], entry["versions"]["jax"]) for entry in continued] == [(9, jax.__version__)]
    pretrain(recipes.config("simclr", **FIELDS), directory, announce=lambda text: None)
    assert workdir.read_run(directory)["continued"] == continued, "only what changes is noted"

    kept = [{key: row[key] for key in row if key != "digest"} for row in rows]
    (directory / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in kept))
    with pytest.raises(UserError, match="has no digests"):
        verify(directory)


def test_deterministic_flags_are_added_once(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_gpu_autotune_level=0 --other")
    for _ in range(2):
        runtime.deterministic()
    assert os.environ["XLA_FLAGS"] == "--xla_gpu_autotune_level=0 --other --xla_gpu_deterministic_ops=true"
