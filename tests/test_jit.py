"""Compiled kernels are kept on disk, for many processes that start at once."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]

MODULE = """
from roman_dask_l2.jit import kernel

@kernel
def total(values):
    result = 0.0
    for value in values:
        result += value
    return result
"""

# While a variant is added, numba's cache is not whole: here that lasts.
PROGRAM = """
import sys, time
import numpy as np
from numba.core.caching import IndexDataCacheFile as File

def slow(function):
    def call(*arguments):
        time.sleep(0.7)
        return function(*arguments)
    return call

File._save_index, File._save_data = slow(File._save_index), slow(File._save_data)
from summing import total

for kind in sys.argv[1:]:
    assert total(np.ones(7, kind)) == 7, kind
print(sum(total.stats.cache_hits.values()), sum(total.stats.cache_misses.values()))
"""

KINDS = ("float32", "float64", "uint16")


def start(folder, cache, *kinds):
    path = os.pathsep.join([str(folder), str(ROOT)])
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(cache), "PYTHONPATH": path}
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *kinds],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def test_many_processes_fill_one_cache(tmp_path):
    """Each begins with another variant, so that all add to the same index at the same time."""
    (tmp_path / "summing.py").write_text(MODULE)
    running = [start(tmp_path, tmp_path / "cache", kind) for kind in KINDS]
    for process in running:
        _, error = process.communicate(timeout=120)
        assert process.returncode == 0, error
    with start(tmp_path, tmp_path / "cache", *KINDS) as later:
        output, error = later.communicate(timeout=120)
    assert later.returncode == 0, error
    assert output.split() == ["3", "0"]  # every variant was there: nothing was lost


def test_new_code_is_never_mixed_with_old(tmp_path):
    """While one process replaces what an older version of the function left, another looks."""
    module = tmp_path / "summing.py"
    module.write_text(MODULE.replace("+= value", "+= 100"))  # the old version
    with start(tmp_path, tmp_path / "cache", "float32") as old:
        assert "AssertionError" in old.communicate(timeout=120)[1]
    module.write_text(MODULE)
    running = []
    for _ in range(4):  # over the time that the first needs to replace it
        running.append(start(tmp_path, tmp_path / "cache", "float32"))
        time.sleep(0.4)
    for process in running:
        _, error = process.communicate(timeout=120)
        assert process.returncode == 0, error
