"""The promises of SECURITY.md."""

import ast
import pathlib
import re

import numpy as np
import pytest
from PIL import Image

import ssl_jax
from ssl_jax import UserError, cli, config_flag, data

ROOT = pathlib.Path(__file__).parents[1]
FILES = sorted([*pathlib.Path(ssl_jax.__file__).parent.rglob("*.py"), *(ROOT / "configs").rglob("*.py")])
PICKLES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "jsonpickle"}
ARCHIVES = {"tarfile"}
UNPACKING = {"unpack_archive", "extractall", "extract"}
PORTS = {"socket", "socketserver", "http.server", "asyncio", "xmlrpc", "multiprocessing.connection", "wsgiref"}


def imported(tree: ast.AST) -> set[str]:
    """Full names of modules, and of what is taken out of them."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def calls(tree: ast.AST) -> list[tuple[str, ast.Call]]:
    """Calls with what is called, as it is written."""
    return [(ast.unparse(node.func), node) for node in ast.walk(tree) if isinstance(node, ast.Call)]


@pytest.fixture(scope="module")
def trees() -> dict[pathlib.Path, ast.AST]:
    return {path: ast.parse(path.read_text(encoding="utf-8")) for path in FILES}


def users(trees, modules: set[str]) -> list:
    below = tuple(f"{name}." for name in modules)
    return [p for p, tree in trees.items() if any(n in modules or n.startswith(below) for n in imported(tree))]


def test_the_checks_see_what_they_look_for():
    bad = ast.parse("import pickle\nfrom http import server\nx.extractall()\nnp.load(f, allow_pickle=True)\neval('1')")
    trees = {pathlib.Path("bad.py"): bad}
    assert users(trees, PICKLES)
    assert users(trees, PORTS)
    assert runs_what_it_reads(bad) == ["np.load(f, allow_pickle=True)", "eval('1')"]


def runs_what_it_reads(tree: ast.AST) -> list[str]:
    found = []
    for name, call in calls(tree):
        words = {word.arg: ast.unparse(word.value) for word in call.keywords}
        if name in ("eval", "exec", "compile", "__import__", "torch.load") or words.get("allow_pickle") == "True":
            found.append(ast.unparse(call))
        if name in ("np.load", "numpy.load") and words.get("allow_pickle") != "False":
            found.append(ast.unparse(call))
    return list(dict.fromkeys(found))


def test_nothing_that_runs_what_it_reads(trees):
    assert len(FILES) > 100
    assert users(trees, PICKLES) == []
    assert {path: found for path, tree in trees.items() if (found := runs_what_it_reads(tree))} == {}


def test_no_archive_is_unpacked(trees):
    assert users(trees, ARCHIVES) == []
    assert [p for p, tree in trees.items() if {name.split(".")[-1] for name, _ in calls(tree)} & UNPACKING] == []


def test_no_port_is_opened(trees):
    assert users(trees, PORTS) == []


def test_no_shell(trees):
    starting = users(trees, {"subprocess"})
    assert [path.name for path in starting] == ["workdir.py"]
    started = [(name, call) for name, call in calls(trees[starting[0]]) if re.fullmatch(r"subprocess\.\w+", name)]
    assert started
    for name, call in started:
        assert name == "subprocess.run"
        assert "shell" not in {word.arg for word in call.keywords}
        assert ast.unparse(call.args[0]).startswith("[*git, ")
    assert [p for p, tree in trees.items() if {"os.system", "os.popen"} & {name for name, _ in calls(tree)}] == []


@pytest.mark.filterwarnings("ignore:the load_module")  # ml_collections, on reading a config
def test_config_is_run_only_from_where_the_user_pointed(tmp_path, monkeypatch):
    """A file with a recipe's name in the current directory is not that recipe, and no other file is run."""
    monkeypatch.chdir(tmp_path)
    for name in ("simclr.py", "common.py", "configs.py", "ml_collections.py"):
        (tmp_path / name).write_text("raise SystemExit('a file was run that nobody named')\n")
    assert config_flag.resolve_config("simclr:test") == f"{ROOT / 'configs' / 'simclr.py'}:test"
    assert config_flag.resolve_config("./simclr.py:test") == "./simclr.py:test"
    with pytest.raises(UserError, match="Unknown config 'unknown'"):
        config_flag.resolve_config("unknown")
    with pytest.raises(UserError, match=r"^Don't know|missing|0 steps"):
        cli.run(["pretrain", "--config=simclr:test", f"--workdir={tmp_path / 'run'}", "--config.steps=0"])


def test_names_of_images_are_never_places_to_write_to(tmp_path):
    """Names that look like paths, markup or formulas come out as they are, and no file appears anywhere."""
    folder = tmp_path / "images"
    names = ["%2e%2e%2fescape.png", "=cmd|'!A1.png", "<script>.png", "{{7*7}}.png"]
    for name in names:
        path = folder / "evil;rm -r $HOME" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(path)
    before = sorted(tmp_path.rglob("*"))
    source = data.load(f"folder:{folder}", "train+test", image_size=8)
    assert sorted(pathlib.Path(name).name for name in source.files.astype(str)) == sorted(names)
    assert sorted(tmp_path.rglob("*")) == before
