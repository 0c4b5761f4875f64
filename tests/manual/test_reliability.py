"""The page on reliability: what it says to be tested is tested."""

from __future__ import annotations

import re
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
PAGE = TESTS.parent / "docs" / "reliability.md"


def test_every_fault_has_its_test():
    code = "\n".join(path.read_text() for path in TESTS.rglob("*.py"))
    rows = [line for line in PAGE.read_text().splitlines() if re.match(r"\| (?!fault \|)", line)]
    assert len(rows) > 40
    for row in rows:
        named = re.findall(r"`(\w+)`", row.rstrip("| ").rpartition(" | ")[2])
        assert named, row
        for name in named:
            assert f"def {name}(" in code, name
