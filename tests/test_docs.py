"""What the manual says must be true of the code."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import numpy as np
import pytest

from roman_dask_l2.dq import PIXEL
from roman_dask_l2.recipe import STEPS, load_recipe

DOCS = Path(__file__).resolve().parents[1] / "docs"


@pytest.fixture
def tables(monkeypatch):
    """The module that writes the manual's tables."""
    monkeypatch.syspath_prepend(str(DOCS))
    import step_tables

    return step_tables


def test_every_step_has_its_section():
    sections = re.findall(r"^## (\w+)$", (DOCS / "algorithms.md").read_text(), re.MULTILINE)
    assert [name for name in sections if name in STEPS] == list(STEPS)


def test_every_table_is_included_once(tables):
    text = "".join(page.read_text() for page in DOCS.glob("*.md"))
    included = re.findall(r"\{include\} _generated/(\w+)\.md", text)
    assert sorted(included) == sorted([*tables.tables(), "configuration_keys"])


def test_every_option_is_explained(tables):
    for bound in tables.every_step().values():
        table = tables.step_table(bound)
        for option in bound.step.params.model_fields:
            assert f"| `{option}` |" in table


def test_the_example_step(monkeypatch):
    """The step and the recipe that the page on design shows."""
    monkeypatch.syspath_prepend(str(DOCS / "examples"))
    monkeypatch.delitem(sys.modules, "negative", raising=False)
    recipe = load_recipe(DOCS / "examples" / "with_negative.yaml")
    names = [bound.name for bound in recipe.steps]
    assert names[names.index("flat") + 1] == "negative"
    default = [bound.name for bound in load_recipe("l1_to_l2").steps]
    assert [name for name in names if name != "negative"] == default
    bound = recipe.steps[names.index("negative")]
    rate = np.array([[1.0, -0.59, -0.61]], np.float32)
    dq = np.full((1, 3), PIXEL["WARM"], np.uint32)
    result = bound.step.kernel(
        rate=rate, err=np.full((1, 3), 0.1, np.float32), dq=dq, params=bound.params
    )
    flag = PIXEL["UNRELIABLE_SLOPE"]
    np.testing.assert_array_equal(result, PIXEL["WARM"] + np.array([[0, 0, flag]]))
    assert result.dtype == np.uint32
    assert (dq == PIXEL["WARM"]).all()
