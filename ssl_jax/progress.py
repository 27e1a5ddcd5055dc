"""The line that shows how a run is doing, and what there is to say before the first one."""

import contextlib
import io
import logging
import sys
from collections.abc import Iterator
from typing import TextIO


def duration(seconds: float) -> str:
    """Seconds as `1:02:03` or `2:03`."""
    seconds = max(round(seconds), 0)
    hours, minutes, seconds = seconds // 3600, seconds // 60 % 60, seconds % 60
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def line(step: int, steps: int, metrics: dict[str, float], *, eta: float) -> str:
    """One line: step, loss, speed, time to go, collapse monitor, and accuracies where there are labels."""
    parts = [
        f"step {step:,}/{steps:,}",
        f"loss {metrics['loss']:.4f}",
        f"{metrics['images_per_second']:,.0f} images/s",
        f"ETA {duration(eta)}",
    ]
    if "embedding_std" in metrics:
        parts.append(f"std {metrics['embedding_std']:.2f}")
        parts.append(f"rank {metrics['effective_rank']:.1f}")
    if "probe_accuracy" in metrics:
        parts.append(f"probe {100 * metrics['probe_accuracy']:.1f} %")
    if "knn_top1" in metrics:
        parts.append(f"k-NN {100 * metrics['knn_top1']:.1f} %")
    return "  ".join(parts)


class Progress:
    """Prints progress: in place on a terminal, line by line elsewhere."""

    def __init__(self, stream: TextIO | None = None, *, silent: bool = False):
        """Write to `stream`, standard error by default; or nothing, if `silent`."""
        self.stream = io.StringIO() if silent else stream or sys.stderr
        self.in_place = self.stream.isatty()

    def show(self, text: str, *, keep: bool = False) -> None:
        """Show a line; on a terminal the next one takes its place unless `keep`."""
        if self.in_place:
            self.stream.write("\r\x1b[K" + text + ("\n" if keep else ""))
        else:
            self.stream.write(text + "\n")
        self.stream.flush()

    def close(self) -> None:
        """Leave the cursor on a line of its own."""
        if self.in_place:
            self.stream.write("\n")
            self.stream.flush()


class _Once(logging.Filter):
    """Lets a text pass once, and of what all processes of a run say alike, that of the first."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        text = record.getMessage()
        new = text not in self.seen
        self.seen.add(text)
        return new and (not getattr(record, "alike", False) or _is_first())


@contextlib.contextmanager
def log_shown() -> Iterator[None]:
    """Show what the library logs on standard error, each line once: warnings, and how far long work is.

    A command may read the same images several times, as a run and its report do, and would warn of them each time.
    """
    log, handler = logging.getLogger("ssl_jax"), logging.StreamHandler()
    handler.addFilter(_Once())
    before = log.level, log.propagate
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False  # absl gives the root logger a handler, which would say all of it again
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.level, log.propagate = before


def _is_first() -> bool:
    from ssl_jax import hosts  # JAX is heavy

    return hosts.is_first()
