"""`ssl-jax plan`: the real step, compiled here for eight CPU devices and, where libtpu is, for a TPU slice."""

import functools
import importlib.util
import json
import math
import pathlib
import re
import types

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict
from test_configs import get_config

from ssl_jax import (
    UserError,
    advice,
    cli,
    experiment,
    hardware,
    hlo,
    outline,
    plan,
    plan_step,
    plan_table,
    precompiled,
    target,
)
from ssl_jax import data as images
from ssl_jax.sharding import put
from ssl_jax.training import for_step, initial_state

pytestmark = pytest.mark.filterwarnings("ignore:the load_module")  # ml_collections, on reading a config
CPU = hardware.parse("cpu:8")


@functools.cache
def planned(name: str, form: str = "") -> tuple[ConfigDict, dict, object]:
    """Config, record and compiled step of a test variant on eight devices; of the digits it knows their number only."""
    config = get_config(name, "test")
    if form:
        config.method_args.update({"form": form, "dim": 24})
    return config, *plan.plan(config, CPU, anew=name == "moco")


def test_memory_by_kind_is_that_of_the_real_arrays():
    config, record, _ = planned("moco")
    parts = experiment.build(config)
    state = initial_state(parts.method, parts.source, **parts.parts)
    batch = next(images.batches(parts.source, batch_size=config.batch_size, seed=0))
    here = {
        "parameters": state.params,
        "optimizer": state.opt_state,
        "batch statistics": state.carry.model_state,
        "teacher": state.carry.teacher,
        "memory bank": state.carry.memory,
    }
    kinds = record["memory"]["by_kind"]
    assert {name: kinds[name] for name in here} == {
        name: sum(x.nbytes for x in jax.tree.leaves(tree)) for name, tree in here.items()
    }
    assert kinds["batch"] == sum(x.nbytes for x in for_step(parts.method, batch).values()) // 8
    assert record["memory"]["total"] == sum(kinds.values())
    assert min(kinds["teacher"], kinds["memory bank"], kinds["activations and temporaries"]) > 0
    assert record["run"]["steps"] == parts.steps


def test_a_split_state_is_planned_as_split():
    config = get_config("moco", "test")
    step = plan_step.step_for(config, jax.devices())
    whole = plan_step.memory_by_kind(step)
    config.sharding_rules = ((r"(kernel|queue)$", "largest"),)
    step = plan_step.step_for(config, jax.devices())
    split = plan_step.memory_by_kind(step)
    assert split["memory bank"] < whole["memory bank"] / 7
    for kind in ("parameters", "optimizer", "teacher"):
        assert split[kind] < whole[kind] / 3
    kinds = [c.kind for c in plan.estimate(step, CPU)["collectives"]]
    assert kinds == ["all-reduce", "all-gather"]


def test_a_saved_step_is_the_step_to_the_bit(tmp_path):
    config, record, compiled = planned("moco")
    precompiled.save(compiled, tmp_path / "step.bin", record)
    step = plan_step.step_for(config, jax.devices())
    loaded = precompiled.load(tmp_path / "step.bin", step)
    parts = experiment.build(config)
    batch = next(images.batches(parts.source, batch_size=config.batch_size, seed=0))
    batch = put(for_step(parts.method, batch), parts.mesh)
    found, wanted = (
        run(initial_state(parts.method, parts.source, **parts.parts), batch) for run in (loaded, step.function)
    )
    assert jax.tree.structure(found) == jax.tree.structure(wanted)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        assert a.dtype == b.dtype
        assert a.sharding.is_equivalent_to(b.sharding, a.ndim)
        keys = jax.dtypes.issubdtype(a.dtype, jax.dtypes.prng_key)
        np.testing.assert_array_equal(*(jax.random.key_data(x) if keys else x for x in (a, b)))


def test_a_saved_step_of_something_else_is_refused(tmp_path):
    config, record, compiled = planned("moco")
    path = tmp_path / "step.bin"
    precompiled.save(compiled, path, {**record, "versions": {"jax": "0.1"}})
    with pytest.raises(UserError, match="was compiled by"):
        precompiled.load(path, plan_step.step_for(config, jax.devices()))
    precompiled.save(compiled, path, record)
    with pytest.raises(UserError, match="not of this config and mesh"):
        precompiled.load(path, plan_step.step_for(get_config("simclr", "test"), jax.devices()))
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError, match="save it again"):
        precompiled.load(path, plan_step.step_for(config, jax.devices()))
    precompiled.sidecar(path).unlink()
    with pytest.raises(UserError, match=r"are no saved step \(No such file"):
        precompiled.load(path, plan_step.step_for(config, jax.devices()))
    with pytest.raises(UserError, match=r"can't be saved to .*: No such file"):
        precompiled.save(compiled, tmp_path / "gone" / "step.bin", record)
    assert [x.name for x in tmp_path.iterdir()] == ["step.bin"]


