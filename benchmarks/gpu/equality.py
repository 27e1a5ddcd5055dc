"""Whether the GPU gives what it should: losses' forms against dense ones and float64, runs that repeat, runs resumed.

What is compared is given with its tolerance. Float32 has 24 bits; a log-sum-exp over thousands of terms, temperature
0.1, keeps about 1e-6 of them, and a gradient's entry sums as many products: 1e-5 of the loss and 1e-4 of the largest
entry are far above that, and far below what a matrix unit's ten bits (5e-4 of each product) would leave. Runs that
repeat are equal to the bit, or not equal.
"""

import functools
import json
import pathlib
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.gpu.record import Clock, Record
from ssl_jax import losses

LOSS, GRADIENT = 1e-5, 1e-4
TEMPERATURE = 0.1
# Small networks of each kind: batch statistics, an attention with a teacher, a queue.
RUNS = {
    "simclr:test": (),
    "simclr:test, resnet18, bfloat16": ("--config.encoder=resnet18", "--config.dtype=bfloat16"),
    "dino:test": (),
    "moco:test": (),
}
TINY_RUNS = ("simclr:test",)
LEAST = 60.0


def draw(seed: int, *shape: int) -> jax.Array:
    """Normal numbers."""
    return jax.random.normal(jax.random.key(seed), shape, jnp.float32)


Form = Callable[..., jax.Array]
Pair = tuple[Form, Form, tuple[Any, ...]]  # a form, the dense form, and the arrays that both take


