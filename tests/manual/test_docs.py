"""What the manual says must be true of the code."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from roman_dask_l2.batch.campaign import CampaignFile
from roman_dask_l2.batch.sources import Exposures
from roman_dask_l2.cli.app import COMMANDS
from roman_dask_l2.config.noise_labels import grammar, parse
from roman_dask_l2.config.recipe import load_recipe
from roman_dask_l2.core.cells import MAX_ORDER
from roman_dask_l2.core.dq import PIXEL
from roman_dask_l2.errors import InputError
from roman_dask_l2.steps.registry import STEPS
from roman_dask_l2.system.versions import __version__

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"


@pytest.fixture
def docs_path(monkeypatch):
    """The modules in docs/ can be imported."""
    monkeypatch.syspath_prepend(str(DOCS))


@pytest.fixture
def tables(docs_path):
    """The module that writes the manual's tables."""
    import step_tables

    return step_tables


def test_every_step_has_its_section():
    sections = re.findall(r"^## (\w+)$", (DOCS / "algorithms.md").read_text(), re.MULTILINE)
    assert [name for name in sections if name in STEPS] == list(STEPS)


def test_every_table_is_included_once(tables):
    import fit_tables

    text = "".join(page.read_text() for page in DOCS.glob("*.md"))
    included = re.findall(r"\{include\} _generated/(\w+)\.md", text)
    others = ["configuration_keys", "campaign_keys", "cli", "noise_commands", "noise_streams"]
    others += [f"fits_{name}" for name in fit_tables.TABLES]
    assert sorted(included) == sorted([*tables.tables(), *others])


def test_every_option_is_explained(tables):
    for bound in tables.every_step().values():
        table = tables.step_table(bound)
        for option in bound.step.params.model_fields:
            assert f"| `{option}` |" in table


def test_the_example_step(monkeypatch):
    """The step and the recipe that the page on adding a step shows."""
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


def test_every_campaign_key_is_explained(docs_path):
    import config_table

    table = config_table.campaign_table()
    for model in (CampaignFile, Exposures):
        for key, field in model.model_fields.items():
            assert f"| `{field.alias or key}` |" in table


def test_every_command_and_option_is_explained(docs_path):
    import cli_table

    page, commands = cli_table.page(), cli_table.commands()
    assert set(commands) == set(COMMANDS)
    for name, (parser, _) in commands.items():
        section = page.partition(f"## {name}\n")[2].partition("\n## ")[0]
        assert section.count("usage: ") == 1
        for action in parser._actions:
            for option in action.option_strings:
                shown = f"`{option}`" in section
                assert shown == (action.help != "==SUPPRESS=="), f"{name} {option}"
            if action.help != "==SUPPRESS==":
                assert action.help, f"{name}: {action.dest} has no help"


# -- the grammar that the page on noise shows ----------------------------------------------------


def _rules():
    """EBNF name -> strategy of texts, from `grammar` itself."""
    rules: dict[str, st.SearchStrategy[str]] = {}

    def rule(name, text):
        tokens = re.findall(r'"[^"]*"|\.\.|[a-z]+|[{}\[\]|]', text)
        made, rest = alternatives(tokens)
        assert not rest, f"{name}: {rest}"
        rules[name] = made

    def alternatives(tokens):
        found = []
        while True:
            made, tokens = sequence(tokens)
            found.append(made)
            if not tokens or tokens[0] != "|":
                return st.one_of(found), tokens
            tokens = tokens[1:]

    def sequence(tokens):
        parts = []
        while tokens and tokens[0] not in "|}]":
            token, *tokens = tokens
            if token in "{[":
                inner, tokens = alternatives(tokens)
                tokens = tokens[1:]  # the closing bracket
                most = 2 if token == "{" else 1
                parts.append(st.lists(inner, max_size=most).map("".join))
            elif token[0] == '"':
                first = token[1:-1]
                if tokens[:1] == [".."]:
                    last, tokens = tokens[1][1:-1], tokens[2:]
                    letters = [chr(c) for c in range(ord(first), ord(last) + 1)]
                    parts.append(st.sampled_from(letters))
                else:
                    parts.append(st.just(first))
            else:
                parts.append(rules[token])  # rules that are used stand further down
        return st.tuples(*parts).map("".join), tokens

    for line in reversed(grammar().strip().splitlines()):
        name, _, text = line.partition("=")
        rule(name.strip(), text)
    return rules


def _beyond(label):
    """What the page says beyond the grammar: whether a label breaks such a rule."""
    commands = re.findall(r"[A-Z][^A-Z]*", label)
    letters = [c[0] for c in commands if c[0] != "C"]
    arguments = [re.findall(r"[a-z]", c[1:]) for c in commands if c[0] != "C"]
    orders = [int(n) for c in commands if c[0] in "PS" for n in re.findall(r"\d+", c)]
    return (
        len(letters) != len(set(letters))
        or any(len(a) != len(set(a)) for a in arguments)
        or ("P" in letters and "R" in letters and letters.index("P") < letters.index("R"))
        or any(order > MAX_ORDER for order in orders)
    )


@given(_rules()["layer"])
def test_the_grammar_is_what_the_parser_reads(label):
    if _beyond(label):
        with pytest.raises(InputError):
            parse(label)
    else:
        assert parse(label).label == label


# -- what stands in two places -------------------------------------------------------------------


def test_the_changelog_has_this_version():
    versions = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert versions[0] == __version__


@pytest.mark.parametrize("page", ["README.md", "CHANGELOG.md"])
def test_links_lead_somewhere(page):
    """Those of the manual are checked by Sphinx."""
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", (ROOT / page).read_text())
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_every_page_is_in_the_manual():
    index = (DOCS / "index.md").read_text()
    listed = re.findall(r"^[\w/]+$", index, re.MULTILINE)
    pages = [p.relative_to(DOCS) for p in (*DOCS.glob("*.md"), *DOCS.glob("howto/*.md"))]
    assert sorted(listed) == sorted(str(p.with_suffix("")) for p in pages if p.name != "index.md")


def test_pictures_are_small():
    for picture in (DOCS / "images").glob("*.png"):
        assert 10_000 < picture.stat().st_size < 200_000, picture.name


def test_names_of_files_have_the_filters_of_pyimcom():
    """It looks for its own names of the filters, which are not the mission's."""
    (row,) = re.findall(r"^\| PyIMCOM \|(.*)\|$", (DOCS / "others.md").read_text(), re.MULTILINE)
    known = set(row.replace(" ", "").split("|"))
    assert known == {"R062", "Z087", "Y106", "J129", "W146", "H158", "F184", "K213"}
    pages = [ROOT / "README.md", ROOT / "validation/parity/ecosystem.py", *DOCS.rglob("*.md")]
    text = "".join(page.read_text() for page in pages)
    named = re.findall(r"""(?:sim_L2_|filter: |filter=|FILTER = ")([A-Z]\d{3})""", text)
    assert len(named) > 5
    assert set(named) <= known
