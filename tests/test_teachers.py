"""Teachers from runs and from files, kept with the run that learns from them."""

import pathlib
import shutil

import jax
import numpy as np
import pytest
import recipes
from ml_collections import ConfigDict

from ssl_jax import cli, interop, teachers
from ssl_jax.core import UserError
from ssl_jax.evaluate import load_run
from ssl_jax.evaluation import few_labels
from ssl_jax.experiment import build, load_data
from ssl_jax.pretrain import pretrain

QUIET = {"probe": False, "knn_every": -1, "log_every": 2, "checkpoint_every": 2}


def silent(text: str) -> None:
    pass


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> pathlib.Path:
    """A run of BYOL, which has a teacher itself, with an encoder unlike the student's."""
    directory = tmp_path_factory.mktemp("teacher") / "run"
    config = recipes.config("byol", steps=2, **QUIET)
    config.encoder_args.widths = (8, 12)
    pretrain(config, directory, announce=silent)
    return directory


def asking(arguments: dict | None = None, **fields) -> ConfigDict:
    """The `:test` config with another teacher."""
    config = recipes.config("distillation", steps=4, **QUIET)
    config.method_args.update(arguments or {})
    config.teacher.update({"path": None, **fields})
    return config


def assert_equal(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.mark.parametrize("network", ["student", "teacher"])
def test_a_run_teaches_with_the_weights_of_its_checkpoint(run, network):
    _, state, _ = load_run(run)
    teacher = build(asking(workdir=str(run), network=network)).teacher
    params, statistics = state.params, state.carry.model_state
    if network == "teacher":
        params, statistics = state.carry.teacher["params"], state.carry.teacher["model_state"]
    assert_equal(teacher.variables, {"params": params["encoder"], "model_state": statistics["encoder"]})
    assert teacher.encoder_args == {"widths": (8, 12)}


def test_the_classifier_is_the_one_that_few_labels_are_scored_with(run):
    experiment, state, _ = load_run(run)
    test = load_data(experiment.config, "test")
    head = build(asking({"loss": "soft"}, workdir=str(run), labels_per_class=5)).teacher.head
    train, others = experiment.embed(state, experiment.source), experiment.embed(state, test)
    labels = experiment.source.labels, test.labels
    [expected] = few_labels(train, labels[0], others, labels[1], per_class=5, trials=1)
    accuracy = np.mean((others @ head["kernel"] + head["bias"]).argmax(1) == test.labels)
    assert accuracy == pytest.approx(expected, abs=2 / len(test))
    assert accuracy > 0.3


def test_a_run_goes_on_to_the_same_bits_when_its_teacher_is_gone(run, tmp_path):
    shutil.copytree(run, tmp_path / "teacher")
    config = asking({"loss": "soft"}, workdir=str(tmp_path / "teacher"), labels_per_class=5)
    expected = pretrain(config, tmp_path / "run", announce=silent)
    shutil.rmtree(tmp_path / "teacher")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "4")
    heard = []
    recipes.assert_same_bits(pretrain(config, tmp_path / "run", announce=heard.append), expected)
    assert "step 2" in heard[-1]
    experiment, state, _ = load_run(tmp_path / "run")
    recipes.assert_same_bits(state, expected)
    images = load_data(config, "test")
    assert experiment.embed(state, images, encoder="teacher").shape[1] == 60
    assert experiment.embed(state, images).shape[1] == 80
    with pytest.raises(UserError, match="no run in"):  # what was kept is of another teacher
        build(asking(workdir=str(tmp_path / "teacher")), directory=tmp_path / "run")


def test_weights_of_a_file_may_be_of_another_architecture(tmp_path, run):
    teacher = build(asking(workdir=str(run))).teacher
    for name in ("x.npz", "x.safetensors"):
        path = tmp_path / name
        variables = teacher.variables["params"], teacher.variables["model_state"]
        interop.save_encoder(path, teacher.module(), *variables)
        config = asking(path=str(path), encoder="convnet", encoder_args=ConfigDict({"widths": (8, 12)}))
        assert_equal(build(config).teacher.variables, teacher.variables)


