"""The scripts under examples/ run as a user runs them."""

import os
import pathlib
import re
import runpy
import subprocess
import sys

import jax
import numpy as np
import pytest

import ssl_jax
from ssl_jax import experiment
from ssl_jax.configs import simclr

EXAMPLES = pathlib.Path(__file__).parents[1] / "examples"


def block_of_howto(part: str) -> str:
    """The Python of docs/howto.md that has `part` in it."""
    page = (EXAMPLES.parent / "docs" / "howto.md").read_text()
    return next(b for b in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if part in b)


@pytest.mark.parametrize("method", ["simclr", "rotation"])
def test_auxiliary_loss_prints_both_accuracies(method):
    command = [sys.executable, str(EXAMPLES / "auxiliary_loss.py"), f"--method={method}", "--steps=30", "--weight=1"]
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    lines = re.findall(r"^(.*): (\d+\.\d) % of digits's test images$", done.stdout, re.MULTILINE)
    assert [line[0] for line in lines] == ["labels alone", f"labels and 1 x {method}"]
    assert all(float(line[1]) > 30 for line in lines)  # a guess is right in 10 %
    assert lines[0][1] != lines[1][1]


def test_an_unknown_method_is_named():
    command = [sys.executable, str(EXAMPLES / "auxiliary_loss.py"), "--method=simclear"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert "invalid choice: 'simclear' (choose from" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize("method", ["colorization", "cpc", "distillation", "supervised"])
def test_methods_that_do_not_fit_the_example_are_not_offered(method, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["auxiliary_loss.py", f"--method={method}"])
    with pytest.raises(SystemExit):
        runpy.run_path(str(EXAMPLES / "auxiliary_loss.py"), run_name="__main__")
    assert f"invalid choice: '{method}' (choose from" in capsys.readouterr().err


def test_the_method_in_one_file_of_the_documentation_learns(capsys, monkeypatch):
    """As printed in docs/howto.md, but shorter: the loss falls, and the neighbours are right."""
    block = block_of_howto("ssl_jax.Method(")
    losses, train = [], ssl_jax.train

    def fit(*args, **kwargs):
        for last, metrics, _ in train(*args, **kwargs):  # noqa: B007
            losses.append(float(metrics["loss"]))
        return last

    monkeypatch.setattr(ssl_jax, "fit", fit)
    exec(block.replace("steps=60", "steps=12"), {})
    assert re.fullmatch(r"\{20: 0\.9\d+\}\n", capsys.readouterr().out)
    assert losses[-1] < losses[0] - 0.1


def test_the_augmentation_of_the_documentation_is_one(capsys, monkeypatch):
    """As printed in docs/howto.md: turned views, by each example's key alone; and under a name, as is said there."""
    names = {}
    exec(block_of_howto("def views("), names)
    assert capsys.readouterr().out == "(16, 2, 8, 8, 1)\n"
    views, keys, image = jax.jit(names["views"]), names["keys"], names["batch"]["image"]
    made = np.asarray(views(keys, image))
    np.testing.assert_array_equal(views(keys[::-1], image[::-1]), made[::-1])
    names["crops"] = lambda keys, image: np.stack([image, image], axis=1)  # the same without crops
    made = np.asarray(jax.jit(lambda keys: names["views"](keys, image))(keys))
    turned = [np.all(np.rot90(image, k, axes=(1, 2))[:, None] == made, axis=(2, 3, 4)) for k in range(4)]
    assert np.all(np.any(turned, axis=0))
    assert np.all(np.any(turned, axis=(1, 2))), "each turn comes up in 32 views"
    monkeypatch.setattr(ssl_jax.augment, "mine", lambda size, *, mean=None, std=None: names["views"], raising=False)
    monkeypatch.setattr(experiment, "RECIPES", (*experiment.RECIPES, "mine"))
    config = simclr.get_config("test")
    config.augment = "mine"
    config.augment_args = {}
    assert experiment.build_views(config, ssl_jax.data.load("digits")).views is names["views"]
