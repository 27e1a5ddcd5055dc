"""What the documentation says of the methods is what the methods say of themselves."""

import importlib.util
import pathlib
import re

import pytest

from ssl_jax import catalogue, methods

ROOT = pathlib.Path(__file__).parents[1]


def generate():
    """The script, as a module."""
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_generated_parts_are_up_to_date():
    stale = [str(path.relative_to(ROOT)) for path, text in generate().pages().items() if path.read_text() != text]
    assert not stale, "run: python docs/generate.py"


@pytest.mark.parametrize("name", methods.__all__)
def test_every_method_has_a_page_and_a_card(name):
    page = (ROOT / "docs" / "methods" / f"{name}.md").read_text()
    assert page.startswith("# ")
    assert "## Gotchas" in page
    about = catalogue.card(name)
    assert about.papers
    for number in about.papers:
        assert re.fullmatch(r"\d{4}\.\d{4,5}|cs/\d+|https://\S+", number)
    title, idea = catalogue.summary(name)
    assert title
    assert idea


def test_table_has_a_line_for_every_method():
    text = catalogue.table()
    assert len(text.splitlines()) == len(methods.__all__) + 1
    for name in methods.__all__:
        assert re.search(rf"^{name} ", text, re.MULTILINE)
