"""The reader of ASDF files alone, on bytes, headers and trees that nobody would write: an
`InputError` of one line, or arrays. Never another exception, a hang, much memory, or a look at a
file that lies elsewhere.

A process of its own tries the cases of `reader_cases.py`, so that its memory can be limited.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

CASES = int(os.environ.get("FUZZ", "300"))
"""Cases of each kind, which are always the same without FUZZ."""
MEMORY = 500e6
"""Bytes that the process may have, resident, all told."""


def tried(what: str, cases: int, folder: Path) -> dict[str, int]:
    """Try cases of a kind: what became of them."""

    def limit() -> None:  # what asks for much more is stopped at once
        resource.setrlimit(resource.RLIMIT_DATA, (int(3 * MEMORY),) * 2)

    done = subprocess.run(
        [sys.executable, Path(__file__).with_name("reader_cases.py"), what, str(cases), folder],
        capture_output=True, text=True, preexec_fn=limit, check=False,
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1"}, timeout=100 + cases / 20,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr + done.stdout
    counts = json.loads(done.stdout.splitlines()[-1])
    assert counts["peak"] < MEMORY
    return counts


@pytest.mark.parametrize("what", ["trees", "headers"])
def test_reader(tmp_path, what):
    counts = tried(what, CASES, tmp_path)
    total = counts["read"] + counts["refused"]
    assert total >= 0.9 * CASES
    assert counts["read"] > 0.05 * total
    assert counts["refused"] > 0.2 * total


def test_bombs(tmp_path):
    """A long text is read; all that unfolds, or does not end, is refused."""
    counts = tried("bombs", 0, tmp_path)
    assert counts["read"] == 1
    assert counts["refused"] > 8


@pytest.mark.slow
@pytest.mark.parametrize("what", ["trees", "headers"])
def test_reader_ten_thousand_times(tmp_path, what):
    tried(what, max(CASES, 10_000), tmp_path)
