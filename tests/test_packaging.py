"""What pyproject.toml lists by hand is complete: a folder forgotten there would be missing from every wheel."""

import fnmatch
import pathlib
import tomllib

ROOT = pathlib.Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
SETUPTOOLS = PROJECT["tool"]["setuptools"]


def test_every_package_is_listed():
    folders = {path.parent.relative_to(ROOT) for path in (ROOT / "ssl_jax").rglob("__init__.py")}
    assert {".".join(folder.parts) for folder in folders} | {"ssl_jax.configs"} == set(SETUPTOOLS["packages"])


def test_every_data_file_is_listed():
    package = ROOT / "ssl_jax"
    files = [p for p in package.rglob("*") if p.is_file() and p.suffix not in (".py", ".pyc")]
    names = [p.relative_to(package).as_posix() for p in files]
    patterns = SETUPTOOLS["package-data"]["ssl_jax"]
    assert names
    assert [name for name in names if not any(fnmatch.fnmatch(name, pattern) for pattern in patterns)] == []


def test_version_is_the_same_everywhere():
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\nversion: {PROJECT['project']['version']}\n" in citation
