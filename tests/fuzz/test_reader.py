"""The reader of ASDF files alone, on bytes, headers and trees that nobody would write, and what
asdf makes of such: an `InputError` of one line, or arrays. Never another exception, a hang, much
memory, or a look at a file that lies elsewhere.

A process of its own tries the cases of `reader_cases.py` or `converter_cases.py`, so that its
memory can be limited.
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


def tried(
    what: str, cases: int, folder: Path, program: str = "reader_cases.py", rate: float = 20
) -> dict[str, int]:
    """Try cases of a kind, at so many a second at least: what became of them."""

    def limit() -> None:  # what asks for much more is stopped at once
        resource.setrlimit(resource.RLIMIT_DATA, (int(3 * MEMORY),) * 2)

    done = subprocess.run(
        [sys.executable, Path(__file__).with_name(program), what, str(cases), folder],
        capture_output=True, text=True, preexec_fn=limit, check=False,
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1"}, timeout=100 + cases / rate,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr + done.stdout
    counts = json.loads(done.stdout.splitlines()[-1])
    assert counts["peak"] < MEMORY
    return counts


@pytest.mark.parametrize("what", ["trees", "headers"])
def test_reader(tmp_path, what):
    counts = tried(what, CASES, tmp_path)
    total = counts["read"] + counts["refused"]
    assert total >= CASES
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
    cases = max(CASES, 10_000)
    counts = tried(what, cases, tmp_path)
    assert counts["read"] + counts["refused"] >= cases
    assert min(counts["read"], counts["refused"]) > 0.05 * cases


def converted(cases: int, folder: Path) -> dict[str, int]:
    """What became of files that asdf itself is given; they take more time, so there are less."""
    return tried("gwcs", cases, folder, "converter_cases.py", 2)


def test_converters(tmp_path):
    cases = max(CASES // 5, 1)
    counts = converted(cases, tmp_path)
    assert counts["read"] + counts["refused"] > cases
    assert min(counts["read"], counts["refused"]) > 0.03 * cases


@pytest.mark.slow
def test_converters_a_thousand_times(tmp_path):
    cases = max(CASES // 5, 1000)
    counts = converted(cases, tmp_path)
    assert counts["read"] + counts["refused"] > cases
    assert min(counts["read"], counts["refused"]) > 0.03 * cases
