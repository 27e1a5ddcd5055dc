"""Accelerators that need not be there: what a chip can do, and the strings that name many of them.

    parse("v5e:16x16")            one slice of 256 chips
    parse("v5e:16x16", slices=2)  two of these, joined by the data centre's network
    parse("v5p-512")              as Google Cloud names a slice: 512 cores, which are 256 chips
    parse("h100:64"), parse("cpu:8"), parse("gpu:1")

Peaks are the makers'. TPUs: pages of Google Cloud's documentation, /tpu/docs/v3, v4, v5e, v5p, v6e and tpu7x; links of
v3 and v4 by Jouppi et al. (2023, arXiv:2304.01433), table 4; usable memory is what the compiler of libtpu 0.0.42 has
for programs; clocks follow from the peak and the number of matrix units. GPUs: NVIDIA's data sheets, dense bfloat16
(V100: float16) and TF32 (V100: float32), NVLink inside of a node of eight and the node's network cards beyond.
"""

import dataclasses
import math
import re

from ssl_jax.core import UserError
from ssl_jax.slices import check_slice

GIB = 2**30
SHARE = "XLA_PYTHON_CLIENT_MEM_FRACTION"  # of a GPU's memory, which JAX takes for itself; 0.75 unless set


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chip:
    """What one device of JAX has: a chip, or a core where JAX shows these as devices of their own.

    Attributes:
      title: for people.
      platform: "tpu", "gpu" or "cpu".
      cores: devices of JAX in a chip.
      dims: of the interconnect: shapes of slices have so many numbers; 0 if they are counted only.
      flops: dense bfloat16 operations per second, or None if nothing is known.
      flops32: those of float32 as JAX multiplies it unless told otherwise; None if that is as fast as bfloat16.
      arithmetic32: what it multiplies float32 in.
      memory: usable bytes, or None.
      bandwidth: of that memory, bytes per second.
      links: bytes per second that leave a device over the interconnect, one way, all links together.
      network: bytes per second that leave a device for other slices or nodes.
      clock: cycles per second, of what the compiler counts in cycles; None if it counts none.
      node: devices that the interconnect joins, if that is a fixed number.
      options: for `get_topology_desc`.
    """

    title: str
    platform: str
    cores: int = 1
    dims: int = 0
    flops: float | None = None
    flops32: float | None = None
    arithmetic32: str = "bfloat16"
    memory: float | None = None
    bandwidth: float | None = None
    links: float | None = None
    network: float | None = None
    clock: float | None = None
    node: int | None = None
    options: tuple[tuple[str, str], ...] = ()

    def peak(self, dtype: str) -> float | None:
        """Operations per second of products of a config's dtype; None if not known."""
        if dtype == "float64":
            return None
        return self.flops32 if dtype == "float32" and self.flops32 else self.flops

    def arithmetic(self, dtype: str) -> str:
        """What products of a config's dtype are made in, unless JAX is told otherwise."""
        return self.arithmetic32 if dtype == "float32" else dtype


def _tpu(title: str, *, gib: float, tflops: float, gbs: float, ici: float, dcn: float, ghz: float, **rest) -> Chip:
    return Chip(
        title=title,
        platform="tpu",
        flops=tflops * 1e12,
        memory=gib * GIB,
        bandwidth=gbs * 1e9,
        links=ici * 1e9,
        network=dcn * 1e9,
        clock=ghz * 1e9,
        **rest,
    )


def _gpu(
    title: str, *, gb: float, tflops: float, tf32: float, gbs: float, nvlink: float, net: float, single: str = "TF32"
) -> Chip:
    return Chip(
        title=title,
        platform="gpu",
        flops=tflops * 1e12,
        flops32=tf32 * 1e12,
        arithmetic32=single,
        memory=gb * 1e9,
        bandwidth=gbs * 1e9,
        links=nvlink * 1e9,
        network=net * 1e9,
        node=8,
    )