def test_the_teacher_of_the_small_form_knows_digits():
    config = recipes.config("distillation")
    teacher = build(config).teacher
    experiment, test = recipes.experiment("distillation"), load_data(config, "test")
    features = experiment.embed(recipes.initial("distillation"), test, encoder="teacher")
    accuracy = np.mean((features @ teacher.head["kernel"] + teacher.head["bias"]).argmax(1) == test.labels)
    assert accuracy > 0.8


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "A teacher is needed, and one only: `ssl-jax pretrain --config=quickstart --workdir=runs/teacher` trains"),
        ({"path": "a.npz", "workdir": "b"}, "one only"),
        ({"path": "nowhere.npz"}, "There is no file of weights nowhere.npz"),
        ({"path": "~/nowhere.npz"}, f"There is no file of weights {pathlib.Path.home()}/nowhere.npz"),
        ({"workdir": "~/nowhere"}, f"There is no run in {pathlib.Path.home()}/nowhere"),
        ({"path": "model.pth"}, "model.pth is a pickle"),
        ({"path": "package:digits_teacher.npz", "encoder": "resnet18"}, "another shape than the encoder"),
        (
            {
                "path": "package:digits_teacher.npz",
                "encoder_args": ConfigDict({"widths": (8, 17)}),
                "encoder": "convnet",
            },
            r"stage2_conv/kernel gives \[3, 3, 8, 16\], where the encoder has \[3, 3, 8, 17\]",
        ),
        ({"workdir": "nowhere"}, "There is no run in nowhere"),
    ],
)
def test_a_teacher_that_cannot_be_had_is_told_in_a_sentence(fields, message):
    with pytest.raises(UserError, match=message):
        build(asking(**fields))


def test_runs_that_cannot_teach_are_told_in_a_sentence(run, tmp_path):
    with pytest.raises(UserError, match="student or teacher, not 'both'"):
        build(asking(workdir=str(run), network="both"))
    with pytest.raises(UserError, match="no checkpoint of step 7"):
        build(asking(workdir=str(run), step=7))
    config = asking(workdir=str(run))
    config.normalize = "none"
    with pytest.raises(UserError, match=r"config.normalize=data, so the student must see them so too; here it is none"):
        build(config)
    shutil.copytree(run, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    with pytest.raises(UserError, match=r"no checkpoint in .*, so it can't teach"):
        build(asking(workdir=str(tmp_path / "run")))
    student = tmp_path / "student"
    pretrain(recipes.config("simclr", steps=2, **QUIET), student, announce=silent)
    with pytest.raises(UserError, match="does not hold that network"):
        build(asking(workdir=str(student), network="teacher"))


@pytest.mark.filterwarnings("ignore:the load_module")  # ml_collections, on reading a config
def test_the_command_line_takes_a_run_as_teacher_and_says_what_to_type_without_one(run, tmp_path, capsys):
    small = ["--config.data=digits", "--config.batch_size=64", "--config.steps=2", "--config.log_every=2"]
    small += ["--noconfig.probe", "--config.knn_every=-1", "--noreport", "--config.warmup_epochs=0"]
    small += ["--config.encoder_args.widths=(8,16)"]
    command = ["pretrain", "--config=distillation:self", f"--workdir={tmp_path / 'run'}", *small]
    assert cli.main(command) == 1
    assert "--config.teacher.workdir=runs/teacher with this command" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    assert cli.main([*command, "--config.method_args.temperature=0", f"--config.teacher.workdir={run}"]) == 1
    assert "`temperature` must be above 0" in capsys.readouterr().err
    taught = [*command, f"--config.teacher.workdir={run}", "--config.teacher.labels_per_class=5"]
    assert cli.main(taught) == 0
    assert teachers.kept_facts(tmp_path / "run")["asked"]["labels_per_class"] == 5
