"""Reading the text of an optimised XLA program: its instructions, how often each runs, the arrays it holds.

    program = jax.jit(step).lower(...).compile().as_text()
    for instruction, times in hlo.walk(program): ...

Only what is read off here is relied upon: names, shapes, opcodes, called computations and trip counts, which CPU, GPU
and TPU print alike.
"""

import collections
import dataclasses
import math
import re
from collections.abc import Iterator

BITS = {"pred": 8, "bf16": 16, "token": 0, "opaque": 0}  # where the name's digits do not say so
SHAPE = re.compile(r"\b([a-z][a-z0-9]*)\[([0-9,]*)\]")
HEADER = re.compile(r"^(ENTRY )?%?([^\s(]+) \(.*\{$")
INSTRUCTION = re.compile(r"^\s+(ROOT )?%?(\S+) = (.*)$")
OPCODE = re.compile(r"(?:^|\s)([a-z][a-z0-9-]*)\(")


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line of a program.

    Attributes:
      name: unique in its computation.
      opcode: for example "fusion".
      shape: what comes out, as text: one array, or a tuple in parentheses.
      rest: operands and attributes, as text.
      root: whether it is what its computation returns.
    """

    name: str
    opcode: str
    shape: str
    rest: str
    root: bool

    def attribute(self, name: str) -> str | None:
        """The computation or word that an attribute such as `body` names."""
        found = re.search(rf"\b{name}=%?([\w.\-]+)", self.rest)
        return found and found[1]


@dataclasses.dataclass(frozen=True)
class Times:
    """How often an instruction runs in one run of the program.

    Attributes:
      count: product of the trip counts of the loops around it.
      known: False if a loop's trip count could not be read off; it is then counted as one.
    """

    count: int = 1
    known: bool = True


def arrays(shape: str) -> list[tuple[str, tuple[int, ...]]]:
    """Dtypes and shapes of all arrays that a text mentions."""
    return [(dtype, tuple(int(d) for d in dims.split(",") if d)) for dtype, dims in SHAPE.findall(shape)]


def size_of(dtype: str, shape: tuple[int, ...]) -> int:
    """Bytes of an array, without padding."""
    digits = re.search(r"\d+", dtype)
    bits = BITS[dtype] if dtype in BITS else int(digits[0]) if digits else 0
    return math.prod(shape) * bits // 8


def computations(text: str) -> tuple[dict[str, list[Instruction]], str]:
    """All computations of a program by their names, and the name of the one that is run."""
    found: dict[str, list[Instruction]] = collections.defaultdict(list)
    entry = current = ""
    for line in text.splitlines():
        header = HEADER.match(line)
        if header:
            current = header[2]
            entry = current if header[1] else entry
            continue
        match = INSTRUCTION.match(line)
        opcode = OPCODE.search(match[3]) if match else None
        if match and opcode and current:
            shape, rest = match[3][: opcode.start()], match[3][opcode.end() :]
            found[current].append(Instruction(match[2], opcode[1], shape, rest, bool(match[1])))
    return dict(found), entry


def walk(text: str) -> Iterator[tuple[Instruction, Times]]:
    """Every instruction that a run of the program executes, with how often it does so.

    Loops, branches, calls and asynchronous calls are gone into; all branches of a condition are taken to run. What is
    inside of a fusion is not an instruction of its own.
    """
    known, entry = computations(text)

    def inside(name: str | None, times: Times) -> Iterator[tuple[Instruction, Times]]:
        for instruction in known.get(name or "", []):
            yield instruction, times
            for called, more in _called(instruction, known):
                yield from inside(called, Times(times.count * more.count, times.known and more.known))

    return inside(entry, Times())


def _called(instruction: Instruction, known: dict[str, list[Instruction]]) -> list[tuple[str | None, Times]]:
    if instruction.opcode == "while":
        return [(instruction.attribute("body"), trips(instruction, known))]
    if instruction.opcode == "conditional":
        listed = re.search(r"branch_computations=\{([^}]*)\}", instruction.rest)
        names = listed[1].replace("%", "").split(", ") if listed else []
        both = [instruction.attribute(name) for name in ("true_computation", "false_computation")]
        return [(name, Times()) for name in names or both]
    if instruction.opcode == "call":
        return [(instruction.attribute("to_apply"), Times())]
    if instruction.opcode == "async-start":
        return [(instruction.attribute("calls"), Times())]
    return []


def trips(loop: Instruction, known: dict[str, list[Instruction]]) -> Times:
    """How often a `while` goes round: as its annotation says, or else the bound that its counter is compared with.

    JAX's loops count up from zero by one, and XLA keeps that.
    """
    annotated = re.search(r'known_trip_count":\{"n":"(\d+)"', loop.rest)
    if annotated:
        return Times(int(annotated[1]))
    condition = known.get(loop.attribute("condition") or "", [])
    constants = {x.name: int(x.rest.split(")")[0]) for x in condition if _is_whole_number(x)}
    for instruction in condition:
        if instruction.root and instruction.opcode == "compare" and instruction.attribute("direction") == "LT":
            right = instruction.rest.split(")")[0].split(", ")[-1].split(" ")[-1].lstrip("%")
            if right in constants:
                return Times(constants[right])
    return Times(1, known=False)


def _is_whole_number(x: Instruction) -> bool:
    return x.opcode == "constant" and bool(re.match(r"^-?\d+\)", x.rest)) and x.shape.lstrip("(")[0] in "su"
