"""The scripts under examples/ run as a user runs them."""

import os
import pathlib
import re
import subprocess
import sys

import pytest

import ssl_jax

EXAMPLES = pathlib.Path(__file__).parents[1] / "examples"


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


def test_the_method_in_one_file_of_the_documentation_learns(capsys, monkeypatch):
    """As printed in docs/howto.md, but shorter: the loss falls, and the neighbours are right."""
    page = (EXAMPLES.parent / "docs" / "howto.md").read_text()
    block = next(b for b in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "ssl_jax.Method(" in b)
    losses, train = [], ssl_jax.train

    def fit(*args, **kwargs):
        for last, metrics, _ in train(*args, **kwargs):  # noqa: B007
            losses.append(float(metrics["loss"]))
        return last

    monkeypatch.setattr(ssl_jax, "fit", fit)
    exec(block.replace("steps=60", "steps=12"), {})
    assert re.fullmatch(r"\{20: 0\.9\d+\}\n", capsys.readouterr().out)
    assert losses[-1] < losses[0] - 0.1
