"""What the repository says of itself in two places must be the same."""

from __future__ import annotations

import importlib.util
import re
import tomllib
from pathlib import Path

import pytest

from roman_dask_l2.config.model import blocks

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def project():
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_every_dependency_has_its_reason(project):
    """docs/dependencies.md lists what pyproject.toml asks for, no less and no more."""
    named = []
    for table in (ROOT / "docs/dependencies.md").read_text().split("\n\n"):
        rows = [[c.strip(" `") for c in r.strip("| ").split("|")] for r in table.splitlines()]
        if rows[0][0] in ("package", "extra"):
            named += [tuple(row[: rows[0].index("why")]) for row in rows[2:]]
    wanted = [(re.split("[<>=~]", line)[0],) for line in project["dependencies"]]
    wanted += [
        (extra, re.split("[<>=~]", line)[0])
        for extra, lines in project["optional-dependencies"].items()
        for line in lines
        if not line.startswith("roman-dask-l2")
    ]
    assert sorted(named) == sorted(wanted)


PLUGINS = {"asdf-astropy": "asdf", "bokeh": "distributed"}
"""What is loaded by another package, without an import of ours."""
MODULES = {"pyyaml": "yaml", "dask-jobqueue": "dask_jobqueue"}


def test_every_dependency_is_used(project):
    """What users have to install is imported somewhere, or by what is imported."""
    lines = project["dependencies"] + project["optional-dependencies"]["plots"]
    lines += project["optional-dependencies"]["slurm"]
    source = "\n".join(p.read_text() for p in (ROOT / "roman_dask_l2").rglob("*.py"))
    for line in lines:
        package = re.split(r"[<>=~\[]", line)[0]
        module = MODULES.get(package, PLUGINS.get(package, package))
        by_name = rf'^[A-Z]+ = \(?"{module}\.'  # a constant that load() imports when it is needed
        pattern = rf"^\s*(import|from) {module}\b|{by_name}|\bload\(\"{module}\"\)"
        assert re.search(pattern, source, re.MULTILINE), package


def test_what_is_written_by_hand_is_there():
    text = (ROOT / "docs/dependencies.md").read_text().partition("## Written by hand")[2]
    files = re.findall(r"`(\w+(?:/\w+)?\.py)`", text)
    assert len(files) > 15
    assert [file for file in files if not (ROOT / "roman_dask_l2" / file).is_file()] == []


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
