"""Runs that begin with weights of others, and encoders that leave a run: `--config.weights` and `ssl-jax export`."""

import json
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssl_jax import Carry, Method, cli, collapse, interop, nets
from ssl_jax.evaluate import load_run
from ssl_jax.nets.positions import resize
from ssl_jax.warm_start import warm_start

pytestmark = pytest.mark.filterwarnings("ignore:the load_module")  # ml_collections, on reading a config
QUIET = ["--noreport", "--noconfig.probe", "--config.knn_every=-1"]
STEPS = ["--config.steps=3", "--config.checkpoint_every=2", "--config.log_every=1"]
VIT = nets.ViT(patch=4, dim=16, depth=1, heads=2)


def equal(a, b) -> None:
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(np.testing.assert_array_equal, a, b)


def pretrain(workdir: pathlib.Path, *flags: str) -> int:
    return cli.main(["pretrain", "--config=byol:test", f"--workdir={workdir}", *QUIET, *STEPS, *flags])


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A run, and the encoder that was exported from it."""
    place = tmp_path_factory.mktemp("exported")
    assert pretrain(place / "run") == 0
    assert cli.main(["export", f"--workdir={place / 'run'}", f"--out={place / 'deep' / 'a.npz'}"]) == 0
    return place / "run", place / "deep" / "a.npz"


def test_what_leaves_a_run_is_its_encoder(exported, tmp_path, capsys):
    run, file = exported
    state = load_run(run)[1]
    module = nets.create("convnet", widths=(8, 16))
    loaded = interop.load_encoder(file, module, (8, 8, 1))
    equal(loaded, (state.params["encoder"], state.carry.model_state["encoder"]))
    assert cli.main(["export", f"--workdir={run}", f"--out={tmp_path / 'b.npz'}", "--encoder=teacher", "--step=2"]) == 0
    said = capsys.readouterr().err
    assert re.search(
        r"b.npz, under the names of ssl_jax's own\. .* saw 8 x 8 images of 1 channel\(s\), .* mean \(0", said
    )
    teacher, _ = interop.load_encoder(tmp_path / "b.npz", module, (8, 8, 1))
    with pytest.raises(AssertionError):
        equal(teacher, loaded[0])


def test_the_page_reads_it_in_plain_jax(exported, monkeypatch):
    """The block of docs/howto.md, on this run's network."""
    page = (pathlib.Path(__file__).parents[1] / "docs" / "howto.md").read_text()
    block = next(b for b in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "load_encoder" in b)
    monkeypatch.chdir(exported[1].parent)
    names: dict = {}
    exec(block.replace("encoder.npz", "a.npz").replace("(32, 64)", "(8, 16)"), names)
    run, state, _ = load_run(exported[0])
    images = run.source[np.arange(5)]["image"]
    expected = run.method.encode(state.params, state.carry, run.prepare(images))[0]
    found = names["encode"](names["params"], names["model_state"], run.prepare(images))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--workdir=nowhere", "--out=a.npz"], "There is no run in nowhere"),
        (["--workdir=RUN", "--out=a.pth"], "is a pickle"),
        (["--workdir=RUN", "--out=a.npz", "--encoder=tutor"], "value should be one of <student|teacher>"),
        (["--workdir=RUN", "--out=/dev/null/a.npz"], "can't be written to /dev/null/a.npz: "),
        (["--workdir=RUN"], "The flag --out is missing."),
        (["--workdir=RUN", "--out=a.npz", "--layout=onnx"], "value should be one of <file|huggingface>"),
        (["--workdir=RUN", "--out=a.npz", "--layout=huggingface"], "writes a directory, and --out=a.npz is a file"),
        (["--workdir=RUN", "--out=a", "--layout=huggingface", "--own"], "--layout=huggingface needs theirs; leave"),
        (["--workdir=RUN", "--out=a", "--layout=huggingface"], "have no model for this encoder: it is a ConvNet"),
    ],
)
def test_what_cannot_be_exported_is_told_in_a_sentence(exported, capsys, flags, message):
    assert cli.main(["export", *(flag.replace("RUN", str(exported[0])) for flag in flags)]) == 1
    assert message in capsys.readouterr().err


