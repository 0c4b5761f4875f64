"""Freed memory is used again."""

from __future__ import annotations

import os
import subprocess
import sys
import time

from roman_dask_l2.system.processes import KEPT, ONE_THREAD, one_thread_each

# Three blocks of 20 MB at a time: more than glibc keeps by itself.
_PROGRAM = """
import resource, sys
from roman_dask_l2.system.processes import keep_freed
if sys.argv[1] == "keep":
    keep_freed()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    blocks = [bytearray(20_000_000) for _ in range(3)]
    del blocks
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def _faults(what: str, **variables: str) -> int:
    environment = {k: v for k, v in os.environ.items() if k not in KEPT} | variables
    command = [sys.executable, "-c", _PROGRAM, what]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    return int(done.stdout)


def test_freed_memory_is_used_again():
    assert 5 * _faults("keep") < _faults("leave")


def test_the_environment_comes_first():
    variables = {"MALLOC_TRIM_THRESHOLD_": "65536"}
    assert 2 * _faults("keep", **variables) > _faults("leave", **variables)


def test_libraries_have_one_thread_unless_the_environment_says_otherwise(monkeypatch):
    """A BLAS with threads of its own lets them wait busily after each call."""
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    for name in ONE_THREAD[1:]:
        monkeypatch.delenv(name, raising=False)
    one_thread_each()
    assert [os.environ[name] for name in ONE_THREAD] == ["3", "1", "1", "1"]
    for name in ONE_THREAD[1:]:
        monkeypatch.delenv(name)


def test_the_command_gives_a_blas_one_thread(monkeypatch):
    for name in ONE_THREAD:
        monkeypatch.delenv(name, raising=False)
    program = (
        "import os, sys; from roman_dask_l2.cli.app import main; sys.argv[1:] = ['--version']\n"
        "try: main()\n"
        "finally: print(os.environ['OPENBLAS_NUM_THREADS'])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "1", done.stderr


def test_the_age_of_a_process():
    """To the tick of the clock, not to the second in which the machine was started."""
    program = "import time; from roman_dask_l2.system.processes import age; print(age())"
    began = time.monotonic()
    told = float(subprocess.check_output([sys.executable, "-c", program], text=True))
    assert 0.0 < told <= time.monotonic() - began + 0.03
