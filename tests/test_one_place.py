"""What several parts of the package need is written once."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import roman_dask_l2
from roman_dask_l2.config.recipe import load_recipe
from roman_dask_l2.engine.plan import reference_lives
from roman_dask_l2.errors import InputError
from roman_dask_l2.steps.registry import find_step
from roman_dask_l2.system.text import nearest

PACKAGE = Path(roman_dask_l2.__file__).parent


def users(package: Path, word: str) -> set[str]:
    """Files of a package in which a name is imported or used."""
    found = set()
    for path in package.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = {
                ast.Import: lambda n: [a.name for a in n.names],
                ast.ImportFrom: lambda n: [n.module or "", *(a.name for a in n.names)],
                ast.Attribute: lambda n: [n.attr],
                ast.Name: lambda n: [n.id],
            }.get(type(node), lambda n: [])
            if word in names(node):
                found.add(path.relative_to(package).as_posix())
    return found


@pytest.mark.parametrize(
    ("word", "place"),
    [
        ("difflib", "system/text.py"),
        ("get_close_matches", "system/text.py"),
        ("parse_bytes", "engine/amounts.py"),
    ],
)
def test_has_one_place(word, place):
    assert users(PACKAGE, word) == {place}


@pytest.mark.parametrize(
    ("name", "known", "cutoff", "meant"),
    [
        ("fitsuot", ["FITSOUT", "OUT"], 0.6, "FITSOUT"),
        ("out", ["FITSOUT", "OUT"], 1.0, "OUT"),
        ("SKYORDR", ["OUT"], 0.6, None),
        ("x", [], 0.6, None),
    ],
)
def test_the_name_that_was_probably_meant(name, known, cutoff, meant):
    assert nearest(name, known, cutoff) == meant


def test_case_does_not_matter_for_steps_either():
    with pytest.raises(InputError, match="unknown step 'RAMP_FIT', did you mean 'ramp_fit'"):
        find_step("RAMP_FIT", "recipe")


def test_references_live_until_their_last_use():
    lives = reference_lives(load_recipe("l1_to_l2").steps)
    uses = [set(names.values()) for _, names, _ in lives]
    assert any(kept & names for (_, _, kept), names in zip(lives, uses, strict=True))
    for i, (_, _, kept) in enumerate(lives):
        assert kept == set().union(*uses[i + 1 :])
