"""`benchmarks.gpu` without a GPU: workers take turns, records grow, the page says what they say and no more."""

import json
import os
import pathlib
import re
import shutil
import subprocess

import numpy as np
import pytest

from benchmarks.gpu import page, record, turns
from benchmarks.gpu.record import Clock, Record

ROOT = pathlib.Path(__file__).parents[1]
MACHINE = {
    "cores": 16,
    "driver": "580.1",
    "date": "2026-01-02",
    "versions": {"python": "3.12.3", "jax": "0.11.2"},
    "tiny": False,
}
CARD = {"device": "NVIDIA H100 80GB HBM3", "platform": "gpu"}


CASE = {"network": "resnet50", "batch": 128, "size": 224, "dtype": "bfloat16", "views": "made"}
HERE = ("machine", "ntxent", "augmentation", "equality")  # parts that measure in their own process


def side(step_s, **more):
    facts = {"compile_s": 61.2, "parameters": 27_970_000, "peak_bytes": 3 * 2**30, "fastest_s": step_s, **CARD}
    return {**facts, "slowest_s": 2 * step_s, "step_s": step_s, "in_turns": True, **more}


def tried(rows, form, tile=None, **figures):
    return {"rows": rows, "form": form, "tile": tile, "dtype": "float32", **figures}


def records():
    """Constructed ones, of every part."""
    ours, theirs = side(0.1, flops=9.89e12), side(0.15, loss_from="lightly")
    full = {"failed": "OutOfMemoryError: no room"}
    off = {"loss_off": 2e-7, "gradient_off": 3e-3, "loss_tolerance": 1e-5, "gradient_tolerance": 1e-4}
    rows = {
        "machine": [{"ceiling": "product of bfloat16", "flops": 494.5e12}, {"ceiling": "copy", "bytes": 3e12}],
        "steps": [
            {**CASE, "sides": {"ssl_jax": ours, "torch": theirs}},
            {**CASE, "batch": 512, "sides": {"ssl_jax": ours, "torch": full}},
        ],
        "ntxent": [
            tried(8192, "dense", s=0.004, temporary_bytes=2**29, over_dense=1.0),
            tried(8192, "tiled", 1024, s=0.003, temporary_bytes=2**25, over_dense=0.75),
            tried(131072, "dense", failed="does not fit into memory"),
        ],
        "augmentation": [
            {"recipe": "simclr", "batch": 256, "size": 224, "views": 2, "s": 0.064},
            *(
                {**CASE, "views": kind, "sides": {"ssl_jax": side(s)}}
                for kind, s in (("made", 0.1), ("augmented", 0.125))
            ),
        ],
        "deterministic": [{**CASE, "sides": {"as usual": ours, "deterministic": side(0.13)}}],
        "equality": [
            {"compared": "NT-Xent, tiled", **off, "passed": False},
            {"compared": "simclr:test, twice", "digests": [{"10": "a"}, {"10": "a"}], "passed": True},
        ],
    }
    machines = {part: MACHINE | (CARD if part in HERE else {}) for part in rows}
    return {
        part: {"part": part, "machine": machines[part], "complete": part != "steps", "rows": rows[part]}
        for part in rows
    }


def test_page_says_what_was_measured():
    found = page.text(records())
    assert "One NVIDIA H100 80GB HBM3, driver 580.1, 16 processor cores; python 3.12.3, jax 0.11.2." in found
    # 128 images in 0.1 s; 9.89e12 operations are a tenth of a second's 1 % of 989e12, and of 494.5e12 twice that.
    ours = "| resnet50, 128 | ssl_jax | 1,280 | 100 (100 to 200) | 10.0 % | 20.0 % | 3.00 | 61 | 1.50 | 27.97 |"
    theirs = "| resnet50, 128 | torch (lightly) | 853 | 150 (150 to 300) | 6.7 % | 13.3 % | 3.00 | 61 |  | 27.97 |"
    assert ours in found
    assert theirs in found
    assert "| resnet50, 512 | torch | OutOfMemoryError: no room | - " in found
    assert "| resnet50, 128 | as usual | 1,280 | 100 (100 to 200) | 10.0 % | 20.0 % | 3.00 | 61 | 1.30 |" in found
    assert "| 8,192 | tiled by 1,024 | float32 | 3 | 0.75 | 32 |" in found
    assert "| 131,072 | dense | float32 | does not fit into memory | - | - |" in found
    assert "| simclr | 256 | 4,000 | 8,000 | 64 |" in found
    assert "takes 100 ms from views that are there, and 125 ms when it makes them: 25.0% more." in found
    assert "| NT-Xent, tiled | loss 2e-07, gradient 3e-03 | 1e-05, 1e-04 | **no** |" in found
    assert "| simclr:test, twice | same bits | none | yes |" in found
    assert found.count("There was no time to measure all that was planned.") == 1
    widths = [{line.count("|") for line in block.split("\n")} for block in re.findall(r"(?:^\|.*\n)+", found, re.M)]
    assert all(len(width - {0}) == 1 for width in widths)  # every line of a table has as many cells