def test_a_vit_leaves_for_timm_and_for_hugging_face(tmp_path, capsys):
    """Also with positions that it computes, as MAE's and MoCo v3's."""
    run, args = tmp_path / "run", "{'patch': 4, 'dim': 16, 'depth': 1, 'heads': 2, 'pos': 'sincos'}"
    assert pretrain(run, "--config.encoder=vit_ti", f"--config.encoder_args={args}") == 0
    for flags, names in (
        ([f"--out={tmp_path / 'a.safetensors'}"], "timm's and DINO's ViT"),
        (["--layout=huggingface", f"--out={tmp_path / 'deep' / 'a'}"], "Hugging Face's ViTModel"),
    ):
        assert cli.main(["export", f"--workdir={run}", *flags]) == 0
        assert f"under the names of {names}. Read again, they give the same features" in capsys.readouterr().err
    params = load_run(run)[1].params["encoder"]
    for file in (tmp_path / "a.safetensors", tmp_path / "deep" / "a" / "model.safetensors"):
        equal(interop.load_encoder(file, VIT.clone(pos="sincos"), (8, 8, 1))[0], params)
    assert json.loads((tmp_path / "deep" / "a" / "config.json").read_text())["num_channels"] == 1


def test_a_run_begins_with_the_weights_and_keeps_them(exported, tmp_path, capsys):
    """The file may vanish, and the run still repeats; what stands beside it in evaluation is a random encoder."""
    run, file = exported[0], tmp_path / "weights.npz"
    file.write_bytes(exported[1].read_bytes())
    workdir = tmp_path / "run"
    assert pretrain(workdir, f"--config.weights={file}") == 0
    assert (workdir / "initial_encoder.npz").read_bytes() == file.read_bytes()
    first, other = (json.loads((d / "metrics.jsonl").read_text().splitlines()[0]) for d in (workdir, run))
    assert first["digest"] != other["digest"]  # all else is the same
    file.unlink()
    capsys.readouterr()
    assert cli.main(["verify", f"--workdir={workdir}"]) == 0
    assert "The same bits after 1 steps" in capsys.readouterr().out
    equal(load_run(workdir)[2].params, load_run(run)[2].params)


def test_weights_that_do_not_fit_stop_a_run_in_a_sentence(exported, tmp_path, capsys):
    assert pretrain(tmp_path / "a", f"--config.weights={tmp_path / 'no.npz'}") == 1
    assert "There is no file of weights" in capsys.readouterr().err
    assert pretrain(tmp_path / "b", f"--config.weights={exported[1]}", "--config.encoder_args.widths=(8,24)") == 1
    assert "are of another shape than the encoder" in capsys.readouterr().err


@pytest.mark.parametrize("teacher", [True, False])
def test_what_the_file_has_not_stays_and_what_has_another_grid_is_fitted(tmp_path, teacher):
    """Weights of 2 x 2 patches for a student of 4 x 4 with a mask token; a frozen teacher is left alone."""
    views = {"views": jnp.zeros((1, 2, 16, 16, 3))}
    student = VIT.clone(mask_token=True)
    mine, fresh = (
        jax.jit(lambda k, module=module, n=n: module.init(k, jnp.zeros((1, n, n, 3)), train=False)["params"])(key)
        for key, module, n in ((jax.random.key(1), VIT, 8), (jax.random.key(2), student, 16))
    )
    interop.save_encoder(tmp_path / "a.npz", VIT, mine, {})
    carry = Carry(model_state={"encoder": {}}, teacher={"params": {"encoder": fresh}, "model_state": {"encoder": {}}})
    made = Method(name="x", init=lambda rng, batch: ({"encoder": fresh}, carry), loss=print, encode=print)
    found, after = warm_start(made, VIT, tmp_path / "a.npz", teacher=teacher).init(jax.random.key(0), views)
    shapes = [jax.tree.map(lambda x: (x.shape, x.dtype), tree) for tree in (found["encoder"], fresh)]
    assert shapes[0] == shapes[1]
    equal(found["encoder"]["block1"], mine["block1"])
    equal(found["encoder"]["mask_token"], fresh["mask_token"])
    np.testing.assert_allclose(found["encoder"]["pos_grid"], resize(mine["pos_grid"], 4, 4))
    equal(after.teacher["params"]["encoder"], found["encoder"] if teacher else fresh)


def test_a_run_may_stop_when_it_looks_collapsed(tmp_path, capsys, monkeypatch):
    """Saved, and after as many lines in a row as was asked for; by default it only warns."""
    monkeypatch.setattr(collapse, "embedding", lambda logged: "all alike")
    assert pretrain(tmp_path / "run", "--config.max_collapsed=2") == 1
    said = capsys.readouterr().err
    assert (
        "Stopped and saved at step 2, after 2 line(s) of progress that looked like a collapse: all alike. Mend" in said
    )
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["2"]
