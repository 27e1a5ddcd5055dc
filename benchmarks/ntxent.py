"""NT-Xent dense, tiled and on a ring: time and temporary memory of value and gradient, over the number of rows.

`python -m benchmarks.ntxent [--rows=4096,8192,16384,32768] [--rounds=3] [--json]`

Rows are both views of a batch, of 128 numbers each, on the CPU. Dense and tiled take turns in one process, and the
fastest round of each counts, so that a busy machine disturbs both alike. The ring runs in a process of its own on
virtual devices, which share the machine's cores: it shows memory per device, and what the ring costs over the work.
"""

import argparse
import functools
import json
import os
import subprocess
import sys
import time
from typing import Any

DIM = 128
TEMPERATURE = 0.1
DEVICES = (1, 2, 4, 8)


def compiled(form: str, rows: int, devices: int = 1) -> tuple[Any, Any]:
    """Value and gradient of a form, compiled, and embeddings to call it with."""
    import jax
    import jax.numpy as jnp

    from ssl_jax import losses
    from ssl_jax.sharding import by_example, data_mesh

    mesh = data_mesh(jax.devices()[:devices])
    loss = functools.partial(losses.ntxent, temperature=TEMPERATURE, form=form, mesh=mesh)
    z = jax.random.normal(jax.random.key(0), (rows // 2, 2, DIM), jnp.float32)
    z = jax.device_put(z, by_example(mesh))
    return jax.jit(jax.value_and_grad(loss)).lower(z).compile(), z


def seconds(call: Any, z: Any) -> tuple[float, float]:
    """Of one call, and processor time of all threads, which says more on a busy machine."""
    import jax

    began = time.perf_counter(), time.process_time()
    jax.block_until_ready(call(z))
    return time.perf_counter() - began[0], time.process_time() - began[1]


def megabytes(call: Any) -> float:
    """Temporary memory per device, as the compiler lays it out."""
    return round(call.memory_analysis().temp_size_in_bytes / 2**20, 1)


def compare(rows: int, rounds: int) -> dict[str, Any]:
    """Dense and tiled, taking turns."""
    import jax.numpy as jnp

    calls = {form: compiled(form, rows) for form in ("dense", "tiled")}
    results = {form: call(z) for form, (call, z) in calls.items()}
    took = [{form: seconds(*pair) for form, pair in calls.items()} for _ in range(rounds)]
    (value, gradient), (other, pull) = results["dense"], results["tiled"]
    row: dict[str, Any] = {"rows": rows, "loss_difference": float(abs(value - other))}
    row["gradient_difference"] = float(jnp.max(jnp.abs(gradient - pull)) / jnp.max(jnp.abs(gradient)))
    for form, (call, _) in calls.items():
        fastest, least = (min(t[form][i] for t in took) for i in (0, 1))
        row[form] = {"s": round(fastest, 3), "processor_s": round(least, 3), "mb": megabytes(call)}
    return row


def ring(rows: int, rounds: int) -> dict[str, Any]:
    """The ring on 1, 2, 4 and 8 virtual devices."""
    found = {}
    for devices in DEVICES:
        call, z = compiled("ring", rows, devices)
        seconds(call, z)
        took = min(seconds(call, z)[0] for _ in range(rounds))
        found[str(devices)] = {"s": round(took, 3), "mb": megabytes(call)}
    return found


def alone(what: str, rows: int, rounds: int) -> dict[str, Any]:
    """`compare` or `ring` in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.ntxent", f"--alone={what}", f"--rows={rows}", f"--rounds={rounds}"]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    if what == "ring":
        flag = f"--xla_force_host_platform_device_count={max(DEVICES)}"
        environment |= {"XLA_FLAGS": f"{flag} {os.environ.get('XLA_FLAGS', '')}", "PJRT_NPROC": "64"}
    output = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    return json.loads(output.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", default="4096,8192,16384,32768")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--alone", choices=("compare", "ring"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.alone:
        print(json.dumps({"compare": compare, "ring": ring}[args.alone](int(args.rows), args.rounds)))
        return
    if not args.json:
        on = [f"ring on {devices}: MB each" for devices in DEVICES]
        titles = [
            "rows",
            "dense: s, MB",
            "tiled",
            "time",
            "processor time",
            "memory",
            *on,
            "ring on 8: s",
            "loss, gradient: off by",
        ]
        print("| " + " | ".join(titles) + " |\n" + "|---" * len(titles) + "|")
    for rows in map(int, args.rows.split(",")):
        row = {**alone("compare", rows, args.rounds), "ring": alone("ring", rows, args.rounds)}
        if args.json:
            print(json.dumps(row), flush=True)
            continue
        dense, tiled = row["dense"], row["tiled"]
        cells = [f"{rows:,}", f"{dense['s']}, {dense['mb']:,}", f"{tiled['s']}, {tiled['mb']:,}"]
        cells += [f"{tiled['s'] / dense['s']:.2f}", f"{tiled['processor_s'] / dense['processor_s']:.2f}"]
        cells += [f"1/{dense['mb'] / tiled['mb']:.0f}"]
        cells += [f"{row['ring'][str(devices)]['mb']:,}" for devices in DEVICES]
        cells += [f"{row['ring'][str(max(DEVICES))]['s']}"]
        cells += [f"{row['loss_difference']:.0e}, {row['gradient_difference']:.0e}"]
        print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