@pytest.mark.parametrize(
    ("part", "change", "said"),
    [
        ("ntxent", {"platform": "cpu", "device": "cpu"}, r"The page is of a GPU; there are records of cpu \(cpu\)"),
        ("ntxent", {"device": "NVIDIA A100"}, "one kind of GPU; there are records of NVIDIA A100, NVIDIA H100"),
        ("steps", {"tiny": True}, r"Records of trials \(--tiny\) make no page: steps"),
    ],
)
def test_page_is_made_of_one_gpu_only(part, change, said):
    changed = records()
    changed[part]["machine"] = changed[part]["machine"] | change
    with pytest.raises(SystemExit, match=said):
        page.text(changed)


def test_page_of_nothing():
    with pytest.raises(SystemExit, match="There are no records here: measure first"):
        page.text({})


def test_record_is_whole_after_every_row(tmp_path, capsys):
    rows = Record(tmp_path / "out", "ntxent", dict(MACHINE), Clock(None))
    for number in range(2):
        rows.add(number=number)
        on_disk = record.load(tmp_path / "out")["ntxent"]
        assert [row["number"] for row in on_disk["rows"]] == list(range(number + 1))
        assert on_disk["complete"] is False
    rows.close(complete=True)
    assert record.load(tmp_path / "out")["ntxent"]["complete"] is True
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == [{"number": 0}, {"number": 1}]
    assert Clock(None).left() == float("inf")
    assert Clock(-1.0).left() == 0.0


WORKER = """
import sys, time
from benchmarks.gpu import turns

def prepare():
    print("a library says something")
    if sys.argv[1] == "bad":
        raise ImportError("No module named 'torch'")
    asked = []
    def run(count):
        asked.append(count)
        if sys.argv[1] == "ends" and len(asked) > 1:
            sys.exit(7)
        return {"seconds": count * float(sys.argv[1]), "loss": float(sum(asked))}
    return {"step_s": 0.5}, run

turns.serve(prepare)
"""


@pytest.fixture
def worker(tmp_path, monkeypatch):
    """Starts workers, which end with the test."""
    (tmp_path / "stand_in.py").write_text(WORKER)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{ROOT}")
    started = []

    def start(kind):
        started.append(turns.Worker("stand_in", kind, log=tmp_path / "log.txt"))
        return started[-1]

    yield start
    for process in started:
        process.end()


def test_workers_take_turns(worker, tmp_path):
    workers = {"quick": worker("0.25"), "slow": worker("0.5")}
    ready = {name: w.answer(60)["step_s"] for name, w in workers.items()}
    found = turns.compare(workers, ready, 2, lambda: 60.0)
    each = round(turns.ROUND / 0.5)
    assert found["quick"] == {"loss": 2.0 * each, "step_s": 0.25, "fastest_s": 0.25, "slowest_s": 0.25, "turns": 2}
    assert found["slow"]["step_s"] == 0.5
    assert (tmp_path / "log.txt").read_text().count("--- stand_in") == 2


def test_workers_that_fail_say_why(worker):
    with pytest.raises(turns.Failed, match="ImportError: No module named 'torch'"):
        worker("bad").answer(60)
    late = worker("0.25")
    late.answer(60)
    with pytest.raises(turns.Failed, match="no answer within 0 s"):
        late.answer(0.01)
    late.process.kill()
    with pytest.raises(turns.Failed, match=r"the process ended with status -9, see log\.txt"):
        late.ask("1", 60)


def test_reference_is_the_derivative():
    """NumPy's NT-Xent, which the GPU is compared with: its gradient by differences."""
    from benchmarks.gpu.equality import reference

    z, rng = np.random.default_rng(0).normal(size=(3, 2, 4)), np.random.default_rng(1)
    value, gradient = reference(z)
    step = 1e-6 * rng.normal(size=z.shape)
    slope = (reference(z + step)[0] - reference(z - step)[0]) / 2
    assert value > 0
    np.testing.assert_allclose(slope, np.sum(gradient * step), rtol=1e-6)


def test_script_and_its_list_of_tests():
    script, listed = ROOT / "benchmarks" / "on_gpu.sh", ROOT / "tests" / "one_gpu.txt"
    for check in [["bash", "-n"], *([["shellcheck", "-x"]] if shutil.which("shellcheck") else [])]:
        done = subprocess.run([*check, str(script)], cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    assert os.access(script, os.X_OK)
    arguments = [line for line in listed.read_text().splitlines() if not line.startswith("#")]
    for argument in arguments:
        path, _, test = argument.removeprefix("--deselect=").removeprefix("--ignore=").partition("::")
        assert (ROOT / path).exists(), argument
        assert not test or f"def {test.split('[')[0]}(" in (ROOT / path).read_text(), argument
    done = subprocess.run([str(script), "third"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "benchmarks/on_gpu.sh first OUT" in done.stderr
