"""Runs that begin with weights of others, and encoders that leave a run: `--config.weights` and `ssl-jax export`."""

import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest

from ssl_jax import cli, interop, methods, nets
from ssl_jax.evaluate import load_run
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
    np.testing.assert_allclose(names["encode"](run.prepare(images)), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--workdir=nowhere", "--out=a.npz"], "There is no run in nowhere"),
        (["--workdir=RUN", "--out=a.pth"], "is a pickle"),
        (["--workdir=RUN", "--out=a.npz", "--encoder=tutor"], "value should be one of <student|teacher>"),
        (["--workdir=RUN", "--out=/dev/null/a.npz"], "can't be written to /dev/null/a.npz: Not a directory"),
        (["--workdir=RUN"], "The flag --out is missing."),
    ],
)
def test_what_cannot_be_exported_is_told_in_a_sentence(exported, capsys, flags, message):
    assert cli.main(["export", *(flag.replace("RUN", str(exported[0])) for flag in flags)]) == 1
    assert message in capsys.readouterr().err


def test_a_run_begins_with_the_weights_and_keeps_them(exported, tmp_path, capsys):
    """The file may vanish: the run goes on, and repeats; what stands beside it in evaluation is a random encoder."""
    file = tmp_path / "weights.npz"
    file.write_bytes(exported[1].read_bytes())
    workdir, flags = tmp_path / "run", [f"--config.weights={file}", "--config.learning_rate=0.0"]
    assert pretrain(workdir, *flags, "--config.optimizer=sgd") == 0
    _, state, fresh = load_run(workdir)
    loaded, _ = interop.load_encoder(file, nets.create("convnet", widths=(8, 16)), (8, 8, 1))
    equal(state.params["encoder"], loaded)  # a rate of 0 leaves them as they were
    equal(state.carry.teacher["params"]["encoder"], loaded)
    with pytest.raises(AssertionError):
        equal(fresh.params["encoder"], loaded)
    file.unlink()
    capsys.readouterr()
    assert cli.main(["verify", f"--workdir={workdir}"]) == 0
    assert "The same bits after 1 steps" in capsys.readouterr().out


def test_weights_that_do_not_fit_stop_a_run_in_a_sentence(exported, tmp_path, capsys):
    assert pretrain(tmp_path / "a", f"--config.weights={tmp_path / 'no.npz'}") == 1
    assert "There is no file of weights" in capsys.readouterr().err
    assert pretrain(tmp_path / "b", f"--config.weights={exported[1]}", "--config.encoder_args.widths=(8,24)") == 1
    assert "are of another shape than the encoder" in capsys.readouterr().err


def test_positions_get_the_grid_of_the_views_and_mask_tokens_stay(tmp_path):
    """Weights of 2 x 2 patches, for iBOT on 4 x 4."""
    params = VIT.init(jax.random.key(1), jnp.zeros((1, 8, 8, 3)), train=False)["params"]
    interop.save_encoder(tmp_path / "a.npz", VIT, params, {})
    method = methods.ibot(VIT, prototypes=8, hidden=8, bottleneck=8)
    batch = {"views": (jnp.zeros((2, 2, 16, 16, 3)), jnp.zeros((2, 2, 8, 8, 3)))}
    fresh, _ = jax.eval_shape(method.init, jax.random.key(0), batch)
    found, carry = jax.jit(warm_start(method, VIT, tmp_path / "a.npz").init)(jax.random.key(0), batch)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), found) == jax.tree.map(lambda x: (x.shape, x.dtype), fresh)
    np.testing.assert_array_equal(found["encoder"]["patch_kernel"], params["patch_kernel"])
    np.testing.assert_array_equal(carry.teacher["params"]["encoder"]["cls"], params["cls"])
    assert "mask_token" in found["encoder"]


def test_a_frozen_teacher_is_left_alone(tmp_path):
    module = nets.ConvNet((2, 3))
    variables = {seed: module.init(jax.random.key(seed), jnp.zeros((2, 8, 8, 1)), train=True) for seed in (1, 2)}
    own, frozen = ((v["params"], {"batch_stats": v["batch_stats"]}) for v in variables.values())
    interop.save_encoder(tmp_path / "a.npz", module, *own)
    teacher = {"params": frozen[0], "model_state": frozen[1]}
    method = methods.distillation(module, teacher=module, variables=teacher, loss="features")
    begin = warm_start(method, module, tmp_path / "a.npz", teacher=False).init
    params, carry = begin(jax.random.key(0), {"views": jnp.zeros((2, 1, 8, 8, 1))})
    equal(params["encoder"], own[0])
    equal(carry.teacher["params"]["encoder"], frozen[0])


def test_a_run_may_stop_when_it_looks_collapsed(tmp_path, capsys):
    """Images that are all alike are embedded alike: the run is saved and stopped."""
    for i in range(80):
        PIL.Image.new("L", (8, 8), 128).save(tmp_path / f"{i}.png")
    flags = [f"--config.data=folder:{tmp_path}", "--config.image_size=8", "--config.augment_args.strength=0.0"]
    flags += ["--config.batch_size=16", "--config.learning_rate=0.2"]
    assert pretrain(tmp_path / "run", *flags, "--config.max_collapsed=2") == 1
    said = capsys.readouterr().err
    assert "Warning: adamw with a learning rate of 0.2 will hardly train" in said
    assert "Stopped and saved at step 2, after 2 line(s) of progress that looked like a collapse: all images" in said
    assert load_run(tmp_path / "run")[1].step == 2