V4_OPTIONS = (("chip_config_name", "megacore"),)  # both cores of a chip as one device, as Cloud TPUs run
CHIPS = {
    "v3": _tpu("TPU v3 (core)", gib=15.48, tflops=61.5, gbs=450.0, ici=140.0, dcn=3.1, ghz=0.94, dims=2, cores=2),
    "v4": _tpu("TPU v4", gib=30.75, tflops=275.0, gbs=1200.0, ici=300.0, dcn=3.1, ghz=1.05, dims=3, options=V4_OPTIONS),
    "v5e": _tpu("TPU v5e", gib=15.75, tflops=197.0, gbs=819.0, ici=200.0, dcn=3.1, ghz=1.5, dims=2),
    "v5p": _tpu("TPU v5p", gib=95.74, tflops=459.0, gbs=2765.0, ici=600.0, dcn=6.2, ghz=1.75, dims=3),
    "v6e": _tpu("TPU v6e", gib=31.25, tflops=918.0, gbs=1638.0, ici=400.0, dcn=12.5, ghz=1.75, dims=2),
    "tpu7x": _tpu("TPU7x (core)", gib=94.75, tflops=1153.0, gbs=3690.0, ici=300.0, dcn=6.2, ghz=2.2, dims=3, cores=2),
    "v100": _gpu(
        "NVIDIA V100 SXM", gb=32.0, tflops=125.0, tf32=15.7, gbs=900.0, nvlink=150.0, net=6.2, single="float32"
    ),
    "a100": _gpu("NVIDIA A100 SXM", gb=80.0, tflops=312.0, tf32=156.0, gbs=2039.0, nvlink=300.0, net=25.0),
    "h100": _gpu("NVIDIA H100 SXM", gb=80.0, tflops=989.0, tf32=494.7, gbs=3350.0, nvlink=450.0, net=50.0),
    "h200": _gpu("NVIDIA H200 SXM", gb=141.0, tflops=989.0, tf32=494.7, gbs=4800.0, nvlink=450.0, net=50.0),
    "gpu": Chip(title="GPU of this machine", platform="gpu", node=8, arithmetic32="TF32 or float32"),
    "cpu": Chip(title="CPU of this machine", platform="cpu", arithmetic32="float32"),
}
CORES_IN_NAME = ("v3", "v4", "v5p", "tpu7x")  # Google Cloud counts cores in these types' names, chips in others'


@dataclasses.dataclass(frozen=True)
class Topology:
    """So many devices of one kind.

    Attributes:
      kind: key of `CHIPS`.
      shape: of a slice, in chips; one number where there is no shape.
      slices: of that shape.
    """

    kind: str
    shape: tuple[int, ...]
    slices: int = 1

    @property
    def chip(self) -> Chip:
        """What one device can do."""
        return CHIPS[self.kind]

    @property
    def chips(self) -> int:
        """Number of chips, which is what is paid for."""
        return math.prod(self.shape) * self.slices

    @property
    def devices(self) -> int:
        """Number of devices that JAX shows."""
        return self.chips * self.chip.cores

    @property
    def name(self) -> str:
        """As `get_topology_desc` and `parse` take it, without the slices."""
        return f"{self.kind}:{'x'.join(map(str, self.shape))}"

    def __str__(self) -> str:
        return self.name if self.slices == 1 else f"{self.slices} x {self.name}"


def parse(text: str, *, slices: int = 1) -> Topology:
    """What a string such as `v5e:16x16`, `v5e-256`, `h100:64` or `cpu:8` names.

    Raises:
      UserError: there is no such kind, or no slice of that shape.
    """
    found = re.fullmatch(r"([a-z]\w*)[:\-]([0-9]+(?:x[0-9]+)*)", text.strip().lower())
    kind = {"v5litepod": "v5e", "v5": "v5p", "v7x": "tpu7x"}.get(found[1], found[1]) if found else ""
    if found is None or kind not in CHIPS:
        raise UserError(f"Unknown topology {text!r}; there is {examples()}.")
    shape, chip = tuple(int(n) for n in found[2].split("x")), CHIPS[kind]
    if slices < 1 or 0 in shape:
        raise UserError(f"{slices} slices of {text!r} are no devices at all; give numbers above 0.")
    if slices > 1 and chip.platform != "tpu":
        raise UserError(f"Slices are of TPUs; {text!r} says by itself how many devices there are.")
    if chip.platform == "tpu":
        if len(shape) == 1:
            cores = 2 if kind in CORES_IN_NAME else 1
            if shape[0] % cores:
                raise UserError(f"{text!r}: {kind} counts cores, of which a chip has 2; give an even number.")
            shape = slice_of(shape[0] // cores, chip.dims)
        if len(shape) != chip.dims:
            example = f"{kind}:{'x'.join(['4'] * chip.dims)}"
            raise UserError(f"A slice of {kind} has {chip.dims} numbers, such as {example}, not {text!r}.")
        check_slice(kind, shape, slices)
    elif len(shape) != 1:
        raise UserError(f"{kind} takes a number of devices, such as {kind}:8, not {text!r}.")
    return Topology(kind, shape, slices)


def slice_of(chips: int, dims: int) -> tuple[int, ...]:
    """The shape that Google Cloud gives a slice of so many chips: as near to a square or cube as powers of two allow.

    Raises:
      UserError: the number is no power of two.
    """
    if chips & (chips - 1):
        raise UserError(f"A slice of {chips} chips may have several shapes; give its shape, such as v5e:4x8.")
    twos = chips.bit_length() - 1
    sizes = [2 ** (twos // dims + (i >= dims - twos % dims)) for i in range(dims)]
    if dims == 3 and chips == 4:
        sizes = [2, 2, 1]  # a host
    return tuple(sizes)


def examples() -> str:
    """Valid topologies, for messages."""
    tpus = [f"{kind}:{'x'.join(['4'] * chip.dims)}" for kind, chip in CHIPS.items() if chip.platform == "tpu"]
    gpus = [f"{kind}:8" for kind, chip in CHIPS.items() if chip.platform == "gpu"]
    return f"{', '.join(tpus)} (any slice that there is; v5e-256 and so on too), {', '.join(gpus)}, cpu:8"