def pairs(n: int) -> dict[str, Pair]:
    """By name; gradients are those by the first array."""
    unit = losses.l2_normalize(draw(9, 3 * n + 5, 128))  # no multiple of a tile
    query, key = draw(1, n, 128), draw(8, n, 128)
    return {
        "NT-Xent, tiled": (*in_forms(losses.ntxent), (draw(0, n + 3, 2, 128),)),
        "InfoNCE in the batch, tiled": (*in_forms(losses.infonce_in_batch), (query, key)),
        "InfoNCE with a queue, tiled": (*in_forms(losses.infonce), (query, key, unit)),
        "patches on prototypes, tiled": patches(max(n // 256, 2)),
    }


def in_forms(loss: Form) -> tuple[Form, Form]:
    """A loss in tiles, and dense."""
    tiled, dense = (functools.partial(loss, temperature=TEMPERATURE, form=form) for form in ("tiled", "dense"))
    return tiled, dense


def patches(images: int) -> Pair:
    """The loss of iBOT on hidden patches, in tiles and at once."""
    hidden = jax.random.bernoulli(jax.random.key(4), 0.3, (images, 2, 49))
    teacher, center = draw(5, images, 2, 49, 64), draw(6, 1_024) / 100
    how = {"teacher_temperature": 0.05, "temperature": TEMPERATURE}

    def score(kernel: Any, rows: jax.Array) -> jax.Array:
        return jnp.matmul(rows, kernel, precision="highest")

    def in_tiles(rows: jax.Array, kernel: jax.Array, teacher: jax.Array) -> jax.Array:
        sides = (losses.Patches(score, kernel, x) for x in (teacher, rows))
        return losses.tiled_masked_cross_entropy(*sides, hidden, center, tile=37, **how)

    def at_once(rows: jax.Array, kernel: jax.Array, teacher: jax.Array) -> jax.Array:
        targets = losses.soft_targets(score(kernel, teacher), center, how["teacher_temperature"])
        return losses.masked_cross_entropy(targets, score(kernel, rows), hidden, temperature=TEMPERATURE)

    return in_tiles, at_once, (draw(7, images, 2, 49, 64), draw(3, 64, 1_024) / 8, teacher)


def apart(one: tuple[Any, Any], other: tuple[Any, Any]) -> tuple[float, float]:
    """How far two losses with gradients differ: relative to the loss, and to the gradient's largest entry."""
    (a, x), (b, y) = jax.device_get((one, other))
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    return abs(float(a) - float(b)) / abs(float(b)), float(np.max(np.abs(x - y)) / np.max(np.abs(y)))


def reference(z: jax.Array) -> tuple[float, np.ndarray]:
    """NT-Xent and its gradient in float64 by NumPy, written out."""
    z = np.asarray(z, np.float64)
    flat = z.reshape(-1, z.shape[-1])
    length = np.linalg.norm(flat, axis=1, keepdims=True)
    unit = flat / length
    logits = unit @ unit.T / TEMPERATURE
    np.fill_diagonal(logits, -np.inf)
    n, other = len(unit), np.arange(len(unit)) ^ 1  # views stand side by side
    top = logits.max(1, keepdims=True)
    p = np.exp(logits - top)
    total = p.sum(1, keepdims=True)
    value = np.mean(np.log(total[:, 0]) + top[:, 0] - logits[np.arange(n), other])
    p /= total
    p[np.arange(n), other] -= 1
    by_unit = (p + p.T) @ unit / TEMPERATURE / n
    by_flat = (by_unit - unit * np.sum(by_unit * unit, axis=1, keepdims=True)) / length
    return float(value), by_flat.reshape(z.shape)


def of_losses(record: Record, n: int) -> None:
    """Rows for all forms."""
    for name, (form, dense, arrays) in pairs(n).items():
        made = [jax.jit(jax.value_and_grad(f))(*arrays) for f in (form, dense)]
        _keep(record, f"{name}, against dense", *apart(*made))
    z = draw(10, min(n, 2_048), 2, 128)
    for form in ("dense", "tiled"):
        found = jax.jit(jax.value_and_grad(lambda z, form=form: losses.ntxent(z, form=form)))(z)
        _keep(record, f"NT-Xent, {form}, against float64", *apart(found, reference(z)))


def _keep(record: Record, name: str, loss: float, gradient: float) -> None:
    passed = loss <= LOSS and gradient <= GRADIENT
    tolerances = {"loss_tolerance": LOSS, "gradient_tolerance": GRADIENT}
    record.add(compared=name, loss_off=loss, gradient_off=gradient, **tolerances, passed=passed)


def digests(workdir: pathlib.Path) -> dict[int, str]:
    """By step."""
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line["digest"] for line in lines if "digest" in line}


def pretrain(workdir: pathlib.Path, name: str, clock: Clock, log: pathlib.Path) -> dict[int, str]:
    """The command, with `--deterministic`; its digests."""
    config, flags = name.split(",")[0], RUNS[name]
    command = [sys.executable, "-m", "ssl_jax", "pretrain", f"--config={config}", f"--workdir={workdir}", *flags]
    command += ["--deterministic", "--noreport"]
    with log.open("a") as file:
        file.write(f"--- {' '.join(command)}\n")
        file.flush()
        subprocess.run(command, stdout=file, stderr=file, check=True, timeout=min(clock.left(), 240.0))
    return digests(workdir)


def of_runs(record: Record, name: str, folder: pathlib.Path) -> None:
    """The same run twice, and once more from the checkpoint in its middle, as if the last had not come about."""
    log, clock = record.path.with_name("log.txt"), record.clock
    first = pretrain(folder / "one", name, clock, log)
    second = pretrain(folder / "two", name, clock, log)
    record.add(compared=f"{name}, twice", digests=[first, second], passed=bool(first) and first == second)
    last = max(first)
    shutil.rmtree(folder / "two" / "checkpoints" / str(last))
    left = sorted(path.name for path in (folder / "two" / "checkpoints").iterdir() if path.name.isdigit())
    resumed = pretrain(folder / "two", name, clock, log)
    record.add(
        compared=f"{name}, going on from step {', '.join(left)}",
        digests=[first, resumed],
        passed=bool(left) and first[last] == resumed[last],
    )


def run(record: Record, *, tiny: bool) -> bool:
    """Losses, then runs; whether there was time for all."""
    of_losses(record, 64 if tiny else 4_096)
    for name in TINY_RUNS if tiny else tuple(RUNS):
        if record.clock.left() < LEAST:
            return False
        with tempfile.TemporaryDirectory() as folder:
            try:
                of_runs(record, name, pathlib.Path(folder))
            except (subprocess.SubprocessError, OSError, KeyError, ValueError) as error:
                record.add(compared=name, failed=f"{type(error).__name__}: {error}"[:300], passed=False)
    return True
