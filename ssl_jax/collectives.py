"""What devices say to each other in a compiled step: kind, bytes and number of its collective operations.

for c in collectives(compiled.as_text()): print(c.kind, c.bytes, c.group, c.times)
"""

import math
import re
from typing import NamedTuple

from ssl_jax import hlo

KINDS = (
    "all-reduce",
    "all-gather",
    "reduce-scatter",
    "all-to-all",
    "ragged-all-to-all",
    "collective-permute",
    "collective-broadcast",
    "send",
)


class Collective(NamedTuple):
    """One collective operation of a program, as each device takes part in it.

    Attributes:
      kind: one of `KINDS`. "send" is what goes from slice to slice over the data centre's network.
      bytes: of the whole array that it is about, each time: what an all-reduce adds up, what an all-gather returns,
        what a reduce-scatter starts from, the block that a permute passes on.
      group: number of devices that take part with each other; 2 for those from one to another.
      times: how often it runs in a step, in loops whose trip count is known.
      known: False if it is in a loop whose trip count is not, and which is counted as run once.
    """

    kind: str
    bytes: int
    group: int
    times: int
    known: bool

    @property
    def sent(self) -> int:
        """Bytes that each device sends in a step, if the operation is done round a ring, as is best for large ones."""
        n = max(self.group, 1)
        share = {"all-reduce": 2 * (n - 1) / n, "collective-permute": 1.0, "send": 1.0}.get(self.kind, (n - 1) / n)
        return round(self.bytes * share * self.times)


def collectives(hlo_text: str) -> list[Collective]:
    """The collective operations of an optimised program (`compiled.as_text()`), in its order.

    A pair of start and done is one operation. So are the parts that a TPU's compiler cuts one into to hide it behind
    fusions. Operations in loops are listed once, with their number of times.
    """
    computations, _ = hlo.computations(hlo_text)
    partitions = re.search(r"num_partitions=(\d+)", hlo_text[:100_000])
    devices = int(partitions[1]) if partitions else 1
    found, hidden = [], set()
    for instruction, times in hlo.walk(hlo_text):
        inside = computations.get(instruction.attribute("calls") or "", []) if instruction.opcode == "fusion" else []
        for x in inside if inside else [instruction]:
            kind = x.opcode.removesuffix("-start")
            if kind not in KINDS:
                continue
            if inside:  # the start, the middle and the end of one operation all name its channel
                key = kind, x.attribute("channel_id")
                if key in hidden:
                    continue
                hidden.add(key)
            found.append(Collective(kind, _bytes(x, kind, devices), _group(x, kind, devices), times.count, times.known))
    return found


def _bytes(x: hlo.Instruction, kind: str, devices: int) -> int:
    arrays = hlo.arrays(x.shape)
    if kind == "send":  # (payload, context, token)
        arrays = arrays[:1]
    elif x.opcode.endswith("-start") and kind != "all-reduce":  # (operands, results, contexts)
        arrays = [array for array in arrays if not (array[0] == "u32" and not array[1])]
        arrays = arrays[len(arrays) // 2 :]
    total = sum(hlo.size_of(*array) for array in arrays)
    return total * _group(x, kind, devices) if kind == "reduce-scatter" else total


def _group(x: hlo.Instruction, kind: str, devices: int) -> int:
    """Devices in a group, from any of the ways in which XLA writes groups."""
    if kind in ("collective-permute", "send"):
        return 2
    listed = re.search(r"replica_groups=\{\{([\d,]*)\}", x.rest)
    if listed:
        return listed[1].count(",") + 1
    iota = re.search(r"replica_groups=\[\d+,(\d+)\]<=", x.rest)
    if iota:
        return int(iota[1])
    mesh = re.search(r"replica_groups=mesh\[([^\]]*)\]\S* \{([^}]*)\}", x.rest)
    if mesh:
        sizes = {name: int(size) for name, size in re.findall(r"('[^']+')=(\d+)", mesh[1])}
        axes = re.findall(r"('[^']+')(?::\(\d+\)(\d+))?", mesh[2])  # a part of an axis has its size behind it
        return math.prod(int(part) if part else sizes[name] for name, part in axes)
    return devices