@pytest.mark.parametrize("form", ["dense", "ring"])
def test_a_ring_holds_no_matrix_of_logits(form):
    """Of both views of 64 images on eight devices: dense holds [16, 128] on each, a ring nothing that has 128 rows."""
    config, record, compiled = planned("simclr", form)
    rows = 2 * config.batch_size
    shapes = [shape for _, shape in hlo.arrays(compiled.as_text())]
    assert shapes
    assert ((rows // 8, rows) in shapes) == (form == "dense")
    kinds = {row["kind"]: row for row in record["collectives"]}
    assert ("collective-permute" in kinds) == (form == "ring")
    if form == "ring":
        assert not [shape for shape in shapes if shape.count(rows) > 1]
        # Rows with their numbers go round forwards, and with log-sum-exp and cotangent too backwards.
        assert kinds["collective-permute"]["bytes"] == rows * 4 * (2 * 24 + 1 + 3)
    assert all(row["loops_known"] for row in kinds.values())
    assert "all-reduce" in kinds


def test_a_papers_recipe_without_its_data():
    """ResNet-18 multiplies and adds 1.814e9 times for an image of 224 pixels, and twice so for its gradient."""
    config = get_config("simclr", "")
    config.encoder = "resnet18"  # traced in half the time
    record, _ = plan.plan(config, hardware.parse("v5e-256"), compiling=False, price=1.2)
    assert record["run"]["steps"] == 31_278
    assert record["config"]["parameters"] == 11_176_512 + 512 * 512 + 2 * 512 + 512 * 128 + 128
    assert record["flops"]["model"] == pytest.approx(8192 * 3 * 2 * 1.814e9, rel=0.03)
    assert record["memory"]["by_kind"]["optimizer"] == record["memory"]["by_kind"]["parameters"] + 4
    assert record["memory"]["fits"] is True
    assert 0 < record["run"]["hours"] < 1.5
    assert record["run"]["cost"] == pytest.approx(record["run"]["hours"] * 256 * 1.2)
    text = plan_table.table(record)
    for part in ("An estimate", "it fits", "TPU v5e", "model-FLOP utilisation", "cost at 1.2"):
        assert part in text


def test_advice_is_of_what_helps():
    """Ten times too much: sixteen parts are enough, and so are sixteen times the devices."""
    config, topology = get_config("simclr", ""), hardware.parse("v5e:16x16")
    kinds = {"parameters": 2**27, "activations and temporaries": 10 * 15 * 2**30}
    config.batch_size = 32_768
    room = topology.chip.memory
    memory = advice.fits(kinds, room)
    assert memory["fits"] is False
    said = advice.advice(config, topology, memory)
    assert said[0] == "--config.dtype=bfloat16 halves activations."
    assert said[1].startswith("--config.micro_batches=16 ")
    assert said[2].startswith("--config.remat=blocks ")
    assert said[3] == "16 times as many devices (4,096) hold it as it is."
    assert advice.advice(config, topology, advice.fits({"parameters": 1}, room)) == []
    refused = advice.fits(kinds, room, 40 * 2**30)  # the compiler's word goes before the estimate
    assert (refused["fits"], refused["total"]) == (False, 40 * 2**30)
    assert advice.advice(config, topology, refused)[1].startswith("--config.micro_batches=4 ")
    alone = advice.fits({"parameters": 2**35, "activations and temporaries": 1}, room)
    assert advice.advice(config, topology, alone)[0].startswith("--config.sharding=fsdp splits the 32.0 GiB of state")
    config.sharding = "fsdp"
    assert "fsdp" not in advice.advice(config, topology, alone)[0]


def gpu(name: str, limit: int | None) -> types.SimpleNamespace:
    """A device as JAX describes one."""
    stats = limit and {"bytes_limit": limit}
    return types.SimpleNamespace(platform="gpu", device_kind=name, memory_stats=lambda: stats)


def test_memory_of_a_gpu(monkeypatch):
    """What JAX has of a card that is here, whatever its name; of others 0.75, or what the environment says."""
    monkeypatch.delenv(hardware.SHARE, raising=False)
    here, eight = hardware.parse("gpu:1"), hardware.parse("a100:8")
    small, unknown = gpu("NVIDIA A100-SXM4-40GB", 31 * 10**9), gpu("NVIDIA L4", 17 * 10**9)
    assert target.memory(here, small) == target.memory(eight, small) == (31 * 10**9, None)
    assert target.memory(here, unknown) == (17 * 10**9, None)
    assert target.memory(eight, unknown) == target.memory(eight, jax.devices()[0]) == (60e9, 0.75)
    monkeypatch.setenv(hardware.SHARE, "0.95")
    assert target.memory(eight, jax.devices()[0]) == (76e9, 0.95)
    assert target.memory(here, gpu("NVIDIA L4", None)) == (None, None)
    assert target.memory(hardware.parse("v5e:2x2"), jax.devices()[0]) == (15.75 * 2**30, None)


def test_names_of_gpus_are_whole_words():
    here = hardware.parse("gpu:1")
    names = {
        "NVIDIA A100-SXM4-40GB": "a100",
        "NVIDIA H100 80GB HBM3": "h100",
        "NVIDIA H200": "h200",
        "Tesla V100-SXM2-16GB": "v100",
        "NVIDIA GH200 480GB": "gpu",
        "NVIDIA H100 PCIe": "gpu",  # slower than the SXM of the table
        "NVIDIA H100 80GB HBM3 MIG 1g.10gb": "gpu",
        "NVIDIA L4": "gpu",
    }
    assert {name: target.kind_of(gpu(name, None), here) for name in names} == names


def test_a_gpus_plan_says_what_it_rests_on(monkeypatch, capsys):
    """float32 at TF32's peak, three quarters of the card, and more of it as the first advice where that is enough."""
    monkeypatch.delenv(hardware.SHARE, raising=False)
    command = ["plan", "--config=simclr:test", "--topology=h100:8", "--nocompile"]
    assert cli.main(command) == 0
    text = capsys.readouterr().out
    assert (
        "Memory of each device of 55.88 GiB (0.75 of the card, as XLA_PYTHON_CLIENT_MEM_FRACTION says): it fits" in text
    )
    assert "products at the peak of TF32" in text
    memory = advice.fits({"activations and temporaries": 70 * 10**9}, 60e9, share=0.75)
    said = advice.advice(get_config("simclr", ""), hardware.parse("h100:8"), memory)
    assert said[0] == "XLA_PYTHON_CLIENT_MEM_FRACTION=0.95 in the environment gives JAX more of the card than 0.75."


def test_the_step_of_32768_images_that_is_on_record_holds_no_matrix_of_logits():
    """Of 65,536 rows, on 256 TPU v5e chips: no array of the largest has them; the matrix would be the first."""
    path = pathlib.Path(__file__).parents[1] / "docs" / "benchmarks" / "plans.json"
    record = json.loads(path.read_text(encoding="utf-8"))["simclr-32768-v5e-256"]
    assert record["basis"] == "compiled"
    assert record["memory"]["fits"]
    assert record["config"]["batch_size"] == 32_768
    arrays = [re.fullmatch(r"\w+\[([\d,]+)\]", text)[1].split(",") for text in record["largest_arrays"]]
    assert len(arrays) == 3
    assert not [shape for shape in arrays if "65536" in shape]
    assert all(math.prod(map(int, shape)) < 65_536**2 for shape in arrays)


def test_a_ring_over_slices_is_advised_against():
    """By the plans on record: over two slices the ring waits for the network; gathered embeddings hardly do."""
    path = pathlib.Path(__file__).parents[1] / "docs" / "benchmarks" / "plans.json"
    ring, tiled = (
        json.loads(path.read_text(encoding="utf-8"))[f"simclr-8192-2xv5e-256{end}"] for end in ("", "-tiled")
    )
    config = get_config("simclr", "")
    [said] = advice.faster(config, ring["collectives"], ring["seconds"]["step"])
    assert said.startswith("--config.method_args.form=tiled")
    assert "85% of the step" in said
    assert plan_table.told({**ring, "advice": [said]}).startswith("To make it faster:\n  - --config.method_args.form")
    assert tiled["seconds"]["step"] < 0.25 * ring["seconds"]["step"]
    assert advice.faster(config, tiled["collectives"], tiled["seconds"]["step"]) == []
    assert advice.faster(get_config("dino", ""), ring["collectives"], ring["seconds"]["step"]) == []


def test_what_a_compiler_says_of_memory():
    said = "RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory space hbm. Used 20.50G of"
    assert plan.wanted_bytes(Exception(said + " 15.75G hbm.")) == 20.5 * 2**30
    said = "RESOURCE_EXHAUSTED: the total memory required for HLO temporaries (1.16T) exceeds available HBM (15.75G)."
    assert plan.wanted_bytes(Exception(said)) == pytest.approx(1.16 * 2**40)
    assert plan.wanted_bytes(Exception("INTERNAL: something else")) is None


@pytest.mark.parametrize("name", ["distillation", "bownet"])
def test_teachers_need_not_be_there(name):
    config = get_config(name, "")
    source = outline.outline(config)
    teacher = outline.teacher(config, source)
    assert len(source) == outline.KNOWN[config.data][0]
    assert (teacher is None) == ("teacher" not in config)


def test_data_of_ones_own():
    config = get_config("simclr", "")
    config.data = "folder:/no/such/place"
    source = outline.outline(config, examples=5000, classes=3)
    assert (len(source), len(source.classes), source[np.arange(2)]["image"].shape) == (5000, 3, (2, 256, 256, 3))
    with pytest.raises(UserError, match="give --examples"):
        outline.outline(config)
    config.data, config.train_split = "tfds:imagenet2012", "train[:10%]"
    assert len(outline.outline(config)) == 128_117
    config.image_size = 0
    with pytest.raises(UserError, match="set --config"):
        outline.outline(config)


def test_command(capsys, tmp_path):
    """The same plan as a table and as JSON, and the step in a file."""
    command = [
        "plan",
        "--config=simclr:test",
        "--topology=cpu:8",
        "--config.method_args.form=dense",
        "--config.method_args.dim=24",
    ]
    assert cli.main([*command, f"--save={tmp_path / 'step.bin'}", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["basis"] == "compiled"
    assert record["memory"] == planned("simclr", "dense")[1]["memory"]
    assert json.loads((tmp_path / "step.bin.json").read_text())["plan"] == record
    text = plan_table.table(record)
    for part in (
        "simclr with convnet (9,776 parameters), float32, batch 64",
        "8 x CPU",
        "all-reduce",
        "Time: unknown",
    ):
        assert part in text


BAD = {
    "topology": (["--topology=v9:2x2"], "Unknown topology 'v9:2x2'; there is v3:4x4"),
    "no topology": ([], "The flag --topology is missing"),
    "batch": (["--topology=v5e:4x4", "--nocompile", "--config.batch_size=100"], "not divisible by the 16 devices"),
    "more devices than batch": (["--topology=v5e-256", "--nocompile"], "not divisible by the 256 devices"),
    "micro-batches": (
        ["--topology=v5e:2x2", "--nocompile", "--config.micro_batches=3"],
        "3 micro-batches on 4 device(s)",
    ),
    "more CPU devices than there are": (["--topology=cpu:64"], "cpu:64 wants 64 devices, and 8 of these are here"),
    "GPUs": (["--topology=h100:8"], "--nocompile estimates"),
    "nothing to save": (["--topology=cpu:8", "--nocompile", "--save=x"], "--save writes the compiled step"),
    "no place to save": (["--topology=cpu:8", "--save=/no/such/place/x"], "no directory /no/such/place that can be"),
    "a directory to save": (["--topology=cpu:8", "--save=/"], "that is a directory; give --save another file"),
    "slices": (["--topology=cpu:8", "--slices=2"], "Slices are of TPUs"),
    "no such slice": (["--topology=v5e:32x32", "--nocompile"], "use --slices for several"),
    "unknown data": (["--topology=cpu:8", "--config.data=digit"], "give --examples"),
}


@pytest.mark.parametrize(("flags", "said"), BAD.values(), ids=BAD)
def test_bad_input(capsys, flags, said):
    assert cli.main(["plan", "--config=simclr:test", *flags]) == 1
    out, err = capsys.readouterr()
    assert not out
    assert re.fullmatch(r"ssl-jax: \S.+[.?]", err.splitlines()[-1])
    assert said in err.splitlines()[-1]


def test_without_libtpu(capsys, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert cli.main(["plan", "--config=simclr:test", "--topology=v5e:2x2"]) == 1
    assert "pip install 'ssl_jax[tpu]'; or --nocompile" in capsys.readouterr().err


if importlib.util.find_spec("libtpu"):  # elsewhere there is no test to skip

    def test_for_a_tpu_slice_that_is_not_here():
        record, compiled = plan.plan(get_config("simclr", "test"), hardware.parse("v5e:2x2"))
        assert compiled is not None
        assert record["memory"]["fits"] is True
        assert record["seconds"]["basis"] == "compiler"
        assert "all-reduce" in {row["kind"] for row in record["collectives"]}
        assert jax.default_backend() == "cpu"
        assert math.isfinite(record["run"]["images_per_second"])
