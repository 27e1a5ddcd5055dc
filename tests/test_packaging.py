"""What pyproject.toml lists by hand is complete: a folder forgotten there would be missing from every wheel."""

import fnmatch
import pathlib
import tomllib

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

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


def test_what_the_tests_install_has_a_tested_version_within_its_bound():
    """`launch/constraints.txt`, which CI and the quickstart install by."""
    lines = (ROOT / "launch" / "constraints.txt").read_text().splitlines()
    pinned = dict(line.split("==") for line in lines if not line.startswith("#"))
    assert "libtpu" not in pinned  # where it is installed, every import of jax looks for a TPU
    project = PROJECT["project"]
    for text in project["dependencies"] + project["optional-dependencies"]["test"]:
        requirement = Requirement(text)
        version = Version(pinned[canonicalize_name(requirement.name)])
        assert requirement.specifier.contains(version), text
        assert [bound.operator for bound in requirement.specifier] == [">="], text
