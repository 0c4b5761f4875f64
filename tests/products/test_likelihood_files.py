"""Level-2 files of the likelihood fit, and the list of jumps of either fit."""

from __future__ import annotations

import warnings

import asdf
import numpy as np
import pytest
import roman_datamodels as rdm
from configuring import elsewhere
from rewriting import rewrite_array

from roman_dask_l2.core.dq import PIXEL
from roman_dask_l2.errors import InputError
from roman_dask_l2.products.job import prepare
from roman_dask_l2.products.level2 import calibrate
from roman_dask_l2.simulation.simulate import simulate

SIDE, ACTIVE = 256, 248
LARGE = {"romancal_ramp_fit": True, "JUMP_KW": {"expand_large_events": True}}
CASES = {
    "fixed weights": {},
    "likelihood": {"romancal_ramp_fit": True},
    "large events": LARGE,
    "compatible": LARGE | {"GRAPH": "romanimpreprocess_1.0"},
}
JUMP, SAT, DNU = (np.uint32(PIXEL[n]) for n in ("JUMP_DET", "SATURATED", "DO_NOT_USE"))


def with_snowballs(data):
    """Charge that stays, with a core that saturates."""
    y, x = np.mgrid[:SIDE, :SIDE]
    for row, column, radius, core, first in ((60, 64, 8, 3, 4), (150, 190, 11, 4, 3)):
        square = (y - row) ** 2 + (x - column) ** 2
        hit = data[first:, square <= radius**2].astype(int)
        data[first:, square <= radius**2] = np.minimum(hit + 3000, 65535)
        data[first:, square <= core**2] = 65535
    return data


@pytest.fixture(scope="module")
def simulation(tmp_path_factory):
    made = simulate(tmp_path_factory.mktemp("snowballs"), side=SIDE, seed=4)
    rewrite_array(made.l1, "data", with_snowballs)
    return made


@pytest.fixture(scope="module")
def run(simulation, tmp_path_factory):
    """``run(case, options, keys)``: calibrate, and the tree of the file."""

    def go(case, options=None, **keys):
        folder = tmp_path_factory.mktemp("l2")
        config = elsewhere(simulation, folder, **({"JUMPOUT": True} | CASES[case] | keys))
        made = calibrate(config, **(options or {}))
        with asdf.open(made.out, memmap=False, lazy_load=False) as file:
            return made.out, file.tree

    return go


@pytest.fixture(scope="module", params=CASES)
def made(request, run):
    return request.param, *run(request.param)


def indices(tree):
    return np.asarray(tree["roman"]["jump_indices"])


@pytest.fixture(scope="module")
def from_the_mask_file(simulation):
    """Pixels that have JUMP_DET in the mask file."""
    with asdf.open(simulation.config.parent / "cal" / "mask.asdf") as file:
        return np.asarray(file["roman"]["dq"])[4:-4, 4:-4] & JUMP != 0


def test_the_list_is_that_of_the_flags(made, from_the_mask_file):
    _, _, tree = made
    found, dq = indices(tree), np.asarray(tree["roman"]["dq"])
    assert found.dtype == np.int16
    assert found.shape == (len(found), 3)
    assert len(found) > 50
    order = np.lexsort(found.T[::-1])
    assert np.array_equal(order, np.arange(len(found)))
    assert len(np.unique(found, axis=0)) == len(found)
    image = np.zeros((ACTIVE, ACTIVE), bool)
    image[found[:, 1], found[:, 2]] = True
    assert np.array_equal(image, (dq & JUMP != 0) & ~from_the_mask_file)


@pytest.mark.parametrize(
    "options",
    [
        {"tile": 64, "threads": 3},
        {"tile": "100x130", "scheduler": "synchronous"},
        {"per_step": True},
    ],
)
@pytest.mark.parametrize("case", ["fixed weights", "large events"])
def test_same_bits_for_every_tile_and_scheduler(run, case, options):
    _, one = run(case)
    _, other = run(case, options)
    assert np.array_equal(indices(one), indices(other))
    for name in ("data", "dq", "err"):
        assert np.asarray(one["roman"][name]).tobytes() == other["roman"][name].tobytes()
    assert np.array_equal(one["mask"], other["mask"])


