"""Bad input: one clear sentence, exit status 1, no traceback, and nothing lost."""

import hashlib
import pathlib
import re
import shutil
import signal

import jax
import numpy as np
import pytest
from absl import logging
from PIL import Image

from ssl_jax import cli, methods

pytestmark = pytest.mark.filterwarnings("ignore:the load_module")  # ml_collections, on reading a config
QUIET = ["--noreport", "--noconfig.probe", "--config.knn_every=-1"]


def sentence(capsys, *argv: str) -> str:
    """Run a command that must fail, and return what it says."""
    capsys.readouterr()
    assert cli.main(list(argv)) == 1
    out, err = capsys.readouterr()
    assert not out
    assert "Traceback" not in err
    last = err.splitlines()[-1]
    assert re.fullmatch(r"ssl-jax: \S.{10,}[.?]", last), last
    return last


def pretrain(workdir: pathlib.Path, *flags: str, config: str = "simclr:test") -> list[str]:
    return ["pretrain", f"--config={config}", f"--workdir={workdir}", *QUIET, *flags]


def contents(directory: pathlib.Path) -> dict[str, str]:
    """Hash of every file."""
    files = (path for path in directory.rglob("*") if path.is_file())
    return {str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> pathlib.Path:
    workdir = tmp_path_factory.mktemp("trained") / "run"
    assert cli.main(pretrain(workdir, "--config.steps=4", "--config.checkpoint_every=2")) == 0
    return workdir


CONFIG = {
    "misspelt field": (["--config.batch_sise=32"], "no field 'batch_sise'. Did you mean 'batch_size'?"),
    "misspelt nested field": (
        ["--config.optimizer_args.weight_decy=0"],
        "no field 'weight_decy' in 'optimizer_args'. Did you mean 'weight_decay'?",
    ),
    "an argument that is not there, from the inside": (
        ["--config.optimizer_args.groups.encoder.rate_scale=0.0"],
        "no optimizer_args.groups; give it whole: --config.optimizer_args.groups=\"{'encoder': {'rate_scale': VALUE}",
    ),
    "misspelt switch": (["--noconfig.prob"], "Did you mean 'probe'?"),
    "unlike any field": (["--config.zzz=1"], "There is accumulate, augment, augment_args"),
    "word for a number": (["--config.batch_size=many"], "--config.batch_size=many is not a whole number."),
    "fraction for a whole number": (["--config.steps=1.5"], "--config.steps=1.5 is not a whole number."),
    "words in a tuple": (
        ["--config.encoder_args.widths=(8,many)"],
        "--config.encoder_args.widths takes items of type int",
    ),
    "method": (
        ["--config.method=simclir"],
        f"Unknown method 'simclir'; there is {', '.join(sorted(methods.__all__))}. Did you mean 'simclr'?",
    ),
    "encoder": (["--config.encoder=resnet19"], "resnet18"),
    "augmentation": (["--config.augment=simclar"], "Unknown augmentation 'simclar'; there is bownet, byol"),
    "optimizer": (["--config.optimizer=adamax"], "adamw"),
    "dtype": (["--config.dtype=float16"], "there is bfloat16, float32"),
    "data": (["--config.data=digit"], "fashion_mnist, digits, photos, folder:PATH, tar:PATTERN, tfds:NAME, hf:PATH"),
    "split": (["--config.train_split=training"], "has no split 'training'; it has train, test"),
    "normalization": (["--config.normalize=imagenet"], "--config.normalize=data"),
    "missing directory": (["--config.data=folder:/no/such/place"], "no directory /no/such/place"),
    "batch above the data": (["--config.batch_size=4096"], "4096 is larger than the data (1260 images)"),
    "batch for other devices": (["--config.batch_size=60"], "not divisible by the 8 devices; use for example 56 or 64"),
    "batch of nothing": (["--config.batch_size=0"], "`batch_size` must be above 0"),
    "never a line": (["--config.log_every=0"], "`log_every` must be above 0"),
    "word for a fraction": (["--config.learning_rate=high"], "--config.learning_rate=high is not a number."),
    "form of the loss": (["--config.method_args.form=rings"], "`form` is one of auto, dense, tiled, ring, not 'rings'"),
    "mesh that does not fit": (["--config.model_parallel=3"], "model axis of 3 does not fit 8 device(s)"),
    "mesh of nothing": (["--config.model_parallel=0"], "model axis of 0 does not fit 8 device(s)"),
    "sharding": (["--config.sharding=zero"], "config.sharding is replicated or fsdp, not 'zero'"),
    "sharding rule": (["--config.sharding_rules=(('queue','rows'),)"], "A sharding rule is (pattern, spec)"),
    "sharding rule for nothing": (["--config.sharding_rules=(('quue',('data',)),)"], "'quue' is for no array"),
    "blocks that are not there": (["--config.remat=blocks"], "convnet has no blocks to compute again"),
    "micro-batches of unequal size": (["--config.micro_batches=3"], "3 micro-batches on 8 device(s)"),
    "micro-batches of nothing": (["--config.micro_batches=0"], "`micro_batches` must be above 0"),
    "accumulation": (["--config.micro_batches=2", "--config.accumulate=yes"], "--config.accumulate=forced"),
    "no steps": (["--config.steps=0"], "0 steps"),
    "view above the image": (["--config.view_size=32"], "8 x 8, smaller than the view of 32 pixels"),
    "length that is no number": (["--config.epochs=inf"], "`epochs` must be a finite number"),
    "seed below 0": (["--config.seed=-1"], "`seed` must be 0 or above, but is -1"),
    "negative view": (["--config.view_size=-4"], "`view_size` must be 0 or above, but is -4"),
    "negative image": (["--config.image_size=-5"], "`image_size` must be 0 or above, but is -5"),
    "negative warm-up": (["--config.warmup_epochs=-1"], "`warmup_epochs` must be 0 or above, but is -1.0"),
    "groups without quotes": (
        ["--config.optimizer_args.groups={encoder:{rate_scale:0.1}}"],
        "`optimizer_args.groups` is a dict of dicts, on the command line in quotes",
    ),
    "rounds of a method without": (["--config.rounds=3"], "simclr does not work in rounds"),
    "given twice": (
        ["--config.data=tar:shards/0.tar", "--config.data=tar:shards/1.tar"],
        "--config.data is given twice, as 'tar:shards/0.tar' and as 'tar:shards/1.tar'; give it once",
    ),
    "encoder that has not the recipe's fields": (
        ["--config.encoder=resnet18"],
        "'widths'; config.encoder_args are fields of resnet18",
    ),
    "field that an encoder's name sets": (
        ["--config.encoder=resnet18", "--config.encoder_args={'depth':50}"],
        "unexpected keyword argument 'depth'; config.encoder_args are fields of resnet18",
    ),
    "weights in the home directory": (["--config.weights=~/no-such-weights.npz"], "{home}/no-such-weights.npz"),
    "unknown flag": (["--wrokdir=x"], "Did you mean"),
    "stray word": (["now"], "'now'"),
}


@pytest.mark.parametrize(("flags", "said"), CONFIG.values(), ids=CONFIG)
def test_config(capsys, tmp_path, flags, said):
    said = said.replace("{home}", str(pathlib.Path.home()))
    assert said in sentence(capsys, *pretrain(tmp_path / "run", *flags))
    assert not (tmp_path / "run").exists()


COMMANDS = {
    "command": (
        ["pretain"],
        "Unknown command 'pretain'; there is pretrain, plan, evaluate, embed, export, report, verify, replay, data, "
        "methods. Did you mean 'pretrain'?",
    ),
    "config": (["pretrain", "--config=simclar:test", "--workdir=x"], "Did you mean 'simclr'?"),
    "config after a space": (["pretrain", "--config", "simclar:test", "--workdir=x"], "Did you mean 'simclr'?"),
    "variant": (["pretrain", "--config=simclr:tset", "--workdir=x"], "unknown variant 'tset'; this config has"),
    "config file": (["pretrain", "--config=nowhere/x.py", "--workdir=x"], "no config file 'nowhere/x.py'"),
    "config file that is none": (["pretrain", "--config=/etc/hostname", "--workdir=x"], "Config hostname: "),
    "no config": (["pretrain", "--workdir=x"], "--config is missing"),
    "no workdir": (["pretrain", "--config=simclr:test"], "--workdir is missing"),
    "no run": (["evaluate", "--workdir=nowhere"], "There is no run in nowhere"),
    "no run to embed": (["embed", "--workdir=nowhere", "--data=digits", "--out=x.npz"], "There is no run in nowhere"),
    "no run to verify": (["verify", "--workdir=nowhere"], "There is no run in nowhere"),
    "no run to replay": (["replay", "--workdir=nowhere"], "No run in nowhere was stopped"),
    "no run to report": (["report", "--workdir=nowhere"], "There is no run in nowhere"),
}


@pytest.mark.parametrize(("argv", "said"), COMMANDS.values(), ids=COMMANDS)
def test_command(capsys, tmp_path, monkeypatch, argv, said):
    monkeypatch.chdir(tmp_path)
    assert said in sentence(capsys, *argv)
    assert not list(tmp_path.iterdir())


AFTERWARDS = {
    "protocol": (["evaluate", "--protocol=knnn"], "Unknown protocol 'knnn'; there is augmented, curve"),
    "no protocol": (["evaluate", "--protocol="], "No protocol is named; there is knn, linear"),
    "seed below 0": (["evaluate", "--seed=-1"], "--seed"),
    "teacher of a method without": (["evaluate", "--encoder=teacher"], "keeps no teacher"),
    "encoder": (["evaluate", "--encoder=mean"], "'student' or 'teacher', not 'mean'"),
    "step": (["evaluate", "--step=3"], "no checkpoint of step 3; there are [2, 4]"),
    "layer": (["evaluate", "--layer=stage9"], "no layer 'stage9'; it has pooled, stage1, stage2"),
    "neighbours": (["evaluate", "--k=few"], "--k takes whole numbers"),
    "no neighbours": (["evaluate", "--k=0"], "k-NN needs 1 <= k <= 1260"),
    "data to embed": (["embed", "--data=digit", "--out=x.npz"], "there is no data 'digit'"),
    "data to embed in another place": (
        ["embed", "--data=tfds:pets", "--data_dir=nowhere", "--out=x.npz"],
        "tfds:pets is not prepared in nowhere (data_dir or TFDS_DATA_DIR name another place)",
    ),
    "place of the features": (["embed", "--data=digits", "--out=/dev/full"], "No space left on device"),
    "step of the report": (["report", "--step=3"], "no checkpoint of step 3; there are [2, 4]"),
}


@pytest.mark.parametrize(("argv", "said"), AFTERWARDS.values(), ids=AFTERWARDS)
def test_trained_run(capsys, trained, argv, said):
    before = contents(trained)
    assert said in sentence(capsys, argv[0], f"--workdir={trained}", *argv[1:])
    assert contents(trained) == before


def test_workdir_of_another_config(capsys, trained):
    before = contents(trained)
    said = sentence(capsys, *pretrain(trained, "--config.steps=4", "--config.learning_rate=0.5"))
    assert "another config (checkpoint" not in said
    assert "learning_rate: 0.001 -> 0.5" in said
    assert contents(trained) == before


def test_workdir_that_is_a_file(capsys, tmp_path):
    (tmp_path / "run").write_text("mine")
    assert "can't be written" in sentence(capsys, *pretrain(tmp_path / "run"))
    assert (tmp_path / "run").read_text() == "mine"


def test_failed_start_does_not_claim_the_workdir(capsys, tmp_path):
    """Pooling over more cells than the map has is found while the network is built, after the workdir is opened."""
    assert "pool" in sentence(
        capsys, *pretrain(tmp_path, "--config.encoder_args.widths=(4,4,4,4,4)", "--config.steps=1")
    )
    assert cli.main(pretrain(tmp_path, "--config.steps=1")) == 0


def test_updates_that_are_not_finite(capsys, tmp_path):
    """No step is applied: what is kept is the state that the run began with, and the replay says what overflows."""
    wild = ["--config.optimizer=sgd", "--config.steps=40", "--config.checkpoint_every=5", "--config.learning_rate=1e38"]
    said = sentence(capsys, *pretrain(tmp_path, *wild))
    assert "The steps 1 to 10 were not applied, 10 in a row" in said
    assert "learning_rate" in said
    assert sorted(int(path.name) for path in (tmp_path / "checkpoints").iterdir()) == [5, 10]
    assert cli.main(["replay", f"--workdir={tmp_path}"]) == 0
    out = capsys.readouterr().out
    assert re.search(
        r"Not finite:\n(  update .* values\n)*  norm of the new params: inf\nImages \(rows of the data\): \d", out
    )


def test_disk_that_is_full(capsys, trained, tmp_path, monkeypatch):
    """No room for the third checkpoint: the two before it stay, and with room the run goes on."""
    flags = ["--config.steps=6", "--config.checkpoint_every=2"]
    room, asked = shutil.disk_usage(tmp_path), []

    def usage(path):
        asked.append(path)
        return room._replace(free=room.free if len(asked) < 3 else 1000)

    monkeypatch.setattr(shutil, "disk_usage", usage)
    said = sentence(capsys, *pretrain(tmp_path, *flags))
    assert "No space left on device. The last good checkpoint is of step 4." in said
    monkeypatch.undo()
    assert cli.main(pretrain(tmp_path, *flags)) == 0
    assert "Going on from the checkpoint of step 4" in capsys.readouterr().err


def test_checkpoints_that_are_gone(capsys, trained, tmp_path):
    """Evaluation says so, and pretraining does not start anew over what is left of the run."""
    workdir = tmp_path / "run"
    shutil.copytree(trained, workdir)
    shutil.rmtree(workdir / "checkpoints")
    before = contents(workdir)
    again = pretrain(workdir, "--config.steps=4", "--config.checkpoint_every=2")
    for argv in (["evaluate", f"--workdir={workdir}"], again):
        assert "gone" in sentence(capsys, *argv)
        assert contents(workdir) == before


@pytest.fixture
def photos(tmp_path) -> pathlib.Path:
    """Forty images without labels."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for i, pixels in enumerate(np.random.default_rng(0).integers(0, 256, (40, 12, 12, 3), np.uint8)):
        Image.fromarray(pixels).save(folder / f"{i}.png")
    return folder


def on_photos(workdir: pathlib.Path, folder: pathlib.Path, *flags: str) -> list[str]:
    return pretrain(workdir, f"--config.data=folder:{folder}", "--config.steps=2", "--config.batch_size=16", *flags)


def test_files_that_are_no_images_are_skipped_with_a_count(capsys, photos, tmp_path):
    whole = (photos / "0.png").read_bytes()
    for i in range(40):  # more than fit into the test split, so that some are met in training
        (photos / f"cut{i}.png").write_bytes(whole[: len(whole) // 2])
    (photos / "text.jpg").write_text("no image")
    said = sentence(capsys, *on_photos(tmp_path / "run", photos))
    assert re.search(
        r"(\d\d) of the \d\d images .* are damaged, more than the share of 0.01 .* cut\d+.png \(truncated\)", said
    )
    assert cli.main(on_photos(tmp_path / "run", photos, "--config.max_damaged=0.6")) == 0
    told = capsys.readouterr().err
    assert re.search(r"skipped 1 of \d+ files .* text.jpg", told)
    assert re.search(r"skipped \d\d of \d+ files", told)
    for path in photos.iterdir():
        path.write_text("no image")
    assert "is a readable image" in sentence(capsys, *on_photos(tmp_path / "other", photos))


def test_folder_without_images(capsys, photos, tmp_path):
    shutil.rmtree(photos)
    photos.mkdir()
    assert "holds no image file" in sentence(capsys, *on_photos(tmp_path / "run", photos))


def test_evaluation_without_labels(capsys, photos, tmp_path):
    workdir = tmp_path / "run"
    assert cli.main(on_photos(workdir, photos)) == 0
    said = sentence(capsys, "evaluate", f"--workdir={workdir}")
    assert "has no labels" in said
    assert "one sub-directory per class" in said


def test_main_leaves_no_settings_behind(trained):
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs", "jax_enable_x64")
    signals = (signal.SIGINT, signal.SIGTERM)
    state = lambda: (  # noqa: E731
        [getattr(jax.config, name) for name in names],
        [signal.getsignal(number) for number in signals],
        logging.get_verbosity(),
    )
    before = state()
    assert cli.main(pretrain(trained, "--config.steps=4", "--config.checkpoint_every=2")) == 0
    assert cli.main(["report", "--workdir=nowhere"]) == 1
    assert state() == before
