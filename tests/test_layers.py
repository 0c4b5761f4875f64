"""Imports only go down, files make no circles, no private name crosses a file (docs/design.md)."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

import roman_dask_l2

PACKAGE = Path(roman_dask_l2.__file__).parent
TABLE = yaml.safe_load((PACKAGE.parent / "docs/rooms.yaml").read_text())
ROOMS, DOORS = TABLE["rooms"], TABLE["doors"]


def files(package: Path) -> dict[str, Path]:
    """Dotted name below the package -> file."""
    found = {}
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package).with_suffix("").parts
        found[".".join(parts[:-1] if len(parts) > 1 and parts[-1] == "__init__" else parts)] = path
    return found


def imports(name: str, path: Path, known: dict[str, Path]) -> Iterator[tuple[str, str]]:
    """(file, name) of everything of the package that a file imports, wherever the import stands."""
    package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    package = [part for part in package if part != "__init__"]
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                first, _, rest = alias.name.partition(".")
                if first == "roman_dask_l2":
                    yield rest or "__init__", ""
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                base = package[: len(package) - node.level + 1]
                target = ".".join([*base, *([node.module] if node.module else [])])
            elif (node.module or "").partition(".")[0] == "roman_dask_l2":
                target = (node.module or "").partition(".")[2]
            else:
                continue
            for alias in node.names:
                inner = f"{target}.{alias.name}" if target else alias.name
                if inner in known:
                    yield inner, ""
                else:
                    yield target or "__init__", alias.name


def room_of(name: str) -> str:
    return name.partition(".")[0]


def upward(package: Path) -> list[str]:
    """Imports that the order of the rooms does not allow, as lines that name both files."""
    known = files(package)
    wrong = []
    for name, path in known.items():
        for target, _ in imports(name, path, known):
            here, there = room_of(name), room_of(target)
            if here in DOORS or here == there:
                continue
            if here not in ROOMS or there not in ROOMS:
                wrong.append(f"{name} imports {target}: not a room, or a door")
            elif ROOMS.index(there) > ROOMS.index(here):
                wrong.append(f"{name} imports {target}: upwards")
            elif there in TABLE["except"].get(here, ()):
                wrong.append(f"{name} imports {target}: excepted")
    return sorted(set(wrong))


def circles(package: Path) -> list[str]:
    """Files that import each other, directly or by way of others."""
    known = files(package)
    graph = {n: sorted({t for t, _ in imports(n, p, known)} & set(known)) for n, p in known.items()}
    done: set[str] = set()
    found = []

    def follow(name: str, path: list[str]) -> None:
        if name in path:
            found.append(" -> ".join([*path[path.index(name) :], name]))
        elif name not in done:
            for target in graph[name]:
                follow(target, [*path, name])
            done.add(name)

    for name in graph:
        if room_of(name) not in DOORS:
            follow(name, [])
    return found


def private(package: Path) -> list[str]:
    """Private names that one file takes from another."""
    known = files(package)
    taken = []
    for name, path in known.items():
        for target, what in imports(name, path, known):
            if what.startswith("_") and not what.startswith("__"):
                taken.append(f"{name} takes {what} of {target}")
        modules = {t.rpartition(".")[2] for t, what in imports(name, path, known) if not what}
        for node in ast.walk(ast.parse(path.read_text())):
            if (
                isinstance(node, ast.Attribute)
                and isinstance(node.value, ast.Name)
                and node.value.id in modules
                and node.attr.startswith("_")
                and not node.attr.startswith("__")
            ):
                taken.append(f"{name} takes {node.value.id}.{node.attr}")
    return taken


def test_imports_only_go_down():
    assert upward(PACKAGE) == []


def test_no_circles():
    assert circles(PACKAGE) == []


def test_no_private_name_crosses_a_file():
    assert private(PACKAGE) == []


def test_every_folder_is_a_room_with_a_charter():
    folders = {p.name for p in PACKAGE.iterdir() if p.is_dir() and p.name != "__pycache__"}
    alone = {p.stem for p in PACKAGE.glob("*.py")}
    assert folders | alone == {*ROOMS, *DOORS}
    assert len(alone) <= 5
    for folder in folders:
        charter = ast.get_docstring(ast.parse((PACKAGE / folder / "__init__.py").read_text()))
        assert charter, folder
        first = charter.splitlines()[0]
        assert first.endswith("."), folder


@pytest.mark.parametrize(
    ("text", "check", "line"),
    [
        ("from ..engine.graph import build", upward, "steps.bad imports engine.graph: upwards"),
        ("def f():\n    from ..io import l2", upward, "steps.bad imports io.l2: upwards"),
        (
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import roman_dask_l2.cli.app",
            upward,
            "steps.bad imports cli.app: upwards",
        ),
        ("from ..core.jit import _kernels", private, "steps.bad takes _kernels of core.jit"),
        ("from ..core import jit\njit._kernels", private, "steps.bad takes jit._kernels"),
        ("def f():\n    from . import bad", circles, "steps.bad -> steps.bad"),
    ],
)
def test_the_checks_see(tmp_path, text, check, line):
    """Each kind of import, planted in a copy of the package's skeleton."""
    for name, path in files(PACKAGE).items():
        target = tmp_path / path.relative_to(PACKAGE)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text("" if name != "steps.bad" else text)
    (tmp_path / "steps/bad.py").write_text(text)
    assert line in check(tmp_path)


def test_dask_is_known_to_graphs_and_those_who_run_them():
    """Kernels, files and configuration know nothing of Dask."""
    users = {
        room_of(name)
        for name, path in files(PACKAGE).items()
        for node in ast.walk(ast.parse(path.read_text()))
        for module in (
            [a.name for a in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom) and not node.level
            else []
        )
        if module.partition(".")[0] in ("dask", "distributed")
    }
    assert users <= {"engine", "products", "batch"}
