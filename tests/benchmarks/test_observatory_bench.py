"""The benchmark of the observatory's recipes, on a small detector, without romancal."""

from __future__ import annotations

import argparse
import shutil

import asdf
import numpy as np
import pytest
from programs import load

pytestmark = pytest.mark.slow

bench = load("observatory_bench")


@pytest.fixture
def place(simulated, tmp_path):
    """Files under the names that ``make parity`` gives them."""
    made = simulated(references="observatory", conditions=())
    folder = tmp_path / "in"
    folder.mkdir()
    shutil.copy(made.l1, folder / "l1.asdf")
    for path in made.config.with_name("cal").glob("*.asdf"):
        shutil.copy(path, folder / path.name)
    return tmp_path


def test_ours(place):
    args = argparse.Namespace(
        threads=2, runs=2, ours=True, many=12, detector="WFI01", side=256, dry_run=True
    )
    result = bench.run(place, None, args)
    many = f"romancal_1.1, {args.many} resultants"
    counts = {name: values["runs"] for name, values in result["medians"].items()}
    assert counts == {"romancal_1.1": 2, "observatory": 2, many: 1}
    text = bench.page(result)
    assert "| peak resident, observatory | ≤ 1.2 GB |" in " ".join(text.split())
    assert not list(place.glob("*.asdf"))


def test_more_resultants(place):
    """They lie on the ramp of those that were there."""
    l1 = place / "in" / "l1.asdf"
    more = bench.with_more_resultants(l1, place / "more.asdf", 20)
    with asdf.open(l1) as few, asdf.open(more) as many:
        a, b = few["roman"], many["roman"]
        assert b["data"].shape == (20, *a["data"].shape[1:])
        assert len(b["meta"]["exposure"]["read_pattern"]) == 20
        np.testing.assert_array_equal(b["data"][0], a["data"][0])
        low, high = a["data"][:].min(0), a["data"][:].max(0)
        assert (b["data"][:] >= low).all()
        assert (b["data"][:] <= high).all()


def test_ratios():
    def one(program, seconds, memory):
        numbers = dict.fromkeys(("read", "written", "disk_read", "disk_written", "anonymous"), 1e9)
        return {"program": program, "wall": seconds, "cpu": seconds, "resident": memory, **numbers}

    found = bench.medians([one("romancal", 200, 5e9), one("romancal_1.1", 16, 1.3e9)])
    lines = [line[2:] for line in bench.targets(found)]
    assert lines == [("12.5", "not reached"), ("12.5", "reached"), ("1.30 GB", "not reached")]
