"""The state of a run per device, and what devices send each other in a step, on 1 to 8 devices.

`python -m benchmarks.sharding [--write]`

Read off compiled programs for virtual CPU devices; nothing is run. `--write` makes `docs/benchmarks/sharding.md`.
"""

import argparse
import os
import pathlib

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ssl_jax import init_state, make_train_step, methods, nets
from ssl_jax.collectives import collectives
from ssl_jax.sharding import by_example, data_mesh
from ssl_jax.sharding_rules import rules_of, state_shardings

PAGE = pathlib.Path(__file__).parents[1] / "docs" / "benchmarks" / "sharding.md"
BATCH, TX = 64, optax.adamw(1e-3)
CASES = [(n, name, 1) for n in (1, 2, 4, 8) for name in ("replicated", "fsdp")] + [(8, "replicated", 2), (8, "fsdp", 2)]
KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
HEAD = ("devices", "sharding", "model axis", "state MB", "temporary MB", "all-reduce MB", "all-gather MB", "others MB")


def method():
    """MoCo on a transformer of four blocks: parameters, teacher, two moments of Adam and a queue."""
    return methods.moco(nets.ViT(patch=4, dim=256, depth=4, heads=8), queue_size=32768)


def measure(devices: int, name: str, model: int) -> list[str]:
    """One row of the table: of the state and of what is sent, MB per device."""
    mesh, rules = data_mesh(jax.devices()[:devices], model=model), rules_of(name, model=model)
    shape = (BATCH, 2, 32, 32, 3)
    few = {"views": np.zeros((2, *shape[1:]), np.float32)}
    state = jax.eval_shape(lambda: init_state(method(), TX, few))
    places = state_shardings(state, rules, mesh)
    state = jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), state, places)
    batch = {"views": jax.ShapeDtypeStruct(shape, jnp.float32, sharding=by_example(mesh))}
    step = make_train_step(method(), TX, mesh=mesh, sharding=rules).lower(state, batch).compile()
    memory = step.memory_analysis()
    sent = dict.fromkeys(KINDS, 0)
    for found in collectives(step.as_text()):
        sent[found.kind] += found.sent
    images = BATCH * np.prod(shape[1:]) * 4 // mesh.shape["data"]
    others = sum(size for kind, size in sent.items() if kind not in ("all-reduce", "all-gather"))
    numbers = [memory.argument_size_in_bytes - images, memory.temp_size_in_bytes, sent["all-reduce"]]
    numbers += [sent["all-gather"], others]
    return [str(devices), name, str(model), *(f"{x / 1e6:.1f}" for x in numbers)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true")
    write = parser.parse_args().write
    lines = [f"| {' | '.join(HEAD)} |", "|---" * len(HEAD) + "|"]
    print(*lines, sep="\n", flush=True)
    for case in CASES:
        lines.append(f"| {' | '.join(measure(*case))} |")
        print(lines[-1], flush=True)
    if write:
        PAGE.write_text("\n".join([*intro(), "", *lines, ""]), encoding="utf-8")


def intro() -> list[str]:
    """What the page says above its table."""
    return [
        "# State and messages per device",
        "",
        "`python -m benchmarks.sharding --write`: MoCo on a ViT of four blocks of width 256 (3.3 million parameters),",
        f"a queue of 32,768 x 128 and AdamW; a step of {BATCH} images of 32 pixels, float32. Read off the compiled",
        f"program for virtual CPU devices (jax {jax.__version__}): the state that each device holds, the temporary",
        "memory of a step, and what each device sends in it if collectives go round a ring. CPU programs have an",
        "all-reduce and a slice where other platforms may have a reduce-scatter, of half its bytes.",
    ]


if __name__ == "__main__":
    main()
