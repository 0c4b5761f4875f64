"""What `make parity` lets pass between two likelihood fits, and what it does not."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from programs import ROOT, load

FOLDER = ROOT / "validation" / "parity"


@pytest.fixture
def parity(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    yield load("likelihood", "validation/parity")
    for name in ("compare", "package"):
        sys.modules.pop(name, None)


@pytest.fixture
def case():
    shape = (400, 400)
    rng = np.random.default_rng(5)
    theirs = {"data_withsky": rng.uniform(0.2, 3, shape).astype(np.float32)}
    for name in ("err", "var_poisson", "chisq", "dumo"):
        theirs[name] = rng.uniform(0.1, 3, shape).astype(np.float16)
    theirs["dq"] = np.zeros(shape, np.uint32)
    theirs["medsky"] = np.array([0.4])
    ours = {name: array.copy() for name, array in theirs.items()}
    return ours, theirs, np.full(shape, 1.8), np.full(shape, 6)


def test_equal_fits_pass(parity, case):
    rows, causes, failed = parity.compare_fits(*case)
    assert failed == []
    assert all(row.differ == 0 for row in rows)
    assert all(n == 0 for n, _ in causes.values())


def test_causes_excuse_their_pixels(parity, case):
    ours, theirs, gain, used = case
    gain[0, 0], ours["data_withsky"][0, 0] = -0.5, np.nan
    used[1, 1], ours["data_withsky"][1, 1], ours["dq"][1, 1] = 3, 400, 4
    theirs["var_poisson"][2, 2], ours["var_poisson"][2, 2] = np.inf, 65504
    ours["err"][3, 3] += 3 * np.spacing(ours["err"][3, 3])
    _, causes, failed = parity.compare_fits(*case)
    assert failed == []
    assert [found for found in causes.values()] == [(1, 1)] * 4


@pytest.mark.parametrize(
    ("name", "change"),
    [("data_withsky", 1.0001), ("dq", 4), ("err", 1.02), ("dumo", np.nan), ("medsky", 1.001)],
)
def test_anything_else_fails(parity, case, name, change):
    ours = case[0]
    place = (7, 7) if ours[name].ndim == 2 else 0
    ours[name][place] = change if name == "dq" else ours[name][place] * change
    rows, _, failed = parity.compare_fits(*case)
    assert failed == [f"likelihood {name}"]
    assert {row.name: row.outside for row in rows}[name] == 1


def test_ties_must_be_rare(parity, case):
    ours = case[0]
    ours["err"][:20] += 3 * np.spacing(ours["err"][:20])
    assert parity.compare_fits(*case)[2] == [parity.TIE]
