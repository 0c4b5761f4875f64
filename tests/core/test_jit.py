"""Compiled kernels are kept on disk, for many processes that start at once."""

from __future__ import annotations

import importlib
import os
import pickle
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numba
import numpy as np
import pytest

from roman_dask_l2.core import jit
from roman_dask_l2.simulation.simulate import simulate

ROOT = Path(__file__).parents[2]

MODULE = """
from roman_dask_l2.core.jit import kernel

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


@pytest.mark.slow
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


@pytest.mark.slow
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


# Root may write everywhere: give that up first.
WITHOUT_POWER = """
import ctypes, os, sys
if os.getuid() == 0:
    assert ctypes.CDLL(None).prctl(24, 1, 0, 0, 0) == 0  # PR_CAPBSET_DROP, CAP_DAC_OVERRIDE
os.execv(sys.executable, [sys.executable, "-m", "roman_dask_l2", *sys.argv[1:]])
"""


@pytest.mark.slow
def test_a_read_only_installation(tmp_path):
    """Kernels are compiled once, for the user; nothing is written beside the source."""
    config = simulate(tmp_path / "exposure", side=256, seed=3).config
    site = tmp_path / "site"
    for name in ("roman_dask_l2", "graphs"):
        shutil.copytree(ROOT / name, site / name, ignore=shutil.ignore_patterns("__pycache__"))
    before = set(site.rglob("*"))
    for folder in (site, *(path for path in before if path.is_dir())):
        folder.chmod(0o555)
    home = tmp_path / "home"
    home.mkdir()
    environment = {**os.environ, "HOME": str(home), "PYTHONPATH": str(site)}
    for name in ("NUMBA_CACHE_DIR", "XDG_CACHE_HOME"):
        environment.pop(name, None)
    command = [sys.executable, "-c", WITHOUT_POWER, str(config), "--quiet"]
    compiled = []
    for _ in range(2):
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stderr
        files = (home / ".cache" / "roman_dask_l2" / "numba").rglob("*.nbc")
        compiled.append({(path.name, path.stat().st_mtime_ns) for path in files})
    assert len(compiled[0]) > 20
    assert compiled[1] == compiled[0]
    assert set(site.rglob("*")) == before


DAMAGE = {
    "truncated": lambda path: os.truncate(path, path.stat().st_size // 2),
    "one byte short": lambda path: os.truncate(path, path.stat().st_size - 1),
    "empty": lambda path: os.truncate(path, 0),
    "garbage": lambda path: path.write_bytes(b"\x80\x05garbage" * 100),
    "one bit": lambda path: path.write_bytes(flipped(path.read_bytes())),
    "of another kind": lambda path: path.write_bytes(pickle.dumps({"a": 1})),
    "a directory": lambda path: (path.unlink(), path.mkdir()),
    "a pointer to nothing": lambda path: (path.unlink(), path.symlink_to("nothing")),
}


def flipped(data):
    middle = len(data) * 2 // 3
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


def test_damaged_files_of_the_cache_are_replaced(tmp_path, monkeypatch):
    """What a crash leaves there must not end later runs: it is compiled again, and kept again."""
    (tmp_path / "adding.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path / "cache"))
    function = importlib.import_module("adding").total.py_func
    ones = np.ones(7)

    def run():
        """Hits and misses of a function that is new to the process."""
        compiled = jit.kernel(function)
        jit._kernels.remove(compiled)
        assert compiled(ones) == 7
        return sum(compiled.stats.cache_hits.values()), sum(compiled.stats.cache_misses.values())

    assert run() == (0, 1)
    assert run() == (1, 0)
    for suffix in (".nbi", ".nbc"):
        for name, damage in DAMAGE.items():
            (path,) = (tmp_path / "cache").rglob(f"*{suffix}")
            damage(path)
            assert run() == (0, 1), (suffix, name)
            if name == "a directory":  # a file cannot take its place
                path.rmdir()
                assert run() == (0, 1)
            assert run() == (1, 0), (suffix, name)
