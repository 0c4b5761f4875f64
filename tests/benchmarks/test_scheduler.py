"""The benchmark of Dask's scheduler: real graphs without work."""

from __future__ import annotations

import subprocess
import sys

import pytest
from configuring import elsewhere
from dask.callbacks import Callback
from programs import BENCHMARKS, load

from roman_dask_l2.products.level2 import calibrate

pytestmark = pytest.mark.slow

report, scheduler = load("report"), load("scheduler")


def test_a_quick_scheduler(tmp_path):
    """A real scheduler with simulated workers, the same in threads, and a batch of images that
    are not worked on; as a program, because the scheduler gets its code."""
    before = {p: p.read_bytes() for p in (report.ROOT / "docs").glob("benchmarks/*.json")}
    said = subprocess.run(
        [sys.executable, BENCHMARKS / "scheduler.py", "--quick"], capture_output=True, text=True
    )
    assert said.returncode == 0, said.stderr
    rows = [[c.strip() for c in x.split("|")[1:-1]] for x in said.stdout.splitlines() if "|" in x]
    assert [row[1] for row in rows[2:]] == ["2321 tasks", "2321 tasks", *["100 images"] * 3]
    assert all(float(row[3]) > 0 for row in rows[2:])
    assert "Nothing was written" in said.stdout
    assert {p: p.read_bytes() for p in (report.ROOT / "docs").glob("benchmarks/*.json")} == before


def test_the_shape_of_graphs(simulated, tmp_path):
    """The graphs of empty tasks are as large as the program's own for so many tiles."""
    keys = []

    class Count(Callback):
        def _posttask(self, key, *_):
            keys.append(key)

    with Count():
        calibrate(elsewhere(simulated(conditions=(), seed=77), tmp_path, FITSOUT=False), tile=32)
    graph, end = scheduler.exposure_graph(5)
    assert len(graph) == pytest.approx(len(keys), rel=0.05)
    assert end in graph
    assert all(key in graph for task in graph.values() for key in task[1:])
