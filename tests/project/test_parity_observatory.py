"""What the comparison with romancal's steps lets pass, and what it does not."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
from programs import ROOT, load

FOLDER = ROOT / "validation" / "parity"
SIDE, R = 24, 5


@pytest.fixture
def parity(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    yield load("observatory_compare", "validation/parity")
    for name in ("compare", "package"):
        sys.modules.pop(name, None)


@pytest.fixture
def scene(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    return load("observatory_scene", "validation/parity")


@pytest.fixture
def left(parity, tmp_path):
    """A folder as romancal_pipeline.py leaves it: two steps, the second changes one array."""
    rng = np.random.default_rng(3)
    data = rng.normal(5500, 10, (R, SIDE, SIDE)).astype(np.float32)
    groupdq = np.zeros(data.shape, np.uint8)
    rate = rng.normal(0.3, 0.05, (SIDE - 8,) * 2).astype(np.float32)
    for folder, arrays in {
        "06_linearity": {"data": data, "groupdq": groupdq, "pixeldq": np.zeros((SIDE,) * 2, "u4")},
        "07_ramp_fit": {
            "data": rate, "err": (0.05 + 0 * rate).astype(np.float16),
            "dq": np.zeros(rate.shape, np.uint32),
        },
    }.items():  # fmt: skip
        (tmp_path / folder).mkdir()
        for name, array in arrays.items():
            np.save(tmp_path / folder / f"{name}.npy", array)
        where = {name: f"{folder}/{name}.npy" for name in arrays}
        (tmp_path / folder / "meta.json").write_text(json.dumps({"arrays": where, "meta": {}}))
    return parity.Left(tmp_path, SIDE)


class Gain:
    def __init__(self, gain):
        self.gain = gain

    def read(self):
        return self.gain


class Job:
    """The one thing that is asked of a job."""

    def __init__(self, gain=None):
        gain = np.full((SIDE, SIDE), 1.8) if gain is None else gain
        self.inputs = type("Inputs", (), {"sources": {"gain.data": Gain(gain)}})


def fitted(left):
    return {name: np.array(a) for name, a in left.after("ramp_fit").items()}


def outside(result):
    return {row.name: row.outside for row in result.rows}


def test_images_get_a_border_and_ramps_do_not(left):
    assert left.after("linearity")["ramp"].shape == (R, SIDE, SIDE)
    assert left.after("ramp_fit")["rate"].shape == (SIDE, SIDE)
    assert left.before("linearity") == {}
    assert left.before("ramp_fit")["ramp"].shape == (R, SIDE, SIDE)


def test_the_same_passes(parity, left):
    result = parity.compare_step("ramp_fit_likelihood", fitted(left), left, Job())
    assert outside(result) == {"rate": 0, "dq": 0, "err": 0}
    assert all(row.differ == 0 for row in result.rows)


@pytest.mark.parametrize(
    ("name", "change"), [("rate", 2e-5), ("dq", 4), ("err", 1e-3), ("rate", np.nan)]
)
def test_anything_else_fails(parity, left, name, change):
    ours = fitted(left)
    ours[name][9, 9] += np.array(change).astype(ours[name].dtype)
    result = parity.compare_step("ramp_fit_likelihood", ours, left, Job())
    assert outside(result)[name] == 1
    assert sum(outside(result).values()) == 1


def test_causes_excuse_only_their_pixels(parity, left, tmp_path):
    gain = np.full((SIDE, SIDE), 1.8)
    gain[10, 10] = -1.8
    flags = np.load(tmp_path / "06_linearity" / "groupdq.npy")
    flags[:2, 11, 11] = 1  # two differences are left
    np.save(tmp_path / "06_linearity" / "groupdq.npy", flags)
    ours = fitted(left)
    for place in ((10, 10), (11, 11), (12, 12)):
        ours["rate"][place] += 1
    result = parity.compare_step("ramp_fit_likelihood", ours, left, Job(gain))
    assert outside(result)["rate"] == 1
    assert result.causes == {parity.MEANINGLESS: 1, parity.FEW: 1}


def test_border_of_ramps_counts(parity, left):
    ours = {name: np.array(a) for name, a in left.after("linearity").items()}
    ours["ramp"][2, 0, 0] += 0.1
    ours["groupdq"][1, 5, 5] = 2
    result = parity.compare_step("linearity_polynomial", ours, left, Job())
    assert outside(result) == {"ramp": 1, "pixeldq": 0, "groupdq": 1}


def test_the_last_bit_of_the_input_excuses_the_fit_alone(parity, left):
    ours = fitted(left)
    alone = [parity.compare_step("ramp_fit_likelihood", ours, left, Job())]
    ours["rate"][9, 9] += 1
    after_all = parity.compare_step("ramp_fit_likelihood", ours, left, Job(), alone)
    assert outside(after_all)["rate"] == 0
    assert after_all.causes == {parity.CLOSE: 1}
    many = {name: array.copy() for name, array in ours.items()}
    many["rate"][9, 9:11] += 1
    widespread = parity.compare_step("ramp_fit_likelihood", many, left, Job(), alone)
    assert outside(widespread)["rate"] == 2
    at_fault = [parity.compare_step("ramp_fit_likelihood", ours, left, Job())]
    again = parity.compare_step("ramp_fit_likelihood", ours, left, Job(), at_fault)
    assert outside(again)["rate"] == 1


def test_polynomials_are_inverse_to_each_other(scene):
    bend = np.linspace(0.026, 0.054, 30)
    there, back = scene.forward(bend), scene.inverse(bend)
    assert there.dtype == np.float32
    assert (there[-1] != 0).all()
    assert (back[-1] != 0).all()
    for raw in (3000.0, 20000.0, 55000.0):
        again = scene.polynomial(back, scene.polynomial(there, np.full(bend.shape, raw)))
        assert np.abs(again - raw).max() < 40


def test_every_condition_has_pixels_of_its_own(scene):
    made = scene.Scene(256, 1)
    taken = np.concatenate([y * 256 + x for y, x in made.places.values()])
    assert len(taken) == len(set(taken.tolist())) == scene.EACH * len(scene.PLACES)
    again = scene.Scene(256, 1)
    assert all(np.array_equal(made.places[n], again.places[n]) for n in scene.PLACES)
