"""Private names of other packages are used in one file, which does without them if it must."""

from __future__ import annotations

import argparse
import ast
from pathlib import Path
from types import SimpleNamespace

import pytest

import roman_dask_l2
from roman_dask_l2.errors import InputError
from roman_dask_l2.system import workarounds

PACKAGE = Path(roman_dask_l2.__file__).parent
PLACES = {"system/workarounds.py", "core/jit.py"}
DOCUMENTED = {"_exit"}
"""Names that look private and are not: os._exit."""
BY_NAME = {"getattr", "setattr", "hasattr", "import_module", "get"}
"""Functions that take the name of an attribute or a module."""


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.endswith("__") and len(name) > 1


def own_names(tree: ast.AST) -> set[str]:
    """Names that a file defines: functions, classes, variables, attributes of its classes."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif (
            isinstance(node, ast.Attribute)
            and isinstance(node.ctx, ast.Store)
            and isinstance(node.value, ast.Name)
            and node.value.id in ("self", "cls")
        ):
            names.add(node.attr)
    return names


def foreign(text: str) -> set[str]:
    """Private names in the text of a file that are not its own."""
    tree = ast.parse(text)
    used = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            used.add(node.attr)
        elif isinstance(node, ast.Import):
            used |= {part for alias in node.names for part in alias.name.split(".")}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            used |= {*(node.module or "").split("."), *(alias.name for alias in node.names)}
        elif isinstance(node, ast.Call):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else ""
            called = node.func.id if isinstance(node.func, ast.Name) else called
            for arg in node.args if called in BY_NAME else ():
                if isinstance(arg, ast.Constant) and isinstance(arg.value, str):
                    used |= set(arg.value.split("."))
    return {name for name in used if is_private(name)} - own_names(tree) - DOCUMENTED


def test_private_names_of_others_are_in_one_place():
    found = {
        path.relative_to(PACKAGE).as_posix(): names
        for path in PACKAGE.rglob("*.py")
        if (names := foreign(path.read_text()))
    }
    assert {file: names for file, names in found.items() if file not in PLACES} == {}
    assert found.keys() == PLACES


@pytest.mark.parametrize(
    "text",
    [
        "client.sync(client._run)",
        "from asdf._jsonschema import validators",
        "import asdf._jsonschema",
        "getattr(cluster, '_correct_state')()",
        "sys.modules.get('asdf._jsonschema.validators')",
        "class A(Base):\n    def f(self):\n        return self._impl",
    ],
)
def test_a_private_name_is_seen(text):
    assert len(foreign(text)) == 1


def test_workers_are_started_without_the_private_name():
    asked = []
    workarounds.start_workers(SimpleNamespace(scale=asked.append), 3)
    assert asked == [3]


def test_workers_are_asked_without_the_private_name():
    def run(function, workers, on_error):
        return {worker: function() for worker in workers}

    client = SimpleNamespace(run=run)
    assert workarounds.run_on_workers(client, lambda: 7, 1.0, {"a": 1}) == {"a": 7}


def test_what_can_be_left_out_is(monkeypatch):
    client = SimpleNamespace()
    workarounds.forget_request(client)
    assert vars(client) == {}
    monkeypatch.setitem(workarounds.sys.modules, "asdf._jsonschema.validators", None)
    workarounds.forget_schemas()
    assert workarounds.parser_actions(SimpleNamespace()) == []


def test_a_model_of_another_kind_is_told():
    with pytest.raises(InputError, match="roman_datamodels .* cannot be used to write"):
        workarounds.model_tree(SimpleNamespace())


def test_the_private_names_are_still_there():
    """In the versions that are installed; if not, see what the function falls back to."""
    import asdf._jsonschema.validators as validators
    from distributed import Client, SpecCluster

    assert callable(SpecCluster._correct_state)
    assert callable(Client._run)
    assert hasattr(validators.RefResolver, "_find_in_subschemas")
    parser = argparse.ArgumentParser()
    parser.add_argument("--one")
    assert len(workarounds.parser_actions(parser)) == 2
