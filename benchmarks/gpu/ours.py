"""One side of a comparison: SimCLR's step of this library, as a worker (`turns.serve`) or in this process."""

import dataclasses
import functools
import json
import sys
import time
from collections.abc import Callable
from typing import Any

from benchmarks.gpu import turns
from benchmarks.train_step import TEMPERATURE


@dataclasses.dataclass(frozen=True)
class Case:
    """A network on a batch of images with two views each; the same for both sides.

    Attributes:
      network: "resnet50" (for trials "convnet") with momentum SGD, or "vit_s" with AdamW.
      batch: images; each has two views.
      size: of the views in pixels.
      dtype: of the encoder's arithmetic, "bfloat16" or "float32".
      views: "made" before the step, or "augmented" in it from uint8 images of 8/7 of that size (256 for 224).
    """

    network: str
    batch: int
    size: int = 224
    dtype: str = "bfloat16"
    views: str = "made"

    def argument(self) -> str:
        """For a worker's command line."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_command(cls) -> "Case":
        """The case that this process was started with."""
        return cls(**json.loads(sys.argv[1]))


def method_of(case: Case) -> Any:
    """SimCLR with the case's encoder, and its optimizer."""
    import jax.numpy as jnp

    from ssl_jax import methods, nets, optim

    fields: dict[str, Any] = {"vit_s": {"patch": 16}, "convnet": {"pool": (1,)}}.get(case.network, {})
    encoder = nets.create(case.network, dtype=jnp.dtype(case.dtype), **fields)
    optimizer = optim.create("adamw" if case.network == "vit_s" else "sgd", 1e-3, weight_decay=1e-4)
    return methods.simclr(encoder, temperature=TEMPERATURE), optimizer


def batch_of(case: Case) -> tuple[dict[str, Any], Callable | None]:
    """Random views, or random images with what makes views of them."""
    import jax
    import jax.numpy as jnp

    from ssl_jax import augment

    key = jax.random.key(0)
    if case.views == "made":
        make = jax.jit(lambda key: jax.random.normal(key, (case.batch, 2, case.size, case.size, 3), jnp.float32))
        return {"views": make(key)}, None
    side = case.size * 8 // 7
    image = jax.random.bits(key, (case.batch, side, side, 3), jnp.uint8)
    return {"image": image, "id": jnp.arange(case.batch, dtype=jnp.int32)}, augment.simclr(case.size)


def operations(method: Any, case: Case, state: Any, batch: dict[str, Any], platform: str) -> float:
    """Of the products in loss and gradient; augmentation is not counted."""
    import jax
    import jax.numpy as jnp

    from ssl_jax import costs
    from ssl_jax.sharding import data_mesh
    from ssl_jax.train_step import gradients

    views = jax.ShapeDtypeStruct((case.batch, 2, case.size, case.size, 3), jnp.float32)
    of = functools.partial(gradients, method, None, mesh=data_mesh())
    return costs.flops(
        costs.trace(lambda state, batch: of(state=state, batch=batch), state, {"views": views}), platform
    )


def prepare(case: Case) -> tuple[dict[str, Any], Callable[[int], dict[str, Any]]]:
    """Compile the step and make the first ones; what that took, and a function that runs so many more."""
    began = time.perf_counter()
    import jax

    from ssl_jax import init_state, make_train_step

    device = jax.devices()[0]
    method, tx = method_of(case)
    batch, views = batch_of(case)
    state = [jax.block_until_ready(init_state(method, tx, batch, views=views))]
    facts: dict[str, Any] = {"device": device.device_kind, "platform": device.platform}
    facts["parameters"] = sum(x.size for x in jax.tree.leaves(state[0].params))
    facts["flops"] = operations(method, case, state[0], batch, device.platform)
    facts["started_s"] = time.perf_counter() - began
    began = time.perf_counter()
    step = make_train_step(method, tx, views=views).lower(state[0], batch).compile()
    facts["compile_s"] = time.perf_counter() - began
    facts["temporary_bytes"] = step.memory_analysis().temp_size_in_bytes

    def run(count: int) -> dict[str, Any]:
        began = time.perf_counter()
        for _ in range(count):
            state[0], metrics = step(state[0], batch)
        loss = float(jax.block_until_ready((state[0], metrics))[1]["loss"])
        seconds = time.perf_counter() - began
        peak = (device.memory_stats() or {}).get("peak_bytes_in_use")
        return {"seconds": seconds, "loss": loss, "skipped": float(metrics["skipped"]), "peak_bytes": peak}

    run(2)
    facts["step_s"] = run(2)["seconds"] / 2
    return facts, run


if __name__ == "__main__":
    turns.serve(lambda: prepare(Case.from_command()))
