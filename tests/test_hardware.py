"""Names of topologies, and forecasts by hand."""

import re

import pytest

from ssl_jax import UserError, forecast, hardware, slices
from ssl_jax.collectives import Collective

NAMES = {
    "v5e:16x16": ("v5e:16x16", 256, 256),
    "v5e-256": ("v5e:16x16", 256, 256),
    "v5litepod-8": ("v5e:2x4", 8, 8),
    "V5E:2x2": ("v5e:2x2", 4, 4),
    "v5e:1x1": ("v5e:1x1", 1, 1),
    "v4:4x4x8": ("v4:4x4x8", 128, 128),
    "v4-8": ("v4:2x2x1", 4, 4),
    "v4-128": ("v4:4x4x4", 64, 64),
    "v5p-512": ("v5p:4x8x8", 256, 256),
    "v5p:8x8x8": ("v5p:8x8x8", 512, 512),
    "v5p:16x16x24": ("v5p:16x16x24", 6144, 6144),
    "v3-128": ("v3:8x8", 64, 128),  # here a core is a device
    "v6e:16x16": ("v6e:16x16", 256, 256),
    "h100:64": ("h100:64", 64, 64),
    "cpu:8": ("cpu:8", 8, 8),
}


@pytest.mark.parametrize("name", NAMES)
def test_names(name):
    found = hardware.parse(name)
    assert (found.name, found.chips, found.devices) == NAMES[name]
    assert hardware.parse(found.name) == found


def test_slices():
    two = hardware.parse("v5e:4x4", slices=2)
    assert (two.devices, str(two)) == (32, "2 x v5e:4x4")


BAD = {
    "v9:2x2": "Unknown topology 'v9:2x2'; there is v3:4x4, v4:4x4x4",
    "many": "Unknown topology",
    "v5e:3x3": "There is no slice v5e:3x3; there is v5e:1x1, v5e:2x2, v5e:2x4, v5e:4x4, v5e:4x8",
    "v5e:2x6": "no slice v5e:2x6",
    "v5e:16x2": "no slice v5e:16x2",
    "v5e:32x32": "1,024 chips, and the largest slice of v5e 256; use --slices",
    "v5e-512": "512 chips, and the largest slice of v5e 256; use --slices",
    "v3:1x1": "no slice v3:1x1; there is v3:2x2",
    "v4:6x2x2": "no slice v4:6x2x2; there is v4:2x2x1, v4:2x2x2, v4:2x2x4, v4:2x4x4, and v4:AxBxC of multiples of 4",
    "v4:8x4x4": "with A <= B <= C",
    "v5p:16x16x32": "the largest slice of v5p 6,144",
    "v5e:4x4x4": "has 2 numbers, such as v5e:4x4",
    "v5e-24": "give its shape",
    "v4-7": "give an even number",
    "cpu:2x4": "takes a number of devices, such as cpu:8",
    "cpu:0": "above 0",
}


@pytest.mark.parametrize("name", BAD)
def test_bad_names(name):
    with pytest.raises(UserError, match=re.escape(BAD[name])):
        hardware.parse(name)


def test_every_slice_that_is_listed_is_one():
    for kind, shapes in slices.SHAPES.items():
        for shape in shapes:
            assert hardware.parse(f"{kind}:{shape}").name == f"{kind}:{shape}"
    with pytest.raises(UserError, match="v6e:1x1 has one; take a larger one for --slices"):
        hardware.parse("v6e:1x1", slices=2)


def test_slices_are_of_tpus():
    with pytest.raises(UserError, match="Slices are of TPUs"):
        hardware.parse("h100:8", slices=2)


@pytest.mark.parametrize("kind", [k for k, c in hardware.CHIPS.items() if c.clock])
def test_peaks_are_whole_numbers_of_matrix_units(kind):
    """A unit of n x n multiplies and adds n^2 numbers in a cycle, so peak / clock is a power of two."""
    chip = hardware.CHIPS[kind]
    units = chip.flops / (2 * 128 * 128 * chip.clock)
    assert min(abs(units / 2**i - 1) for i in range(7)) < 0.01


def test_step_by_hand():
    """8 chips of 197 TFLOP/s and 819 GB/s; 16 MB round a 2 x 4 torus at 200 GB/s, six hops of a microsecond."""
    topology = hardware.parse("v5e:2x4")
    rows = forecast.summary([Collective("all-reduce", 16_000_000, 8, 1, True)], topology)
    assert rows[0]["sent_per_device"] == 28_000_000
    assert rows[0]["seconds"] == pytest.approx(28e6 / 200e9 + 6e-6)
    times = forecast.step_seconds(topology, flops=8 * 197e12 * 0.1, traffic=819e9 * 0.2, cycles=None, rows=rows)
    assert (times["products"], times["memory"], times["basis"]) == (pytest.approx(0.1), pytest.approx(0.2), "roofline")
    assert times["step"] == pytest.approx(0.2 + rows[0]["seconds"])
    times = forecast.step_seconds(topology, flops=1.0, traffic=1.0, cycles=450_000_000, rows=rows)
    assert (times["compiler"], times["basis"]) == (pytest.approx(0.3), "compiler")
    run = forecast.run(topology, step=0.5, steps=7200, batch=64, flops=8 * 197e12 * 0.25, price=2.0)
    assert run == {
        "images_per_second": 128.0,
        "model_flop_utilisation": pytest.approx(0.5),
        "hours": 1.0,
        "chip_hours": 8.0,
        "cost": 16.0,
    }


def test_float32_is_multiplied_as_jax_does():
    """In TF32 on GPUs at half of bfloat16's peak, in float32 on the oldest, and in bfloat16 on TPUs."""
    found = {kind: (chip.arithmetic("float32"), chip.peak("float32")) for kind, chip in hardware.CHIPS.items()}
    assert found["h100"] == ("TF32", 494.7e12)
    assert found["v100"] == ("float32", 15.7e12)
    assert found["v5e"] == ("bfloat16", 197e12)
    assert found["gpu"] == ("TF32 or float32", None)
    topology = hardware.parse("h100:1")
    how = {"flops": 494.7e12, "traffic": 1.0, "cycles": None, "rows": []}
    assert forecast.step_seconds(topology, **how, dtype="float32")["products"] == pytest.approx(1.0)
    assert forecast.step_seconds(topology, **how, dtype="bfloat16")["products"] == pytest.approx(0.5, rel=1e-3)
    run = forecast.run(topology, step=1.0, steps=1, batch=1, flops=494.7e12, price=None, dtype="float32")
    assert run["model_flop_utilisation"] == pytest.approx(1.0)


def test_between_slices_and_nodes_it_is_slower():
    over = Collective("send", 10**9, 2, 1, True)
    assert forecast.seconds_of(over, hardware.parse("v5e:4x4", slices=2)) == pytest.approx(1 / 3.1, rel=1e-3)
    gather = Collective("all-gather", 10**9, 16, 1, True)
    inside, beyond = (forecast.seconds_of(gather, hardware.parse(name)) for name in ("h100:8", "h100:16"))
    assert beyond > 8 * inside
    assert forecast.seconds_of(gather, hardware.parse("cpu:8")) is None
