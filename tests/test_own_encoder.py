"""An encoder in the user's config file, with every command that needs it; and that no workdir has a file run."""

import json
import pathlib

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import pytest

from ssl_jax import UserError, cli, nets, own_encoder, workdir

EXAMPLE = pathlib.Path(__file__).parents[1] / "examples" / "own_encoder.py"
pytestmark = pytest.mark.filterwarnings("ignore:the load_module")  # ml_collections, on reading a config
SHORT = ["--config.steps=2", "--config.log_every=1", "--config.knn_every=-1", "--noconfig.probe", "--noreport"]


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> pathlib.Path:
    directory = tmp_path_factory.mktemp("run")
    cli.run(["pretrain", f"--config={EXAMPLE}:test", f"--workdir={directory}", *SHORT])
    return directory


def test_every_command_with_the_flag(run, tmp_path, capsys):
    record = workdir.read_run(run)
    assert record["config"]["encoder"] == "Patches"
    assert record["encoder_file"]["file"] == str(EXAMPLE)
    given = [f"--workdir={run}", f"--config={EXAMPLE}"]
    cli.run(["embed", *given, "--data=digits", "--split=test[:20]", f"--out={tmp_path / 'features.npz'}"])
    with np.load(tmp_path / "features.npz", allow_pickle=False) as arrays:
        assert arrays["features"].shape == (20, 8)
    cli.run(["export", *given, f"--out={tmp_path / 'encoder.npz'}"])
    cli.run(["verify", *given, "--steps=1"])
    assert "The same bits after 1 steps (digests compared: 1)." in capsys.readouterr().out
    cli.run(["pretrain", f"--config={EXAMPLE}:test", f"--workdir={run}", *SHORT])
    assert "The run is complete" in capsys.readouterr().err
    assert "continued" not in workdir.read_run(run)


@pytest.mark.parametrize("command", ["evaluate", "report", "verify", "embed", "export", "replay"])
def test_without_the_flag_nothing_is_run(run, tmp_path, command, monkeypatch):
    """Whatever a workdir says: a file that it names is not even looked at."""
    trap = tmp_path / "trap.py"
    trap.write_text("raise SystemExit('a file was run that nobody named')\n")
    record = workdir.read_run(run)
    (tmp_path / "run.json").write_text(json.dumps({**record, "encoder_file": {"file": str(trap), "digest": "0"}}))
    for name in ("metrics.jsonl", "checkpoints"):
        (tmp_path / name).symlink_to(run / name)
    (tmp_path / "nonfinite.json").write_text(json.dumps({"checkpoint": 2, "step": 2, "ids": []}))
    monkeypatch.chdir(tmp_path)
    more = {"embed": ["--data=digits", "--out=a.npz"], "export": ["--out=a.npz"]}.get(command, [])
    with pytest.raises(UserError, match=rf"encoder of your own, Patches, .*: add --config={trap}, the file"):
        cli.run([command, f"--workdir={tmp_path}", *more])


def test_files_that_do_not_have_it(tmp_path):
    file = tmp_path / "mine.py"

    def enter(text: str | None = None, encoder: str = "Mine") -> None:
        if text is not None:
            file.write_text(text)
        with own_encoder.known(str(file), encoder):
            nets.create(encoder, dtype=jnp.float32)

    with pytest.raises(UserError, match=r"mine.py can't be read: No such file"):
        enter()
    with pytest.raises(UserError, match=r"no encoder 'Mine': it is none of convnet, .*mine.py has no class"):
        enter("Other = 1")
    with pytest.raises(UserError, match=r"Running .*mine.py failed: ZeroDivisionError"):
        enter("1 / 0")
    with pytest.raises(UserError, match=r"no encoder 'Mine'.*mine.py has no class"):
        enter("Mine = 1")
    with pytest.raises(UserError, match=r'the encoder "Mine" is no flax linen module, but dict'):
        enter("Mine = dict")
    enter("1 / 0", encoder="convnet")  # the library's own: the file is not run
    with pytest.raises(UserError, match='there is no encoder "get_config"'), own_encoder.known("simclr", "get_config"):
        nets.create("get_config")


def test_in_a_script():
    class Tiny(nn.Module):
        width: int = 3

    with nets.own(tiny=Tiny):
        assert nets.create("tiny", width=5, dtype=jnp.float32) == Tiny(5)
        with pytest.raises(UserError, match="no field `dtype`, so it can compute in float32 only"):
            nets.create("tiny", dtype=jnp.bfloat16)
        with pytest.raises(UserError, match='"tiny" cannot be made from'):
            nets.create("tiny", depth=5)
    with pytest.raises(UserError, match='no encoder "tiny": choose one of convnet'):
        nets.create("tiny")
    with pytest.raises(UserError, match="your own can't be called vit_s: the library has one"), nets.own(vit_s=Tiny):
        pass
