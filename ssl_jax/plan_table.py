"""A plan for people: one table of what a step needs, and where the numbers come from."""

from typing import Any

from ssl_jax.hardware import SHARE

UNITS = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def table(record: dict[str, Any]) -> str:
    """The record of `plan.plan` as text."""
    parts = [_head(record), _memory(record), _work(record), _collectives(record), _time(record), told(record)]
    return "\n\n".join(part for part in parts if part)


def size(count: int | float | None) -> str:
    """Bytes with the unit that fits: powers of 1,024, as memory is sold and compilers speak."""
    if count is None:
        return "unknown"
    for exponent, unit in ((3, "GiB"), (2, "MiB"), (1, "KiB")):
        if count >= 1024**exponent:
            return f"{count / 1024**exponent:,.2f} {unit}"
    return f"{count:,.0f} B"


def number(count: float | None, unit: str = "") -> str:
    """A number with a prefix for thousands, millions and so on."""
    if count is None:
        return "unknown"
    for factor, prefix in UNITS:
        if count >= factor:
            return f"{count / factor:,.2f} {prefix}{unit}"
    return f"{count:,.3g} {unit}".rstrip()


def duration(seconds: float | None) -> str:
    """Milliseconds below a second."""
    if seconds is None:
        return "unknown"
    return f"{seconds:,.2f} s" if seconds >= 1 else f"{1e3 * seconds:,.2f} ms"


def rows(pairs: list[tuple[str, str]]) -> str:
    """Two columns, the second to the right."""
    left = max(len(name) for name, _ in pairs)
    right = max(len(value) for _, value in pairs)
    return "\n".join(f"  {name:<{left}}  {value:>{right}}" for name, value in pairs)


def _head(record: dict[str, Any]) -> str:
    config, topology = record["config"], record["topology"]
    parts = f", {config['micro_batches']} micro-batches" if config["micro_batches"] > 1 else ""
    many = f"{topology['slices']} x " if topology["slices"] > 1 else ""
    versions = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
    how = {
        "compiled": f"Compiled in {record['compile_seconds'] or 0:,.0f} s ({versions}).",
        "estimate": f"An estimate from the traced step ({versions}): see docs/scaling.md for how far off.",
        "refused": f"Its compiler refused it ({versions}); apart from the total, an estimate from the traced step.",
    }[record["basis"]]
    return (
        f"{config['method']} with {config['encoder']} ({config['parameters']:,} parameters), {config['dtype']}, batch "
        f"{config['batch_size']:,}{parts}\n"
        f"on {many}{topology['name']}: {topology['devices']:,} x {topology['chip']}. {how}"
    )


def _memory(record: dict[str, Any]) -> str:
    memory = record["memory"]
    pairs = [(name, size(count)) for name, count in memory["by_kind"].items() if count]
    pairs.append(("total", size(memory["total"])))
    verdict = {True: "it fits", False: "IT DOES NOT FIT", None: "whether that is there is not known"}[memory["fits"]]
    room = "" if memory["available"] is None else f" of {size(memory['available'])}"
    if memory["share_of_the_card"]:
        room += f" ({memory['share_of_the_card']:g} of the card, as {SHARE} says)"
    return f"Memory of each device{room}: {verdict}\n{rows(pairs)}"


def _work(record: dict[str, Any]) -> str:
    flops, devices = record["flops"], record["topology"]["devices"]
    pairs = [
        ("products, all devices", number(flops["step"], "FLOP")),
        ("products, each device", number(flops["step"] / devices, "FLOP")),
        ("of these the model's own", f"{100 * flops['model'] / max(flops['step'], 1):.1f} %"),
        ("memory read and written, each device", number(record["bytes_accessed_per_device"], "B")),
    ]
    return f"Work of a step\n{rows(pairs)}"


def _collectives(record: dict[str, Any]) -> str:
    found = record["collectives"]
    if not found:
        return "Collectives: none"
    lines = [("kind", "number", "bytes", "each device sends", "time")]
    for row in found:
        once = "" if row["loops_known"] else " (some in loops of unknown length, counted once)"
        count = f"{row['count']:,}"
        lines.append(
            (row["kind"] + once, count, size(row["bytes"]), size(row["sent_per_device"]), duration(row["seconds"]))
        )
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = ["  ".join(_cell(i, *pair) for i, pair in enumerate(zip(line, widths, strict=True))) for line in lines]
    kind = "" if record["basis"] == "compiled" else " (the gradient's alone: batch statistics are not counted)"
    return f"Collectives of a step{kind}\n" + "\n".join(f"  {line}" for line in text)


def _cell(column: int, text: str, width: int) -> str:
    return f"{text:>{width}}" if column else f"{text:<{width}}"


def _time(record: dict[str, Any]) -> str:
    seconds, run = record["seconds"], record["run"]
    if seconds["step"] is None:
        return (
            f"Time: unknown, since nothing is known of a {record['topology']['chip']}'s peaks. {run['steps']:,} steps."
        )
    by = (
        "arithmetic by the compiler's cycles" if seconds["basis"] == "compiler" else "the slower of products and memory"
    )
    pairs = [
        (f"products at the peak of {record['topology']['products_in']}", duration(seconds["products"])),
        ("memory at full speed", duration(seconds["memory"])),
        ("arithmetic by the compiler's cycles", duration(seconds["compiler"])),
        ("collectives, none of them hidden", duration(seconds["collectives"])),
        ("step", duration(seconds["step"])),
        ("images per second", f"{run['images_per_second']:,.0f}"),
        ("model-FLOP utilisation", f"{100 * run['model_flop_utilisation']:.1f} %"),
        (f"{run['epochs']:,.4g} epochs, {run['steps']:,} steps", f"{run['hours']:,.2f} h"),
        ("chip-hours", f"{run['chip_hours']:,.1f}"),
    ]
    if seconds["compiler"] is None:
        del pairs[2]
    if run["cost"] is not None:
        pairs.append((f"cost at {run['price_per_chip_hour']:g} per chip and hour", f"{run['cost']:,.2f}"))
    return f"Time (a forecast: {by}, and collectives; input, checkpoints and start come on top)\n{rows(pairs)}"


def told(record: dict[str, Any]) -> str:
    """What to change, and what for; nothing where there is nothing."""
    aim = "fit" if record["memory"]["fits"] is False else "faster"
    return "\n".join([f"To make it {aim}:", *(f"  - {text}" for text in record["advice"])]) if record["advice"] else ""