def test_opens_as_an_image_model(made):
    _, path, tree = made
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        with rdm.open(path) as model:
            model.validate()
            assert np.array_equal(model.jump_indices, indices(tree))
            assert model.meta.cal_step.ramp_fit == "COMPLETE"


def test_a_frame_without_jumps(run, from_the_mask_file):
    _, tree = run("likelihood", REJECTION_THRESHOLD=1e6)
    assert indices(tree).shape == (0, 3)
    assert indices(tree).dtype == np.int16
    flagged = np.asarray(tree["roman"]["dq"]) & JUMP != 0
    assert np.array_equal(flagged, from_the_mask_file)


def test_the_list_is_there_only_if_it_is_wanted(run):
    path, tree = run("likelihood", JUMPOUT=False)
    assert "jump_indices" not in tree["roman"]
    with_list, _ = run("likelihood")
    assert path.stat().st_size <= with_list.stat().st_size


def test_the_recipe_that_ran_is_the_one_that_is_told(made):
    case, _, tree = made
    info = tree["processinfo"]
    names = {
        "fixed weights": "l1_to_l2",
        "compatible": "romanimpreprocess_1.0_likelihood",
    }
    name = names.get(case, "l1_to_l2_likelihood")
    assert info["log"].splitlines()[0] == f"recipe {name}"
    assert info["provenance"]["recipe"]["name"] == name
    steps = [next(iter(step)) for step in info["provenance"]["recipe"]["steps"]]
    assert ("ramp_fit_likelihood" in steps) == (case != "fixed weights")
    assert ("large_events: not applied" in info["log"]) == (case == "likelihood")


def test_there_are_no_fixed_weights_in_the_likelihood_fit(made):
    case, _, tree = made
    info = tree["processinfo"]
    found = [info["weights"], info["ramp_opt_pars"], info["meta"]["K"]]
    if case == "fixed weights":
        assert all(value is not None for value in found)
    else:
        assert found == [None, None, None]


def test_large_events_grow(run):
    # With a backup the core saturates before the pixels around it jump.
    trees = {c: run(c, SATURATION_BACKUP=0)[1] for c in ("likelihood", "large events")}
    before, after = (np.asarray(tree["roman"]["dq"]) for tree in trees.values())
    rates = [np.asarray(tree["roman"]["data_withsky"]) for tree in trees.values()]
    assert np.array_equal(*rates, equal_nan=True)
    grown = (after & ~before & (JUMP | SAT)) != 0
    assert np.count_nonzero(grown) > 200
    assert (after[grown] & DNU).all()
    assert np.asarray(trees["large events"]["mask"])[grown].all()
    y, x = np.mgrid[:ACTIVE, :ACTIVE]
    ring = (y - 146) ** 2 + (x - 186) ** 2
    assert (after[ring <= 18**2] & (JUMP | SAT) != 0).all()  # the radius 11, by 1.9


def test_the_fingerprint_is_that_of_the_recipe_that_runs(run):
    """By key or by name: the same steps make the same file."""
    prints = {
        run(case, **keys)[1]["processinfo"]["provenance"]["fingerprint"]
        for case, keys in (
            ("likelihood", {}),
            ("fixed weights", {"GRAPH": "l1_to_l2_likelihood"}),
            ("fixed weights", {"GRAPH": "l1_to_l2_likelihood", "romancal_ramp_fit": True}),
        )
    }
    assert len(prints) == 1
    other = run("large events")[1]["processinfo"]["provenance"]["fingerprint"]
    assert {other}.isdisjoint(prints)


def test_no_list_without_a_step_that_finds_jumps(simulation, tmp_path, monkeypatch):
    job = prepare(elsewhere(simulation, tmp_path))
    for bound in job.steps:
        monkeypatch.setitem(bound.step.__dict__, "sets", {})
    with pytest.raises(InputError) as caught:
        prepare(elsewhere(simulation, tmp_path, JUMPOUT=True))
    assert caught.value.problems == ["JUMPOUT: no step of the recipe sets JUMP_DET on resultants"]
