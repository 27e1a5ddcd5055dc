"""The page of what was measured on a GPU: tables from records, and nothing that was not measured."""

import pathlib
from collections.abc import Callable, Iterable
from typing import Any

from ssl_jax.hardware import CHIPS

OUT = pathlib.Path(__file__).parents[2] / "docs" / "benchmarks" / "gpu.md"
Rows = list[dict[str, Any]]
GIB = 2**30


def text(records: dict[str, dict[str, Any]]) -> str:
    """The page.

    Raises:
      SystemExit: there is no record, one is a trial or not of a GPU, or they are of several kinds of GPU.
    """
    devices = {device for record in records.values() for device in devices_of(record)}
    if not devices:
        raise SystemExit("There are no records here: measure first (python -m benchmarks.gpu --help).")
    tiny = [part for part, record in records.items() if record["machine"].get("tiny")]
    if tiny:
        raise SystemExit(f"Records of trials (--tiny) make no page: {', '.join(tiny)}.")
    others = sorted(f"{name} ({platform})" for platform, name in devices if platform != "gpu")
    if others:
        raise SystemExit(f"The page is of a GPU; there are records of {', '.join(others)}.")
    names = sorted({name for _, name in devices})
    if len(names) > 1:
        raise SystemExit(f"The page is of one kind of GPU; there are records of {', '.join(names)}.")
    parts = ["# On one GPU", head(names[0], records), *(body(part, records) for part in SECTIONS if part in records)]
    return "\n\n".join(parts) + "\n"


def devices_of(record: dict[str, Any]) -> set[tuple[str, str]]:
    """Platform and name of every device that a record has figures of."""
    where = [record["machine"], *(side for row in record["rows"] for side in row.get("sides", {}).values())]
    return {(place["platform"], place["device"]) for place in where if "platform" in place}


def head(device: str, records: dict[str, dict[str, Any]]) -> str:
    """Machine, versions and commands."""
    machine = next(iter(records.values()))["machine"]
    versions = ", ".join(f"{name} {number}" for name, number in machine["versions"].items())
    dates = ", ".join(sorted({record["machine"]["date"] for record in records.values()}))
    return (
        f"`benchmarks/on_gpu.sh` (`python -m benchmarks.gpu PART --out=DIR`), {dates}. One {device}, driver "
        f"{machine['driver']}, {machine['cores']} processor cores; {versions}. Each figure is the median of several "
        "rounds; where two programs are compared, both are compiled and wait on the same card, and take turns."
    )


def body(part: str, records: dict[str, dict[str, Any]]) -> str:
    """A section, which says if time ran out."""
    title, make = SECTIONS[part]
    record = records[part]
    late = [] if record["complete"] else ["There was no time to measure all that was planned."]
    return "\n\n".join([f"## {title}", make(record["rows"], records), *late])


def table(titles: Iterable[str], lines: Iterable[Iterable[Any]]) -> str:
    """Markdown."""
    rows = [list(titles), *lines]
    return "\n".join(f"| {' | '.join(map(str, row))} |" for row in (rows[0], ["---"] * len(rows[0]), *rows[1:]))


def gib(value: float | None) -> str:
    """Bytes, or a dash."""
    return "-" if value is None else f"{value / GIB:.2f}"


def ms(value: float | None) -> str:
    """Seconds, or a dash."""
    return "-" if value is None else f"{1e3 * value:,.3g}" if value < 1 else f"{1e3 * value:,.0f}"


def of_machine(rows: Rows, _: Any) -> str:
    """Ceilings."""
    lines = [
        [row["ceiling"], f"{row['flops'] / 1e12:,.0f} TFLOP/s" if "flops" in row else f"{row['bytes'] / 1e12:.2f} TB/s"]
        for row in rows
    ]
    return "Products of 8,192 x 8,192 random numbers, and a copy of 4 GiB (bytes read and written).\n\n" + table(
        ["", "measured"], lines
    )


def peaks(device: str, records: dict[str, dict[str, Any]]) -> tuple[float | None, float | None]:
    """Operations a second: the data sheet's, and those of a measured bfloat16 product."""
    sheet = next((chip.flops for kind, chip in CHIPS.items() if kind in device.lower() and chip.flops), None)
    measured = [row["flops"] for row in records.get("machine", {}).get("rows", []) if "bfloat16" in row["ceiling"]]
    return sheet, measured[0] if measured else None


def share(flops: float | None, seconds: float | None, peak: float | None) -> str:
    """Percent of a peak, or a dash."""
    return f"{100 * flops / seconds / peak:.1f} %" if flops and seconds and peak else "-"


