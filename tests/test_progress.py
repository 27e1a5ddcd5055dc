"""What is said before there is a step to tell of."""

import logging
import re

import pytest

from ssl_jax import data, hosts, progress
from ssl_jax.data import lazy


@pytest.mark.parametrize("first", [True, False])
def test_reading_into_memory_is_told(monkeypatch, capsys, first):
    """How far it is, by one process of several; warnings by each, once."""
    monkeypatch.setattr(lazy, "TELL_EVERY", 0.0)
    monkeypatch.setattr(lazy, "_CHUNK", 8)
    monkeypatch.setattr(hosts, "is_first", lambda: first)
    log = logging.getLogger("ssl_jax")
    before = log.level, log.propagate, list(log.handlers)
    with progress.log_shown():
        assert len(data.load("digits", "train[:20]", image_size=4)) == 20
        for _ in range(2):
            logging.getLogger("ssl_jax.data").warning("an image is damaged")
    *told, warning = capsys.readouterr().err.splitlines()
    assert warning == "an image is damaged"
    pattern = r"reading digits train into memory: (\d+) of 20 images, some 0 seconds to go"
    found = [re.fullmatch(pattern, line) for line in told]
    assert [int(match[1]) for match in found] == ([8, 16] if first else [])
    assert (log.level, log.propagate, log.handlers) == before
