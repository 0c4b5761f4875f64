"""The page on the Python interface: all that the package exports, and what each name takes."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

import roman_dask_l2
from roman_dask_l2 import compat

ROOT = Path(roman_dask_l2.__file__).resolve().parents[1]
PAGE = (ROOT / "docs/api.md").read_text()
EXPORTED = [name for name in roman_dask_l2.__all__ if name != "__version__"]
IN_COMPAT = [
    name
    for name, value in vars(compat).items()
    if inspect.isfunction(value) and value.__module__ == compat.__name__
]
FUNCTIONS = [
    *(f for name in EXPORTED if inspect.isfunction(f := getattr(roman_dask_l2, name))),
    *(getattr(compat, name) for name in IN_COMPAT),
]


def documented(module: str) -> list[str]:
    """Names directly in a module that the page has directives for."""
    return re.findall(rf"^\.\. auto\w+:: {re.escape(module)}\.(\w+)$", PAGE, re.MULTILINE)


def section(text: str, name: str) -> str:
    """One section of a docstring, empty if it has none."""
    found = re.search(rf"^{name}\n-+\n(.*?)(?=^\w[^\n]*\n---|\Z)", text, re.DOTALL | re.MULTILINE)
    return found[1] if found else ""


def test_the_page_has_all_public_names_and_no_others():
    assert sorted(documented("roman_dask_l2")) == sorted(EXPORTED)
    assert sorted(documented("roman_dask_l2.compat")) == sorted(IN_COMPAT)
    assert len(IN_COMPAT) == 2
    assert "`roman_dask_l2.__version__`" in PAGE


def test_what_else_the_page_shows_is_there():
    """Classes of what the public functions return."""
    paths = re.findall(r"^\.\. auto\w+:: ([\w.]+)$", PAGE, re.MULTILINE)
    returned = [path for path in paths if path.count(".") > 1 and ".compat." not in path]
    assert len(returned) > 3
    for path in returned:
        module, _, name = path.rpartition(".")
        value = getattr(__import__(module, fromlist=[name]), name)
        found = section(inspect.getdoc(value) or "", "Attributes")
        assert found, path
        for attribute in inspect.signature(value).parameters:
            assert re.search(rf"^(\w+, )*{attribute}\b.* :", found, re.MULTILINE), attribute


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda f: f.__name__)
def test_functions_say_what_they_take_and_raise(function):
    text = inspect.getdoc(function) or ""
    taken, signature = section(text, "Parameters"), inspect.signature(function)
    for name in signature.parameters:
        assert re.search(rf"^(\*\*)?(\w+, )*{name}\b", taken, re.MULTILINE), name
    assert section(text, "Raises")
    if signature.return_annotation not in (None, "None"):
        assert section(text, "Returns") or section(text, "Yields")


@pytest.mark.parametrize("name", ["calibrate", "generate_noise", "l1_to_l2"])
def test_products_have_shapes_units_and_sources(name):
    text = inspect.getdoc(getattr(roman_dask_l2, name)) or ""
    assert "N-8, N-8" in text
    assert "DN/s" in text
    assert "source" in text


@pytest.mark.parametrize("name", ["RunOptions", "Step"])
def test_classes_explain_their_attributes(name):
    cls = getattr(roman_dask_l2, name)
    found = section(inspect.getdoc(cls), "Attributes")
    for attribute in inspect.signature(cls).parameters:
        assert re.search(rf"^(\w+, )*{attribute}\b.* :", found, re.MULTILINE), attribute


def test_the_page_can_be_found():
    for page in ("README.md", "docs/index.md"):
        assert re.search(r"docs/api\.md|^api$", (ROOT / page).read_text(), re.MULTILINE), page
