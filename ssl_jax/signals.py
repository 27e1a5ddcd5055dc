"""SIGINT and SIGTERM: the first is for the loop to see, which saves and stops; the second ends the process at once."""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Any


class Interrupted(Exception):
    """The run was asked to stop, and has saved."""

    def __init__(self, signal_number: int, step: int):
        """Remember by which signal and where."""
        super().__init__(f"stopped at step {step}")
        self.signal_number, self.step = signal_number, step


class Signals:
    """What has come. True once there is one.

    Attributes:
      seen: numbers of the signals, in their order.
      unsaved: whether there is anything to save. While there is not (the first step is being compiled), the first
        signal ends the process at once as well.
    """

    def __init__(self) -> None:
        """Nothing has come."""
        self.seen: list[int] = []
        self.unsaved = False

    def __bool__(self) -> bool:
        return bool(self.seen)


@contextlib.contextmanager
def catch(*, silent: bool = False) -> Iterator[Signals]:
    """Collect signals for the loop to see, and say what they do unless `silent`.

    Python runs handlers between two of its own instructions, which may be minutes apart while a program is compiled.
    What must not wait is done by a thread that hears of signals from the system: ending the process.
    """
    signals, numbers = Signals(), (signal.SIGINT, signal.SIGTERM)

    def handle(number: int, frame: Any) -> None:
        signals.seen.append(number)

    before = {number: signal.signal(number, handle) for number in numbers}
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    wakeup = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    thread = threading.Thread(target=_listen, args=(reader, signals, numbers, silent), daemon=True)
    thread.start()
    try:
        yield signals
    finally:
        signal.set_wakeup_fd(wakeup)
        os.close(writer)  # which ends the thread
        thread.join()
        os.close(reader)
        for number, handler in before.items():
            signal.signal(number, handler)


def _listen(reader: int, signals: Signals, numbers: tuple[int, ...], silent: bool) -> None:
    say, heard = (lambda text: None) if silent else _say, 0
    while byte := os.read(reader, 1):
        if byte[0] not in numbers:
            continue
        heard += 1
        if heard > 1 or not signals.unsaved:
            say("ended at once; the same command goes on from the newest checkpoint.")
            os._exit(128 + byte[0])
        say("stopping after this step, and saving; a second signal ends the run at once.")


def _say(text: str) -> None:
    print(f"ssl-jax: {text}", file=sys.stderr, flush=True)
