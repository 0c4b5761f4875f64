"""A compiled kernel is used again only while all that it was compiled from is the same."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
INNER = """
from roman_dask_l2.core.jit import kernel
SIZE = {size}
@kernel
def inner(x):
    return {body}
"""
OUTER = """
from roman_dask_l2.core.jit import kernel
from inner import SIZE, inner
@kernel
def outer(x):
    return inner(x) + SIZE
"""
PROGRAM = """
import outer
print(outer.outer(1.0), len(outer.outer.stats.cache_hits))
"""


def test_a_change_in_another_file(tmp_path):
    """Neither machine code of a called kernel nor a constant of another file is kept."""

    def run(size: int, body: str) -> tuple[float, int]:
        (tmp_path / "inner.py").write_text(INNER.format(size=size, body=body))
        environment = os.environ | {"PYTHONPATH": f"{tmp_path}:{ROOT}"}
        environment.pop("NUMBA_CACHE_DIR", None)
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM],
            env=environment,
            cwd=tmp_path,
            check=True,
            capture_output=True,
            text=True,
        )
        value, hits = done.stdout.split()
        return float(value), int(hits)

    (tmp_path / "outer.py").write_text(OUTER)
    assert run(10, "2 * x") == (12.0, 0)
    assert run(10, "2 * x") == (12.0, 1)
    assert run(10, "3 * x") == (13.0, 0)
    assert run(20, "3 * x") == (23.0, 0)
