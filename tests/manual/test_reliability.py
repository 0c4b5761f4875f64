"""The page on reliability: each fault that it lists is tested, by a test that does just that."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "reliability.md"

DONE = {
    r"killed\b|\bdies?\b|ends worker after worker": r"SIGKILL|\bkill",
    r"SIGTERM": r"SIGTERM",
    r"Ctrl-C": r"SIGINT",
    r"scancel|is cancelled": r"scancel",
    r"\bfull\b|fills up": r"tmpfs",
    r"read-only": r"chattr",
    r"RLIMIT_FSIZE": r"RLIMIT_FSIZE",
    r"truncated": r"truncate|\[:-?\w+( // \d)?\]",
    r"vanishes": r"unlink|rename",
    r"namespace": r"unshare|namespace",
    r"manifest cannot be written": r"manifest",
    r"manifest is killed in its line": r"torn|append",
    r"lifetime": r"lifetime",
    r"noise": r"noise|NOISE|layer",
    r"Dask worker": r"worker",
    r"scheduler": r"scheduler",
    r"client": r"client",
    r"two batches": r"[Bb]atch|start",
    r"compressed": r"zlib|lz4|compress",
    r"a (run|task) fails": r"raise|raises",
    r"other versions": r"numpy",
    r"never come": r"NoWorkers|wait",
    r"interpreter's lock": r"PyDLL|GIL|lock",
    r"foreign code": r"ctypes|CDLL|stuck",
    r"time limit|out of time": r"time",
    r"SLURM jobs fail": r"script|status",
    r"refuses": r"partition|refuse",
    r"exposure of an array is bad|bad configuration": r"write|config",
}
"""What a row says (a pattern) and what the code of its test has then to contain (another one)."""
SEEN = {
    r"status ([^3])": r"\b{}\b",
    r"status (3)": r"\b{}\b|NoWorkers|WorkersDied",
    r"same bits": r"same|digest|equal|identical|differences",
    r"`(truncated|File too large|No space left on device|interrupted)`": r"{}",
}
"""The same of what was observed; ``{}`` is what the first pattern has found."""


def rows():
    """(section's files, fault, observed, tests) of each row of the page."""
    for section in PAGE.read_text().split("\n## ")[1:]:
        text, _, table = section.partition("\n| fault ")
        places = re.findall(r"`((?:tests|validation)/[\w/.]+)`", text)
        for line in table.splitlines()[2:]:
            if line.startswith("| "):
                fault, observed, tests = line.strip("| ").split(" | ")
                yield places, fault, observed, re.findall(r"`(\w+)`", tests)


class Code:
    """Definitions at the top of a file, with those of the conftest.py that it can use."""

    def __init__(self, path):
        self.known = {}
        above = [folder / "conftest.py" for folder in (ROOT / "tests", path.parent)]
        for file in (*(f for f in above if f.is_file()), path):
            lines = file.read_text().splitlines()
            for node in ast.parse("\n".join(lines)).body:
                first = min(n.lineno for n in (node, *getattr(node, "decorator_list", ())))
                for name in self._names(node):
                    self.known[name] = (node, "\n".join(lines[first - 1 : node.end_lineno]))

    @staticmethod
    def _names(node):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            return [node.name]
        if isinstance(node, ast.Assign):
            return [t.id for t in node.targets if isinstance(t, ast.Name)]
        return []

    def reached_from(self, name):
        """Source of a function, and of all that it uses: helpers, fixtures, constants."""
        done, left = {}, [name]
        while left:
            one = left.pop()
            if one in done or one not in self.known:
                continue
            node, done[one] = self.known[one]
            for part in ast.walk(node):
                left += [getattr(part, kind) for kind in ("id", "arg") if hasattr(part, kind)]
        return "\n".join(done.values())


@pytest.fixture(scope="module")
def codes():
    """``codes(places)``: the files in these places, parsed once."""
    parsed = {}

    def find(places):
        for place in places:
            path = ROOT / place
            assert path.exists(), place
            for file in sorted(path.rglob("test_*.py")) if path.is_dir() else [path]:
                if file not in parsed:
                    parsed[file] = Code(file)
                yield parsed[file]

    return find


def lacking(row, codes):
    """What is wrong with a row."""
    places, fault, observed, tests = row
    found = {name: [c for c in codes(places) if name in c.known] for name in tests}
    wrong = [f"{name} is in {len(c)} files of {places}" for name, c in found.items() if len(c) != 1]
    if wrong or not tests:
        return wrong or ["no test is named"]
    code = "\n".join(c[0].reached_from(name) for name, c in found.items())
    for patterns, text in ((DONE, fault), (SEEN, observed)):
        for said, needed in patterns.items():
            for match in re.finditer(said, text):
                wanted = needed.format(*(re.escape(group) for group in match.groups()))
                if not re.search(wanted, code):
                    wrong.append(f"{match[0]!r}, but the test has no {wanted!r}")
    return wrong


def test_every_fault_has_its_test(codes):
    table = list(rows())
    assert len(table) > 40
    assert {" ".join(row[3]): lacking(row, codes) for row in table if lacking(row, codes)} == {}


def test_a_row_with_the_wrong_test_is_noticed(codes):
    """A test that kills nothing and fills no disk fits few rows but its own."""
    other = ["test_many_writers"]
    wrong = [(*row[:3], other) for row in rows() if "tests/batch" in row[0] and row[3] != other]
    noticed = [row for row in wrong if lacking(row, codes)]
    assert len(noticed) > 0.6 * len(wrong)
    assert lacking((*wrong[0][:3], ["test_that_nobody_wrote"]), codes)
