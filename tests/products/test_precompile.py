"""The helper that compiles kernels while a first run is at work."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import time
from pathlib import Path

import pytest

from roman_dask_l2.config.model import load_config
from roman_dask_l2.core import jit
from roman_dask_l2.products import precompile
from roman_dask_l2.products.level2 import calibrate
from roman_dask_l2.simulation.simulate import simulate

PROGRAM = [sys.executable, "-c", "from roman_dask_l2.products.precompile import main; main()"]

MISSES = """
import sys
from roman_dask_l2 import calibrate
from roman_dask_l2.core.jit import _kernels
calibrate(sys.argv[1], scheduler="synchronous")
for kernel in _kernels:
    for signature in kernel.stats.cache_misses:
        print(kernel.py_func.__module__ + "." + kernel.py_func.__name__)
"""


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    folder = tmp_path_factory.mktemp("precompile")
    return simulate(folder, side=256, seed=3, config={"SKYORDER": 2}).config


def environment(cache: Path) -> dict[str, str]:
    return {**os.environ, "NUMBA_CACHE_DIR": str(cache)}


def n_compiled(cache: Path) -> int:
    return len(list(cache.rglob("*.nbc")))


def misses(config: Path, cache: Path) -> list[str]:
    """Kernels that a run in a process of its own has to compile."""
    done = subprocess.run(
        [sys.executable, "-c", MISSES, config],
        env=environment(cache), capture_output=True, text=True, timeout=300, check=True,
    )  # fmt: skip
    return done.stdout.split()


def test_what_the_helper_compiles_is_what_a_run_needs(config, tmp_path):
    """All kernels from the step after the reference pixels to the sky, and of no other types. A
    helper whose run ends at once compiles few, and the next one goes on from there."""
    compiled = []
    for run_ends in (True, False):
        with subprocess.Popen(PROGRAM, stdin=subprocess.PIPE, env=environment(tmp_path)) as helper:
            helper.stdin.write(pickle.dumps(load_config(config)))
            helper.stdin.flush()
            if run_ends:
                helper.stdin.close()
            assert helper.wait(timeout=300) == 0
        compiled.append(n_compiled(tmp_path))
    assert 0 < compiled[0] < compiled[1] / 2
    left = misses(config, tmp_path)
    later = ("bias", "linearity", "dark", "ipc", "ramp_fit", "flat", "mask")
    assert not [name for name in left if name.split(".")[-2] in later], left
    assert left  # what a run begins with is left to it
    assert misses(config, tmp_path) == []


def test_one_helper_is_enough(config, tmp_path):
    helpers = [
        subprocess.Popen(PROGRAM, stdin=subprocess.PIPE, env=environment(tmp_path))
        for _ in range(2)
    ]
    for helper in helpers:
        helper.stdin.write(pickle.dumps(load_config(config)))
        helper.stdin.flush()
    first = time.monotonic()
    ended = []
    while len(ended) < 2:
        ended = [h for h in helpers if h.poll() is not None]
        if len(ended) == 1 and n_compiled(tmp_path) < 10:
            break
        assert time.monotonic() - first < 300
        time.sleep(0.02)
    assert len(ended) == 1  # the other one had the lock, and works
    for helper in helpers:
        helper.communicate()
        assert helper.returncode == 0


def test_no_helper_where_all_is_compiled(config, monkeypatch):
    calibrate(config)
    monkeypatch.setattr(precompile, "_start", lambda job: pytest.fail("a helper was started"))
    calibrate(config)


@pytest.mark.parametrize("program", ["/bin/false", "/no/such/program"])
def test_a_run_without_its_helper(config, tmp_path, monkeypatch, program):
    monkeypatch.setattr(jit, "cold_cache", lambda: tmp_path)
    monkeypatch.setattr(precompile.sys, "executable", program)
    assert calibrate(config).out.is_file()
