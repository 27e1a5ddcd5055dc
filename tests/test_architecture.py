"""The shape of the package: imports only go down, importing is light, everything public is documented."""

import ast
import graphlib
import pathlib
import subprocess
import sys

import pytest

import ssl_jax

PACKAGE = pathlib.Path(ssl_jax.__file__).parent
REPOSITORY = PACKAGE.parent
# A room may import from floors below its own, and from its own floor as long as no circle comes about.
# A new room must be given a floor here.
FLOORS = [
    {"core"},
    {
        "atomic",
        "augment",
        "checks",
        "clustering",
        "collapse",
        "collectives",
        "costs",
        "color_bins",
        "color_space",
        "data",
        "digest",
        "forecast",
        "hardware",
        "hlo",
        "hosts",
        "launchers",
        "slices",
        "lock",
        "losses",
        "memory",
        "monitors",
        "nets",
        "optim",
        "pretext",
        "report",
        "runtime",
        "schedules",
        "sharding",
        "sharding_rules",
        "small_data",
    },
    {"methods"},
    {
        "catalogue",
        "checkpoint",
        "evaluation",
        "interop",
        "micro_batches",
        "protocols",
        "train_step",
        "training",
        "warm_start",
    },
    {
        "advice",
        "cli",
        "config_checks",
        "config_flag",
        "damaged",
        "data_command",
        "evaluate",
        "experiment",
        "export",
        "few_images",
        "flag_help",
        "gallery",
        "host_flags",
        "lengthen",
        "outline",
        "own_encoder",
        "plan",
        "plan_flags",
        "plan_step",
        "plan_table",
        "precompiled",
        "pretrain",
        "preview",
        "progress",
        "shortage",
        "replay",
        "results",
        "signals",
        "skips",
        "target",
        "teachers",
        "verify",
        "workdir",
    },
]
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
HEAVY = (
    "tensorflow_datasets",
    "tensorboardX",
    "matplotlib",
    "sklearn",
    "orbax",
    "torch",
    "tensorflow",
    "safetensors",
    "pycocotools",
    "cv2",
    "simplejpeg",
)
FILES = sorted(path for path in PACKAGE.rglob("*.py") if "configs" not in path.parts)


def name_of(path: pathlib.Path) -> str:
    return str(path.relative_to(PACKAGE))


def room_of(path: pathlib.Path) -> str:
    """First part of the path inside the package, without the suffix."""
    return pathlib.Path(path.relative_to(PACKAGE).parts[0]).stem


def rooms_imported(path: pathlib.Path) -> set[str]:
    """Rooms of the package that a file imports anywhere, functions included."""
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{name_of(path)}: relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        parts = [name.split(".") for name in names]
        rooms |= {part[1] for part in parts if part[0] == "ssl_jax" and len(part) > 1}
    return rooms


INSIDE = [path for path in FILES if room_of(path) not in ("__init__", "__main__")]


@pytest.mark.parametrize("path", INSIDE, ids=name_of)
def test_imports_go_down(path):
    own = room_of(path)
    assert own in FLOOR, f"give {own} a floor"
    wrong = {room for room in rooms_imported(path) if FLOOR[room] > FLOOR[own]}
    assert not wrong, f"{own} (floor {FLOOR[own]}) imports {sorted(wrong)}"


def test_no_circles():
    graph: dict[str, set[str]] = {}
    for path in INSIDE:
        graph.setdefault(room_of(path), set()).update(rooms_imported(path) - {room_of(path)})
    assert set(graph) == set(FLOOR)
    tuple(graphlib.TopologicalSorter(graph).static_order())  # raises CycleError


def test_methods_know_no_other_method_no_data_and_no_config():
    for path in PACKAGE.glob("methods/[!_]*.py"):
        assert rooms_imported(path) <= (FLOORS[0] | FLOORS[1]) - {"data", "report", "monitors", "optim"}
        assert "ml_collections" not in path.read_text()


def test_configs_become_keyword_arguments_at_the_top():
    users = {room_of(path) for path in FILES if "ml_collections" in path.read_text()}
    assert users <= {
        "cli",
        "config_flag",
        "experiment",
        "workdir",
        "plan",
        "plan_step",
        "pretrain",
        "evaluate",
        "few_images",
        "teachers",
    }


def test_only_one_file_knows_orbax():
    assert [name_of(path) for path in FILES if "import orbax" in path.read_text()] == ["checkpoint.py"]


@pytest.mark.parametrize("module", ["ssl_jax", "ssl_jax.cli", "ssl_jax.pretrain"])
def test_import_is_light(module):
    code = f"import {module}, sys; print([m for m in {HEAVY} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_public_things_are_documented(path):
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree), "the module has no docstring"
    kinds = (ast.FunctionDef, ast.ClassDef)
    public = [node for node in tree.body if isinstance(node, kinds) and not node.name.startswith("_")]
    methods = [(c, m) for c in public if isinstance(c, ast.ClassDef) for m in c.body if isinstance(m, ast.FunctionDef)]
    missing = [node.name for node in public if not ast.get_docstring(node)]
    # A protocol's and an abstract method's words stand in the class's docstring.
    missing += [
        f"{c.name}.{m.name}"
        for c, m in methods
        if not m.name.startswith("_") and not ast.get_docstring(m) and not any(isinstance(x, ast.Raise) for x in m.body)
    ]
    assert not missing


@pytest.mark.parametrize("folder", ["ssl_jax", "configs", "tests", "benchmarks", "examples"])
def test_files_are_short(folder):
    lengths = {str(p): len(p.read_text().splitlines()) for p in (REPOSITORY / folder).rglob("*.py")}
    assert {p: n for p, n in lengths.items() if n > 500} == {}
    if folder == "ssl_jax":
        assert sorted(lengths.values())[len(lengths) // 2] <= 150
