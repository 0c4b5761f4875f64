"""What travels between processes: it is counted, and it is little."""

from __future__ import annotations

import json
import math

import cloudpickle
import dask
import pytest
from programs import load

from roman_dask_l2.products.calibration import Target, calibration_graph, l2_file
from roman_dask_l2.products.job import prepare

pytestmark = pytest.mark.slow

travels = load("travels")


def test_who_sends_to_whom():
    found = {
        "program": [{("p:1", "s:0"): 10}],
        "scheduler": [{("s:0", "p:1"): 20, ("s:0", "a:7"): 30, ("s:5", "b:0"): 40}],
        "workers": [
            {("a:7", "s:0"): 50, ("a:8", "b:0"): 60},
            {("b:0", "a:8"): 70, ("b:0", "s:5"): 5},
        ],
    }
    assert travels.flows(found) == {
        "program to scheduler": 10, "scheduler to program": 20, "scheduler to workers": 70,
        "workers to scheduler": 55, "workers to workers": 130,
    }  # fmt: skip


def test_little_travels(simulated, tmp_path):
    """For real, in kB; nothing of it grows with the pixels of a tile."""
    config = travels.configuration(simulated(conditions=(), seed=77).config, tmp_path)
    found = travels.measured(config, tile=64)
    tiles = 16
    for stage, most in (("calibration", 1), ("noise", len(travels.LAYERS))):
        assert set(found[stage]) == {f"{a} to {b}" for a, b in travels.WAYS}
        assert 20e3 < found[stage]["program to scheduler"] < 100e3
        assert 0 < found[stage]["scheduler to program"] < 200e3
        for way in ("scheduler to workers", "workers to scheduler", "workers to workers"):
            assert 0 < found[stage][way] < most * (500e3 + 20e3 * tiles), way


@pytest.mark.parametrize("tile", [(256, 256), (64, 256), (32, 64)])
def test_graphs_are_small(simulated, tmp_path, tile):
    """Descriptions of files once, and little more for each tile: no array is in it."""
    job = prepare(simulated(conditions=(), seed=77).config)
    graph, _ = calibration_graph([Target(job, l2_file(job, tmp_path / "l2.asdf"))], tile)
    tiles = math.prod(256 // n for n in tile)
    for form in (graph, *dask.optimize(graph)):
        assert len(cloudpickle.dumps(form)) < 60e3 + 800 * tiles


def test_the_page_shows_what_was_counted():
    part = travels.PAGE.read_text().split("<!-- travels: begin -->")[1]
    part = part.split("<!-- travels: end -->")[0].strip()
    assert part == travels.page(json.loads(travels.RESULT.read_text())).strip()
