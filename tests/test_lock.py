"""One run at a time in a workdir, whatever became of the run before; and signals that must not wait."""

import errno
import fcntl
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import jax.numpy as jnp
import pytest
import recipes

from ssl_jax import UserError, cli, lock, shortage, signals
from ssl_jax.pretrain import pretrain


def child(code: str, *argv: str) -> subprocess.Popen:
    """A Python process that has printed a line."""
    process = subprocess.Popen(
        [sys.executable, "-c", code, *argv], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline(), process.communicate()[1]
    return process


HOLD = """
import pathlib, sys, time
from ssl_jax import lock
with lock.hold(pathlib.Path(sys.argv[1]), print):
    print("held", flush=True)
    time.sleep(600)
"""


def test_second_run_is_refused_and_a_killed_one_is_not_in_the_way(tmp_path):
    directory, heard = tmp_path / "run", []
    process = child(HOLD, str(directory))
    with pytest.raises(UserError, match=rf"Another run is at work in .* \(process {process.pid} on \S+, since 2"):
        pretrain(recipes.config("simclr"), directory, announce=heard.append)
    assert sorted(path.name for path in directory.iterdir()) == [lock.FILE]
    process.kill()
    process.communicate()
    for _ in range(2):
        with lock.hold(directory, heard.append), pytest.raises(UserError, match=rf"process {os.getpid()} on"):
            lock.hold(directory, heard.append).__enter__()
        assert (directory / lock.FILE).read_text() == ""
    assert [text[:24] for text in heard] == ["A run was killed here (p"]
    assert f"process {process.pid} on" in heard[0]


def test_workdir_that_may_not_be_written(tmp_path):
    """As another user, since the superuser may write anywhere."""
    directory = tmp_path / "run"
    directory.mkdir()
    directory.chmod(0o555)
    user = os.geteuid()
    for path in (tmp_path, *list(tmp_path.parents)[:-2]):
        if path.stat().st_uid == user:
            path.chmod(path.stat().st_mode | 0o555)  # so that nothing but the directory itself is in the way
    if user == 0:
        os.seteuid(65534)
    try:
        with pytest.raises(UserError, match=r"The workdir .*run can't be written: Permission denied"):
            lock.hold(directory, print).__enter__()
    finally:
        os.seteuid(user)


def test_brief_lock_that_another_user_made(tmp_path, monkeypatch):
    """Who may not write it takes it as well."""
    path, opened = tmp_path / "x.lock", pathlib.Path.open
    with lock.briefly(path):
        pass

    def foreign(self, mode="r", **arguments):
        if "a" in mode:
            raise PermissionError(errno.EACCES, "Permission denied")
        return opened(self, mode, **arguments)

    monkeypatch.setattr(pathlib.Path, "open", foreign)
    with lock.briefly(path), opened(path) as file, pytest.raises(BlockingIOError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


BUSY = """
import hashlib, sys
from ssl_jax import signals
with signals.catch() as caught:
    caught.unsaved = sys.argv[1] == "unsaved"
    print("busy", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"compiled code", b"lets no handler run", 10**9)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_second_signal_ends_the_run_at_once(number):
    """Even while no Python runs; the first one already does so as long as there is nothing to save."""
    for what, count in (("unsaved", 2), ("saved", 1)):
        process = child(BUSY, what)
        for left in range(count - 1, -1, -1):
            process.send_signal(number)
            said = process.stderr.readline()
            assert ("stopping after this step, and saving" in said) == bool(left), said
        began = time.monotonic()
        assert process.wait(timeout=20) == 128 + number
        assert time.monotonic() - began < 5
        process.communicate()


def test_interrupted_where_nothing_catches_it(monkeypatch, capsys):
    """Before a run's first step, or in an evaluation, whose rows so far are kept."""

    def run(argv):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "run", run)
    assert cli.main(["evaluate"]) == 130
    assert capsys.readouterr().err == "ssl-jax: interrupted; what was saved before is kept.\n"


def test_of_several_processes_one_says_that_it_stops(capfd):
    for silent in (False, True):
        with signals.catch(silent=silent) as caught:
            caught.unsaved = True
            signal.raise_signal(signal.SIGTERM)
        assert caught.seen == [signal.SIGTERM]
        assert capfd.readouterr().err.count("stopping after this step, and saving") == (not silent)


def test_out_of_memory_is_told_with_the_plans_figures_and_three_settings():
    config = recipes.config("simclr")
    said = (
        r"memory of the .* is too small.*micro_batches \(now 1\).*batch_size \(now 64\), or use --config.dtype=bfloat16"
    )
    for known in (False, True):
        with pytest.raises(UserError, match=said) as error, shortage.told(config) as experiments:  # noqa: PT012
            if known:
                experiments.append(recipes.experiment("simclr"))
            jnp.zeros((2**30, 2**20), jnp.float32).block_until_ready()
        kinds = r"planned with [\d.]+ \wiB on each device \(.* parameters, .* activations and temporaries\): raise"
        assert bool(re.search(kinds, str(error.value))) == known, str(error.value)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"batch_size": None}, "finetune: lower --set=finetune.batch_size (now the preset's), or evaluate on the proc"),
        ({"batch_size": 64}, "lower --set=finetune.batch_size (now 64), or evaluate on the processor"),
        ({}, "for the protocol finetune: evaluate on the processor, with JAX_PLATFORMS=cpu before the command"),
    ],
)
def test_out_of_memory_in_an_evaluation_names_the_protocol(options, said):
    with pytest.raises(UserError, match=re.escape(said)), shortage.told_of("finetune", options):
        jnp.zeros((2**30, 2**20), jnp.float32).block_until_ready()


@pytest.mark.parametrize(
    ("dtype", "bank", "third"),
    [
        ("float32", 0, "dtype=bfloat16 (now float32)"),
        ("bfloat16", 0, "remat=blocks (now none)"),
        ("bfloat16", 99, "sharding=fsdp (now replicated)"),
    ],
)
def test_the_third_setting_is_for_what_takes_the_room(dtype, bank, third):
    config = recipes.config("simclr", dtype=dtype)
    assert shortage.helps(config, {"memory bank": bank, "activations and temporaries": 9}).endswith(third)
