"""The command line as users run it: processes of their own, on one device."""

import json
import os
import pathlib
import re
import signal
import subprocess
import sys

import numpy as np
import pytest
import recipes
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ssl_jax import cli, methods
from ssl_jax.evaluate import load_run

DOCUMENT = "<!doctype html>"


def start(*argv: str, devices: int = 1) -> subprocess.Popen:
    """Begin `python -m ssl_jax`, on one device as on a plain machine, or on several."""
    flags = os.environ["XLA_FLAGS"].replace("device_count=8", f"device_count={devices}")
    environment = {**os.environ, "XLA_FLAGS": flags}
    command = [sys.executable, "-m", "ssl_jax", *argv]
    return subprocess.Popen(command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def run(*argv: str, status: int = 0, devices: int = 1) -> tuple[str, str]:
    """Run to the end; returns standard output and standard error."""
    process = start(*argv, devices=devices)
    out, err = process.communicate(timeout=300)
    assert process.returncode == status, err
    assert "Traceback" not in err
    return out, err


def pretrain(workdir: pathlib.Path, *flags: str, config: str = "quickstart:test") -> list[str]:
    return ["pretrain", f"--config={config}", f"--workdir={workdir}", *flags]


def metrics(workdir: pathlib.Path) -> list[dict]:
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture
def photos(tmp_path) -> pathlib.Path:
    """Colour images of two classes, larger than the run's, and one that is damaged."""
    for i, pixels in enumerate(np.random.default_rng(0).integers(0, 256, (20, 14, 17, 3), np.uint8)):
        path = tmp_path / "photos" / ("cat" if i % 2 else "dog") / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    (tmp_path / "photos" / "cat" / "damaged.png").write_text("no image")
    return tmp_path / "photos"


def test_from_pretraining_to_features(tmp_path, photos):
    """The commands of the README, one after the other, on a config of one's own."""
    workdir = tmp_path / "run"
    recipe = tmp_path / "mine.py"
    recipe.write_text(
        "from ssl_jax.configs import quickstart\n\n\ndef get_config(arg=''):\n    return quickstart.get_config(arg)\n"
    )
    flags = ["--config.encoder_args.widths=(8,24)", "--config.steps=16", "--config.batch_size=32", "--noreport"]
    out, err = run(*pretrain(workdir, *flags, config=f"{recipe}:test"))
    assert not out
    assert re.search(r"step 10/16  loss \d\.\d{4}  [\d,]+ images/s  ETA \d:\d\d  std .* rank .* probe .* %", err)
    assert f"Next: ssl-jax evaluate --workdir={workdir}" in err
    record = json.loads((workdir / "run.json").read_text())
    assert record["config"]["encoder_args"]["widths"] == [8, 24]
    assert (record["config"]["steps"], record["config"]["batch_size"]) == (16, 32)
    assert record["command"][:2] == ["ssl-jax", "pretrain"]
    assert [row["step"] for row in metrics(workdir)] == [10, 16]

    _, err = run(*pretrain(workdir, *flags, config=f"{recipe}:test"))
    assert "The run is complete" in err
    assert [row["step"] for row in metrics(workdir)] == [10, 16]

    out, err = run("evaluate", f"--workdir={workdir}", "--labels=1,10", "--trials=2", "--k=5,20")
    header, *rows = out.splitlines()
    assert header.split("  ")[-1].strip() == "raw pixels"
    assert [re.split(r"  +", row)[0] for row in rows] == [
        "k-NN, k = 5",
        "k-NN, k = 20",
        "linear",
        "linear, 1 label per class",
        "linear, 10 labels per class",
    ]
    evaluation = json.loads((workdir / "evaluation.json").read_text())
    kinds = {row["features"] for row in evaluation["results"]}
    assert kinds == {"this run", "random encoder", "raw pixels"}
    assert len(evaluation["results"]) == 15
    for row in evaluation["results"]:
        assert 0.1 < row["value"] <= 1
        assert f"{100 * row['value']:.2f}" in out
    report = (workdir / "report.html").read_text()
    assert DOCUMENT in report.lower()
    assert "random encoder" in report

    features = tmp_path / "deep" / "features.npz"
    for i, path in enumerate(sorted(photos.glob("*/*.png"))):
        part = tmp_path / "parts" / ("train", "val", "test")[i % 3] / path.parent.name
        part.mkdir(parents=True, exist_ok=True)
        path.rename(part / path.name)
    _, err = run("embed", f"--workdir={workdir}", f"--data=folder:{tmp_path / 'parts'}", f"--out={features}")
    assert re.search("skipped 1 of .* files .*damaged.png", err)
    with np.load(features) as found:
        assert found["features"].shape == (20, 24 * 5)
        assert found["features"].dtype == np.float32
        assert np.isfinite(found["features"]).all()
        classes = found["classes"][found["labels"]]
        assert list(found["classes"]) == ["cat", "dog"]
        assert {name.split("/")[0] for name in found["names"]} == {"cat", "dog"}
        assert all(name.startswith(label + "/") for name, label in zip(found["names"], classes, strict=True))
        assert len(set(found["names"])) == 20


def test_methods_and_help():
    out, _ = run("methods")
    for name in methods.__all__:
        assert re.search(rf"^{name} ", out, re.MULTILINE)
    out, _ = run("--help")
    assert all(f"ssl-jax {command} " in out or f"ssl-jax {command}\n" in out for command in cli.COMMANDS)
    assert "quickstart" in out
    out, _ = run("evaluate", "--help")
    assert "--protocol" in out


def stop_at(process: subprocess.Popen, pattern: str, number: signal.Signals) -> str:
    """Send a signal as soon as a line on standard error matches; returns all that was said."""
    said = []
    for line in process.stderr:
        said.append(line)
        if re.search(pattern, line):
            process.send_signal(number)
            break
    rest = process.communicate(timeout=120)[1]
    return "".join(said) + rest


def test_stopped_run_goes_on_to_the_same_bits(tmp_path):
    """SIGTERM, then SIGINT, then to the end: state, metrics and TensorBoard are those of a run left alone.

    With the state split over two devices (fsdp, and the rule splits what is too small for it); `test_resume` and
    `test_conformance` have it whole.
    """
    flags = ["--config.steps=300", "--config.log_every=20", "--config.checkpoint_every=200", "--noreport"]
    flags += ["--config.sharding=fsdp", "--config.sharding_rules=(('.','largest'),)"]
    alone, stopped = tmp_path / "alone", tmp_path / "stopped"
    steps = []
    for number, status in ((signal.SIGTERM, 143), (signal.SIGINT, 130)):
        process = start(*pretrain(stopped, *flags), devices=2)
        said = stop_at(process, r"^step ", number)
        assert process.returncode == status, said
        assert "Traceback" not in said
        step = int(re.search(r"Stopped at step ([\d,]+) and saved. The same command goes on", said)[1].replace(",", ""))
        steps.append(step)
        assert (stopped / "checkpoints" / str(step)).is_dir()
    assert 0 < steps[0] < steps[1] < 300
    _, err = run(*pretrain(stopped, *flags), devices=2)
    assert "on 2 cpu device(s)" in err
    assert f"Going on from the checkpoint of step {steps[1]:,}" in err
    run(*pretrain(alone, *flags), devices=2)
    clocks = ("time", "images_per_second", "data_wait")
    rows = [[{k: row[k] for k in row if k not in clocks} for row in metrics(d)] for d in (alone, stopped)]
    assert rows[0] == rows[1]
    assert [row["step"] for row in rows[0]] == list(range(20, 301, 20))
    recipes.assert_same_bits(*(load_run(directory, step=300)[1] for directory in (alone, stopped)))
    assert scalars(stopped) == {
        name: [(row["step"], pytest.approx(row[name], rel=1e-6)) for row in metrics(stopped) if name in row]
        for name in {key for row in metrics(stopped) for key in row} - {"step", "time", "digest"}
    }


def scalars(workdir: pathlib.Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard shows."""
    board = EventAccumulator(str(workdir / "tensorboard"))
    board.Reload()
    return {name: [(event.step, event.value) for event in board.Scalars(name)] for name in board.Tags()["scalars"]}
