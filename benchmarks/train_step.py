"""SimCLR's training step against PyTorch (eager, channels-last) with lightly's loss: one run, the same network sizes.

`python -m benchmarks.train_step [--networks=convnet,resnet18,vit] [--rounds=6] [--json]`

Both sides get ready-made float views and make the same step: forward, loss, backward, optimizer. They take turns in
one process, on the same number of threads; the ratio is of the fastest rounds. Peak memory and compile time are
measured in a process of its own for each side. Needs `pip install "ssl_jax[bench]"`.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np

TEMPERATURE = 0.1
# name: (batch, image size, channels)
NETWORKS = {"convnet": (256, 28, 1), "resnet18": (128, 32, 3), "vit": (128, 32, 3)}


def views(name: str) -> np.ndarray:
    """Random views `[b 2 h w c]`."""
    batch, size, channels = NETWORKS[name]
    return np.random.default_rng(0).normal(size=(batch, 2, size, size, channels)).astype(np.float32)


def jax_step(name: str) -> Callable[[], float]:
    """A function that makes one step with this library and returns the loss."""
    import jax
    import jax.numpy as jnp

    from ssl_jax import init_state, make_train_step, methods, nets, optim

    encoder = {
        "convnet": lambda: nets.create("convnet", pool=(1,)),
        "resnet18": lambda: nets.create("resnet18", stem="small", base_width=16),
        "vit": lambda: nets.ViT(patch=4, dim=192, depth=6, heads=3),
    }[name]()
    method = methods.simclr(encoder, temperature=TEMPERATURE)
    tx = optim.create("adamw" if name == "vit" else "sgd", 1e-3, weight_decay=1e-4)
    batch = {"views": jnp.asarray(views(name))}
    state = [init_state(method, tx, batch)]
    step = make_train_step(method, tx)

    def run() -> float:
        state[0], metrics = step(state[0], batch)
        return float(jax.block_until_ready(metrics["loss"]))

    return run


def torch_step(name: str) -> Callable[[], float]:
    """The same with PyTorch and lightly."""
    import torch

    from benchmarks import _torch_networks
    from benchmarks._torchvision_cpu import import_torchvision

    import_torchvision()  # lightly imports it
    from lightly.loss import NTXentLoss

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    torch.manual_seed(0)
    channels = NETWORKS[name][2]
    model = _torch_networks.with_projector(name, channels).to(memory_format=torch.channels_last)
    make = torch.optim.AdamW if name == "vit" else torch.optim.SGD
    extra = {} if name == "vit" else {"momentum": 0.9}
    optimizer = make(model.parameters(), lr=1e-3, weight_decay=1e-4, **extra)
    criterion = NTXentLoss(temperature=TEMPERATURE)
    x = torch.from_numpy(views(name))
    flat = x.transpose(0, 1).flatten(0, 1).permute(0, 3, 1, 2).to(memory_format=torch.channels_last)

    def run() -> float:
        optimizer.zero_grad(set_to_none=True)
        first, second = model(flat).chunk(2)
        loss = criterion(first, second)
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    return run


SIDES = {"jax": jax_step, "torch": torch_step}


def alone(name: str, side: str) -> dict[str, float]:
    """Seconds to the end of the first step, and peak memory after three, of this process."""
    began = time.perf_counter()
    run = SIDES[side](name)
    run()
    first = time.perf_counter() - began
    run()
    run()
    # Not getrusage's figure, which a new process inherits from its parent.
    status = pathlib.Path("/proc/self/status").read_text()
    peak = next(int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmHWM"))
    return {"first_step_s": round(first, 2), "peak_mb": round(peak)}


def compare(name: str, rounds: int) -> dict[str, object]:
    """Seconds per step of both sides, taking turns, and figures of each in its own process."""
    runs = {side: make(name) for side, make in SIDES.items()}
    for run in runs.values():
        run()
    seconds: dict[str, list[float]] = {side: [] for side in runs}
    for _ in range(rounds):
        for side, run in runs.items():
            began = time.perf_counter()
            run()
            seconds[side].append(time.perf_counter() - began)
    images = 2 * NETWORKS[name][0]
    row: dict[str, object] = {"network": name, "batch": NETWORKS[name][0]}
    for side in runs:
        command = [sys.executable, "-m", "benchmarks.train_step", f"--alone={name}:{side}"]
        output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        row[side] = {"views_per_s": round(images / min(seconds[side]), 1), **json.loads(output.splitlines()[-1])}
    row["ratio"] = round(min(seconds["torch"]) / min(seconds["jax"]), 2)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", default=",".join(NETWORKS))
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--alone", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.alone:
        print(json.dumps(alone(*args.alone.split(":"))))
        return
    if not args.json:
        print(f"{'network':10}{'batch':>6}{'':>8}{'views/s':>10}{'first step s':>14}{'peak MB':>9}{'ratio':>8}")
    for name in args.networks.split(","):
        row = compare(name, args.rounds)
        if args.json:
            print(json.dumps(row), flush=True)
            continue
        for side in SIDES:
            f = row[side]
            ratio = f"{row['ratio']:>8}" if side == "jax" else ""
            print(
                f"{name:10}{row['batch']:>6}{side:>8}{f['views_per_s']:>10}{f['first_step_s']:>14}{f['peak_mb']:>9}{ratio}",
                flush=True,
            )


if __name__ == "__main__":
    main()
