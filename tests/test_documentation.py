"""What the documentation says of the methods is what the methods say of themselves."""

import functools
import importlib.util
import pathlib
import re
import shlex

import pytest

from ssl_jax import catalogue, cli, methods

ROOT = pathlib.Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
# Names of files that only exist in a run, in somebody's data or in somebody else's project are not looked for.
ROOMS = ("benchmarks", "configs", "docs", "examples", "launch", "ssl_jax", "tests")


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
    lines = catalogue.table().splitlines()
    assert len(lines) == len(methods.__all__) + len(catalogue.FAMILIES) + 1
    for name in methods.__all__:
        [line] = [line for line in lines if line.startswith(f"{name} ")]
        shown = line[: lines[0].index("state it keeps")]
        assert catalogue.idea(name) in shown
        assert catalogue.figures_text(name) in shown
        assert len(shown.rstrip()) < 130
        assert catalogue.card(name).encoders in line
    assert not re.search(r"\(|20\d\d", "".join(map(catalogue.idea, methods.__all__)))  # neither authors nor venues


def commands() -> list[str]:
    """Every `ssl-jax` command in a page or a config's docstring, `...` being what the text has said before."""
    found = []
    for path in [*PAGES, *ROOT.glob("configs/*.py")]:
        text = path.read_text().replace("\\\n", " ")
        found += re.findall(r"`(ssl-jax [^`]+)`", text) + re.findall(r"^ *(ssl-jax [^`\n]+)$", text, re.MULTILINE)
    plain = (" ".join(re.sub(r"\s#\s.*|(?<= )\[[^]]*\]|\.\.\.", "", command).split()) for command in found)
    return sorted({command for command in plain if not re.search(r"\||=[A-Z]\b|NAME", command)})


@pytest.mark.filterwarnings("ignore:the load_module")  # ml_collections, on reading a config
def test_printed_commands_have_flags_configs_and_fields_that_there_are():
    """What is printed can be typed: all of it is parsed, and only `--help` keeps it from running."""
    printed = commands()
    assert len(printed) > 60
    statuses = {}
    for command in printed:
        name, *argv = shlex.split(command)[1:]
        if "--config." in command and "--config=" not in command:
            argv.insert(0, "--config=simclr")
        if argv and argv[0] in ("describe", "check", "prepare", "preview"):
            argv = argv[:1] + [x for x in argv[1:] if x.startswith("-")]
        try:
            cli.COMMANDS[name]([*argv, "--help"])
        except SystemExit as end:
            statuses[command] = end.code
    assert not [command for command, status in statuses.items() if status]


def test_links_and_names_of_files_lead_somewhere():
    dead = []
    for page in PAGES:
        if page.parent.name == "claims":  # parts of docs/claims.md
            continue
        text = page.read_text()
        linked = [page.parent / link for link in re.findall(r"\]\((?!https?:)([^)#]+)[^)]*\)", text)]
        named = [ROOT / name for name in re.findall(rf"`((?:{'|'.join(ROOMS)})/[\w./-]+\.\w+)`", text)]
        lost = [path for path in linked + named if not path.exists() and not made_up(path)]
        dead += [f"{page.relative_to(ROOT)}: {path}" for path in lost]
    assert not dead


def made_up(path: pathlib.Path) -> bool:
    """Whether a file stands for any of its kind, such as `configs/x.py`, or is published elsewhere."""
    return path.stem in ("x", "test_x", "NAME")


def test_every_page_can_be_reached_from_the_readme():
    """By its name in a page that can be reached itself."""

    @functools.cache
    def named(page: pathlib.Path) -> set[pathlib.Path]:
        text = page.read_text()
        links = {(page.parent / link).resolve() for link in re.findall(r"\]\((?!https?:)([^)#]+\.md)", text)}
        return links | {(ROOT / name).resolve() for name in re.findall(r"`(docs/[\w./-]+\.md)`", text)}

    reached, new = set(), {ROOT / "README.md"}
    while new:
        reached |= new
        new = {link for page in new for link in named(page) if link.is_file()} - reached
    pages = {page for page in PAGES if page.is_relative_to(ROOT / "docs") and page.parent.name != "claims"}
    assert not sorted(str(page.relative_to(ROOT)) for page in pages - reached)