def of_steps(rows: Rows, records: dict[str, dict[str, Any]]) -> str:
    """A line for each side of each case."""
    lines = []
    for row in rows:
        reference, other = next(iter(row["sides"])), list(row["sides"])[-1]
        flops = row["sides"][reference].get("flops")
        times = {name: side.get("step_s") if "failed" not in side else None for name, side in row["sides"].items()}
        for name, side in row["sides"].items():
            start = [f"{row['network']}, {row['batch']}", label(name, side)]
            if "failed" in side:
                lines.append([*start, side["failed"], *["-"] * 7])
                continue
            sheet, measured = peaks(side["device"], records)
            ratio = f"{times[other] / times[reference]:.2f}" if all(times.values()) and name == reference else ""
            lines.append(
                [
                    *start,
                    f"{row['batch'] / side['step_s']:,.0f}",
                    f"{ms(side['step_s'])} ({ms(side.get('fastest_s'))} to {ms(side.get('slowest_s'))})",
                    share(flops, side["step_s"], sheet),
                    share(flops, side["step_s"], measured),
                    gib(side.get("peak_bytes")),
                    f"{side['compile_s']:.0f}",
                    ratio if side.get("in_turns", True) or not ratio else f"{ratio} (not in turns)",
                    f"{side['parameters'] / 1e6:.2f}",
                ]
            )
    titles = ["network, batch", "", "images/s", "ms (fastest to slowest)", "of the data sheet's peak"]
    titles += ["of the measured product", "peak GiB", "compiled in s", "ratio", "million parameters"]
    return table(titles, lines)


def label(name: str, side: dict[str, Any]) -> str:
    """A side's name, and which loss it has if that is not its own."""
    return f"{name} ({side['loss_from']})" if "loss_from" in side else name


def against_torch(rows: Rows, records: dict[str, dict[str, Any]]) -> str:
    """Steps, with words on what is compared."""
    return (
        "SimCLR at 224 pixels, two views of each image (an image counts once), bfloat16 in the encoder and float32 in "
        "the loss, temperature 0.1, views ready-made on the card; momentum SGD for ResNet-50, AdamW for ViT-S/16. The "
        "peer is PyTorch with `torch.compile`, channels-last, autocast and fused optimizers; ratio is its time over "
        "this library's. Operations are those of products in loss and gradient (`ssl_jax/costs.py`), the same for "
        "both; the peer's compile time is that of its first step.\n\n" + of_steps(rows, records)
    )


def determinism(rows: Rows, records: dict[str, dict[str, Any]]) -> str:
    """The same table; the ratio is the price."""
    return "The ratio is the time with `--deterministic` over the time without.\n\n" + of_steps(rows, records)


def of_ntxent(rows: Rows, _: Any) -> str:
    """Rows by forms."""
    lines = [
        [
            f"{row['rows']:,}",
            row["form"] + (f" by {row['tile']:,}" if row["tile"] else ""),
            row["dtype"],
            ms(row.get("s")) if "failed" not in row else row["failed"],
            f"{row['over_dense']:.2f}" if "over_dense" in row else "-",
            f"{row['temporary_bytes'] / 2**20:,.0f}" if "temporary_bytes" in row else "-",
        ]
        for row in sorted(rows, key=lambda row: row["rows"])
    ]
    return (
        "Value and gradient of rows (both views of a batch) of 128 numbers, temperature 0.1. The forms compute in full "
        '"float32"; "tf32" is what the dense one would take with a matrix unit\'s rounding, which the library does not '
        "do. A form that did not fit is not tried on more rows.\n\n"
        + table(["rows", "form", "embeddings", "ms", "over dense", "temporary MiB"], lines)
    )


def of_augmentation(rows: Rows, records: dict[str, dict[str, Any]]) -> str:
    """Recipes, then steps with and without."""
    alone = [row for row in rows if "sides" not in row]
    lines = [
        [
            row["recipe"],
            row["batch"],
            f"{row['batch'] / row['s']:,.0f}",
            f"{row['views'] * row['batch'] / row['s']:,.0f}",
            ms(row["s"]),
        ]
        for row in alone
    ]
    words = f"{alone[0]['size'] * 8 // 7} pixels to {alone[0]['size']}, uint8 to float32.\n\n" if alone else ""
    made = table(["recipe", "batch", "images/s", "views/s", "ms"], lines)
    steps = {row["views"]: row["sides"]["ssl_jax"].get("step_s") for row in rows if "sides" in row}
    if not all(steps.get(kind) for kind in ("made", "augmented")):
        return words + made
    more = steps["augmented"] - steps["made"]
    return (
        f"{words}{made}\n\nA step of ResNet-50 takes {ms(steps['made'])} ms from views that are there, and "
        f"{ms(steps['augmented'])} ms when it makes them: {more / steps['made']:.1%} more."
    )


def of_equality(rows: Rows, _: Any) -> str:
    """What was compared, and what came of it."""
    lines = []
    for row in rows:
        if "loss_off" in row:
            found = f"loss {row['loss_off']:.0e}, gradient {row['gradient_off']:.0e}"
            allowed = f"{row['loss_tolerance']:.0e}, {row['gradient_tolerance']:.0e}"
        else:
            found, allowed = row.get("failed", "same bits" if row["passed"] else "other bits"), "none"
        lines.append([row["compared"], found, allowed, "yes" if row["passed"] else "**no**"])
    return (
        "Losses are compared relative to the loss, gradients relative to their largest entry; of runs with "
        "`--deterministic`, the digests of the whole state.\n\n"
        + table(["compared", "off by", "tolerance", "passed"], lines)
    )


SECTIONS: dict[str, tuple[str, Callable[[Rows, dict[str, dict[str, Any]]], str]]] = {
    "steps": ("SimCLR's step beside PyTorch's", against_torch),
    "ntxent": ("NT-Xent, dense and in tiles", of_ntxent),
    "augmentation": ("Augmentation", of_augmentation),
    "deterministic": ("What `--deterministic` costs", determinism),
    "equality": ("The same figures and the same bits", of_equality),
    "machine": ("What the card does at most", of_machine),
}
