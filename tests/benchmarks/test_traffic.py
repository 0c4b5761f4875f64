"""The arithmetic of bytes, against what the kernel counts."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from configuring import elsewhere
from programs import load

exposures, traffic = load("exposures"), load("traffic")

COUNTED = """
import json, sys
from pathlib import Path
from roman_dask_l2.io import arrays
from roman_dask_l2.products.level2 import calibrate

def counts():
    lines = Path("/proc/self/io").read_text().splitlines()
    return {k: int(v) for k, v in (line.split(": ") for line in lines)}

calibrate(sys.argv[1])  # imports, and what is read but once
arrays.keep_open([])
before = counts()
calibrate(sys.argv[1])
print(json.dumps({k: v - before[k] for k, v in counts().items()}))
"""


def test_arithmetic_of_bytes(simulated, tmp_path):
    """What the arrays say that is read and written, against what the kernel counts. Beside pixels,
    headers and trees are read, schemas too."""
    simulation = simulated(conditions=(), seed=77, side=512)
    settings = elsewhere(simulation, tmp_path, FITSOUT=False)
    said = subprocess.run(
        [sys.executable, "-c", COUNTED, settings], check=True, capture_output=True, text=True
    )
    counted = json.loads(said.stdout.splitlines()[-1])
    found = traffic.traffic(traffic.prepare(settings))
    read = found["l1"] + found["references"] + found["products"]
    assert read < counted["rchar"] < 1.03 * read + 2e6
    assert found["written"] < counted["wchar"] < 1.01 * found["written"] + 2e5
    assert found["l1_file"] == pytest.approx(simulation.l1.stat().st_size, rel=0.01)


def test_bytes_of_a_larger_detector(simulated):
    """A small exposure taken for a larger one gives what the larger one gives."""
    job = traffic.prepare(simulated(conditions=(), seed=77).config)
    large = traffic.traffic(traffic.enlarged(job, 512))
    real = traffic.prepare(simulated(conditions=(), seed=77, side=512).config)
    for key, exact in traffic.traffic(real).items():
        same = pytest.approx(exact, rel=0.03) if "l1" in key or "files" in key else exact
        assert large[key] == same, key  # how far a file can be packed depends on its pixels


def test_the_page_shows_the_arithmetic_of_bytes(simulated):
    config = simulated(side=256, read_pattern=exposures.read_pattern(8), seed=1).config
    assert traffic.page(config).strip() in traffic.PAGE.read_text()
