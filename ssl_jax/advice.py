"""Whether a step fits into a device's memory, and what to change if it does not, or waits for other slices."""

import math
from typing import Any

from ssl_jax.hardware import GIB, SHARE, Topology

WITH_RING = ("simclr", "moco", "moco_v3", "nnclr")  # methods whose loss may go round a ring


def fits(
    kinds: dict[str, int], room: float | None, wanted: int | None = None, *, share: float | None = None
) -> dict[str, Any]:
    """Bytes by kind with their total, and whether a device has so many.

    Args:
      kinds: bytes by what they are of.
      room: bytes that programs have on a device; None if not known.
      wanted: what a compiler asked for in vain (0 if it did not say), and None if it did not. It takes the place of the
        total, since the kinds are an estimate then.
      share: of a card's memory that the room is, see `target.memory`.
    """
    total = wanted or sum(kinds.values())
    holds = None if room is None else wanted is None and total <= room
    return {"by_kind": kinds, "total": total, "available": room, "share_of_the_card": share, "fits": holds}


def advice(config: Any, topology: Topology, memory: dict[str, Any]) -> list[str]:
    """What to change where a step does not fit, most helpful first; nothing where it does."""
    if memory["fits"] is not False:
        return []
    kinds, room = memory["by_kind"], memory["available"]
    state = sum(count for kind, count in kinds.items() if kind != "activations and temporaries")
    activations = memory["total"] - state
    said = []
    if state > 0.5 * room and config.sharding == "replicated":
        said.append(f"--config.sharding=fsdp splits the {state / GIB:.1f} GiB of state that every device has.")
    card = topology.chip.memory
    if memory["share_of_the_card"] and card and memory["total"] <= 0.95 * card:
        said.append(f"{SHARE}=0.95 in the environment gives JAX more of the card than {memory['share_of_the_card']:g}.")
    if config.dtype == "float32":
        said.append("--config.dtype=bfloat16 halves activations.")
    devices = topology.devices
    counts = [n for n in range(2, config.batch_size + 1) if config.batch_size % (n * devices) == 0]
    enough = [n for n in counts if state + activations / n * config.micro_batches <= 0.9 * room]
    if enough and enough[0] > config.micro_batches:
        said.append(
            f"--config.micro_batches={enough[0]} lets the batch through the encoder in parts of "
            f"{config.batch_size // enough[0]:,}, for a third more arithmetic (docs/scaling.md)."
        )
    if config.remat == "none":
        said.append("--config.remat=blocks keeps the inputs of blocks only, for a third more arithmetic (ResNet, ViT).")
    factor = 2 ** math.ceil(math.log2(max(activations / max(0.9 * room - state, 1), 2)))
    if state < 0.9 * room and config.batch_size % (devices * factor) == 0:
        said.append(f"{factor} times as many devices ({devices * factor:,}) hold it as it is.")
    said.append("A smaller --config.batch_size or --config.view_size needs less.")
    return said


def faster(config: Any, collectives: list[dict[str, Any]], step: float | None) -> list[str]:
    """What to change where most of a step of so many seconds (None: not known) is a ring's way from slice to slice.

    A ring of n devices crosses the data centre's network at each of its n hops and waits for it, however small the
    blocks are; gathered embeddings cross it a few times a step.
    """
    between = sum(row["seconds"] or 0 for row in collectives if row["kind"] == "send")
    passed_round = config.method in WITH_RING and config.method_args.get("form", "auto") != "tiled"
    if not (step and passed_round and between > 0.5 * step):
        return []
    return [
        "--config.method_args.form=tiled gathers embeddings instead of passing them round a ring, whose way from "
        f"slice to slice is {between / step:.0%} of the step."
    ]
