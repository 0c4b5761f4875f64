"""The page that newcomers read first: its drawing, and every file and name that it mentions."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

import roman_dask_l2
from roman_dask_l2.core.step import VARIABLES
from roman_dask_l2.steps.registry import STEPS

ROOT = Path(roman_dask_l2.__file__).resolve().parents[1]
DOCS, PACKAGE = ROOT / "docs", ROOT / "roman_dask_l2"
PAGE = (DOCS / "design.md").read_text()
OTHER = {
    "package.module:attribute", "file.array", "dask.array.overlap", "roman-dask-l2 config.yaml",
    "--per-step", "--report", "RS2",
}  # fmt: skip
"""What stands in code on the page and is neither a file nor a name of the package."""


def file_of(text: str) -> Path | None:
    """The file or folder that a text names, from the package or from the repository."""
    return next((p for p in (PACKAGE / text, ROOT / text) if p.exists()), None)


def is_path(text: str) -> bool:
    return " " not in text and ("/" in text or text.endswith((".py", ".yaml", ".md")))


def codes(text: str) -> list[str]:
    """What stands in code, outside of blocks."""
    return re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))


def defined(path: Path) -> set[str]:
    """Names that a file gives something: functions, classes, variables, attributes, arguments."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif isinstance(node, ast.arg):
            found.add(node.arg)
    return found


def items() -> Iterator[str]:
    """The points of the walks and the rows of the table of changes."""
    walks = PAGE[PAGE.index("## The way of a pixel") : PAGE.index("## Steps")]
    yield from re.findall(r"^(?:\d+\.|\|) .*(?:\n   .*)*", walks, re.MULTILINE)


def test_files_are_there():
    paths = [text for text in codes(PAGE) if is_path(text)]
    assert len(set(paths)) > 50
    assert [text for text in paths if file_of(text) is None] == []


def test_names_are_defined_in_the_files_beside_them():
    """What a point of a walk, or a row of the table, names is in one of the files of that row."""
    checked = 0
    for item in items():
        files = [p for text in codes(item) if is_path(text) and (p := file_of(text)) is not None]
        names = set().union(*(defined(p) for p in files if p.suffix == ".py"))
        for text in codes(item):
            if is_path(text) or text in OTHER or text in STEPS or re.fullmatch("[A-Z]", text):
                continue
            checked += 1
            assert text in names, f"{text} is in none of {[p.name for p in files]}: {item}"
    assert checked > 30


def test_all_other_names_are_defined():
    everywhere = set().union(*(defined(path) for path in PACKAGE.rglob("*.py")))
    known = everywhere | set(STEPS) | set(VARIABLES) | OTHER | {PACKAGE.name}
    names = [text for text in codes(PAGE) if not is_path(text) and not re.fullmatch("[A-Z]", text)]
    assert [text for text in names if text not in known] == []


def test_the_walks_and_the_table_are_whole():
    for heading in ("a pixel", "a noise layer", "an exposure of a batch"):
        walk = PAGE.partition(f"## The way of {heading}\n")[2].partition("\n## ")[0]
        numbers = [int(n) for n in re.findall(r"^(\d+)\. ", walk, re.MULTILINE)]
        assert numbers == list(range(1, len(numbers) + 1))
        assert len(numbers) > 4
    table = PAGE.partition("## I want to change ...\n")[2].partition("\n## ")[0]
    for what in (
        "threshold", "flag", "default tile", "arrays of the Level-2", "noise labels", "scheduler",
        "key of the configuration", "plot of the report",
    ):  # fmt: skip
        assert re.search(rf"^\| [^|]*{what}", table, re.MULTILINE), what
    rules = PAGE.partition("## Rules\n")[2]
    assert re.findall(r"^(\d+)\. ", rules, re.MULTILINE) == [str(i) for i in range(1, 11)]


@pytest.fixture
def rooms(monkeypatch):
    monkeypatch.syspath_prepend(str(DOCS))
    import rooms

    return rooms


def test_the_drawing_of_the_rooms_is_that_of_the_table(rooms):
    again = "it was made from other rooms or charters: python docs/rooms.py"
    assert rooms.PICTURE.read_text() == rooms.draw().svg(), again
    assert "images/rooms.svg" in PAGE


def test_the_drawing_follows_the_table(rooms, tmp_path):
    """A room more in the table is a room more in the picture, in its place."""
    table = yaml.safe_load((DOCS / "rooms.yaml").read_text())
    table["rooms"].insert(1, "attic")
    (tmp_path / "rooms.yaml").write_text(yaml.safe_dump(table))
    package = tmp_path / "package"
    for name in table["rooms"]:
        (package / name).mkdir(parents=True)
        (package / name / "__init__.py").write_text(f'"""Charter of {name}.\n\nMore."""')
    text = rooms.draw(tmp_path / "rooms.yaml", package).svg()
    assert "Charter of attic<" in text
    assert text.index(">system/<") < text.index(">attic/<") < text.index(">errors/<")


def test_modules_that_the_manual_names_are_there():
    """Files of the package on all pages, and dotted paths into it."""
    pages = [
        *DOCS.glob("*.md"), *DOCS.glob("howto/*.md"), ROOT / "README.md", ROOT / "CONTRIBUTING.md",
    ]  # fmt: skip
    rooms = "|".join(p.name for p in PACKAGE.iterdir() if p.is_dir())
    missing = []
    for page in pages:
        text = page.read_text()
        for name in codes(text):
            if (
                re.fullmatch(rf"(roman_dask_l2/|{rooms}).*\.py", name)
                or re.fullmatch(r"\w+\.py", name)
            ) and not known_file(name):
                missing.append(f"{page.name}: {name}")
        for dotted in re.findall(r"\broman_dask_l2((?:\.[a-z_0-9]+)+)", text):
            if not importable(dotted[1:].split(".")):
                missing.append(f"{page.name}: roman_dask_l2{dotted}")
    assert not missing, "\n".join(missing)


def known_file(name: str) -> bool:
    """A file of the package, by its path in it; or a test, or what lies beside the page."""
    beside = (DOCS / name, DOCS / "examples" / name)
    tests = {p.name for p in (ROOT / "tests").rglob("*.py")}
    return file_of(name) is not None or name in tests or any(p.exists() for p in beside)


def importable(parts: list[str]) -> bool:
    """Whether a dotted path leads to a module, or to a name that one defines."""
    place = PACKAGE
    for i, part in enumerate(parts):
        if (place / part).is_dir():
            place = place / part
        elif (place / f"{part}.py").is_file():
            rest = parts[i + 1 :]
            return not rest or rest[0] in defined(place / f"{part}.py")
        else:
            exported = roman_dask_l2.__all__ if place == PACKAGE else []
            return part in exported or part in defined(place / "__init__.py")
    return True


def test_the_example_step_is_as_long_as_pages_say():
    lines = len((DOCS / "examples/negative.py").read_text().splitlines())
    pages = (DOCS / "design.md", DOCS / "develop.md", ROOT / "CONTRIBUTING.md")
    for page in pages:
        assert re.findall(r"(\d+) lines", page.read_text()) == [str(lines)], page
