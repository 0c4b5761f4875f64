"""What the repository says of itself in two places must be the same."""

from __future__ import annotations

import importlib.util
import re
import tomllib
from pathlib import Path

import pytest

from roman_dask_l2.config import blocks

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def project():
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_every_dependency_has_its_reason(project):
    """docs/dependencies.md lists what pyproject.toml asks for, no less and no more."""
    rows = re.findall(r"^\| (.*) \|$", (ROOT / "docs/dependencies.md").read_text(), re.MULTILINE)
    cells = [[cell.strip(" `") for cell in row.split("|")] for row in rows]
    named = [tuple(row[:-1]) for row in cells if row[0] not in ("package", "extra", "---")]
    named = [row for row in named if "---" not in row[0]]
    wanted = [(re.split("[<>=~]", line)[0],) for line in project["dependencies"]]
    wanted += [
        (extra, re.split("[<>=~]", line)[0])
        for extra, lines in project["optional-dependencies"].items()
        for line in lines
        if not line.startswith("roman-dask-l2")
    ]
    assert sorted(named) == sorted(wanted)


def test_dependencies_have_lower_bounds(project):
    extras = project["optional-dependencies"].values()
    lines = project["dependencies"] + [line for extra in extras for line in extra]
    assert [line for line in lines if ">=" not in line and "roman-dask-l2" not in line] == []


def test_documented_keys():
    spec = importlib.util.spec_from_file_location("config_table", ROOT / "docs/config_table.py")
    config_table = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(config_table)
    table = config_table.table()
    for model in blocks().values():
        for key in model.model_fields:
            assert f"| `{key}` |" in table
