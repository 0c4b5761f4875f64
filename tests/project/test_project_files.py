"""Files about the project that nobody runs every day: still true and well-formed."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
TYPES = [kind["directory"] for kind in PYPROJECT["tool"]["towncrier"]["type"]]


# -- fragments of the changelog ------------------------------------------------------------------


def wrong(name, text):
    """What is wrong with a fragment, None if nothing is."""
    if not re.fullmatch(rf"(\d+|\+[a-z0-9-]+)\.({'|'.join(TYPES)})(\.\d+)?\.md", name):
        return "name"
    if not re.fullmatch(r"(?s)[A-Z`*].*[.)`]\n", text):
        return "text"  # a sentence, without a bullet or heading in front, with one newline
    return "long line" if max(map(len, text.splitlines())) > 110 else None


def test_fragments_are_well_formed():
    files = [f for f in (ROOT / "changelog.d").iterdir() if f.name != "README.md"]
    assert {f.name: said for f in files if (said := wrong(f.name, f.read_text()))} == {}


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("12.fixes.md", "Right.\n", None),
        ("+two-words.numbers.2.md", "`a` is\nright (now)\n", None),
        ("words.fixes.md", "Right.\n", "name"),
        ("12.bugfix.md", "Right.\n", "name"),
        ("12.fixes", "Right.\n", "name"),
        ("12.fixes.md", "", "text"),
        ("12.fixes.md", "- Right.\n", "text"),
        ("12.fixes.md", "# Right.\n", "text"),
        ("12.fixes.md", "Right.", "text"),
        ("12.fixes.md", "Right.\n\n", "text"),
        ("12.fixes.md", "Right " * 30 + ".\n", "long line"),
    ],
)
def test_malformed_fragments_are_found(name, text, expected):
    assert wrong(name, text) == expected


def test_types_of_fragments_are_explained():
    text = (ROOT / "changelog.d" / "README.md").read_text()
    assert re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE) == TYPES


def test_new_versions_have_their_place():
    marker = PYPROJECT["tool"]["towncrier"]["start_string"]
    head, *rest = (ROOT / "CHANGELOG.md").read_text().split(marker)
    assert len(rest) == 1
    assert "## " not in head
    assert rest[0].startswith("\n## ")


# -- versions ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def oldest():
    path = ROOT / "validation" / "versions" / "oldest.py"
    spec = importlib.util.spec_from_file_location("oldest_tested", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_oldest_versions_are_those_of_pyproject(oldest):
    expected = oldest.constraints((ROOT / "pyproject.toml").read_text())
    assert oldest.FILE.read_text() == expected, "run validation/versions/oldest.py"
    assert expected.count("==") == expected.count("\n") > 20


def test_bounds_become_constraints(oldest):
    text = """[project]
dependencies = ["b[x,y]>=1.2", "a-c>=3,<4"]
[project.optional-dependencies]
test = ["b>=1.2", "d_e>=0.1.5"]
docs = ["f>=9"]
"""
    assert oldest.constraints(text) == "a-c==3\nb==1.2\nd_e==0.1.5\n"
    with pytest.raises(ValueError, match=r"both >=1.2 and >=1.3"):
        oldest.constraints(text.replace('["b>=1.2"', '["b>=1.3"'))
    with pytest.raises(ValueError, match="b: no lower bound"):
        oldest.constraints(text.replace('["b>=1.2"', '["b"'))


def test_citation_has_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    project = PYPROJECT["project"]
    assert citation["version"] == project["version"]
    assert citation["title"] == project["name"]
    assert citation["license"] == project["license"]
    assert citation["authors"] == project["authors"]
    sources = (ROOT / "docs" / "algorithms.md").read_text()
    for reference in citation["references"]:
        assert (reference.get("doi") or reference["number"]) in sources


def test_checks_before_a_commit_use_the_same_tools():
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    assert [repo["repo"] for repo in config["repos"]] == ["local"]
    hooks = {hook["id"]: hook for hook in config["repos"][0]["hooks"]}
    development = PYPROJECT["project"]["optional-dependencies"]["dev"]
    for name in ("ruff", "ruff-format"):
        assert set(hooks[name]["additional_dependencies"]) < set(development)
    pattern = re.compile(hooks["mypy"]["files"])
    for folder in PYPROJECT["tool"]["mypy"]["files"]:
        assert pattern.match(f"{folder}/usage.py")


# -- services ------------------------------------------------------------------------------------


def test_workflows_name_what_is_there():
    text = (ROOT / ".github/workflows/test.yaml").read_text()
    jobs = yaml.safe_load(text)["jobs"]
    assert set(jobs) == {"tests", "lint", "docs", "package"}
    matrix = jobs["tests"]["strategy"]["matrix"]
    spec = (ROOT / "validation/versions/run.py").read_text()
    cases = re.findall(r'"(3\.\d+)": None', spec)
    assert matrix["python"] == cases
    assert f">={cases[0]}" == PYPROJECT["project"]["requires-python"]
    assert matrix["include"] == [{"python": cases[0], "packages": "oldest"}]
    classifiers = PYPROJECT["project"]["classifiers"]
    versions = [c.rpartition(" ")[2] for c in classifiers if re.search(r"Python :: 3\.\d+$", c)]
    assert versions == cases
    targets = re.findall(r"run: make (\w+)", text)
    makefile = (ROOT / "Makefile").read_text()
    assert len(targets) == 2
    assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in targets)
    files = re.findall(r"(?<![\w.])(?:validation|docs)/[\w./-]+\.\w+", text)
    files += re.findall(r"docs/\w+\.py", (ROOT / ".readthedocs.yaml").read_text())
    assert len(files) == 4
    assert [file for file in files if not (ROOT / file).is_file()] == []


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", "CODE_OF_CONDUCT.md", "changelog.d/README.md"])
def test_links_lead_somewhere(page):
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", (ROOT / page).read_text())
    assert [link for link in links if not (ROOT / page).parent.joinpath(link).exists()] == []


def test_output_folders_hide_no_sources():
    """What .gitignore names is not part of the repository."""
    if not (ROOT / ".git").exists():
        return  # an unpacked source archive
    command = ["git", "ls-files", "-ci", "--exclude-standard"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == ""
