"""Keys that choose the ramp fit, and keys that only one of the fits obeys."""

from __future__ import annotations

import pytest
import yaml

from roman_dask_l2.config.model import load_config
from roman_dask_l2.config.recipe import load_recipe, shipped
from roman_dask_l2.errors import InputError

REQUIRED = ("dark", "gain", "linearitylegendre", "read", "saturation", "flat")
BASIC = {"IN": "a.asdf", "OUT": "b.asdf", "CALDIR": {key: f"/cal/{key}.asdf" for key in REQUIRED}}


def load(name="l1_to_l2", **keys):
    config = load_config(BASIC | keys)
    return load_recipe(name, config)


def options(recipe, step):
    return next(bound.params for bound in recipe.steps if bound.name == step)


@pytest.fixture
def own(tmp_path):
    """``own(file, start, **keys)``: a file with a shipped recipe, some of its keys changed."""

    def write(file, start="l1_to_l2", **keys):
        document = yaml.safe_load(shipped()[start].read_text()) | keys
        path = tmp_path / f"{file}.yaml"
        path.write_text(yaml.safe_dump({k: v for k, v in document.items() if v is not None}))
        return path

    return write


@pytest.mark.parametrize("name", ["l1_to_l2", "romanimpreprocess_1.0"])
def test_each_recipe_names_what_takes_its_place(name):
    for keys in ({}, {"romancal_ramp_fit": False}):
        assert load(name, **keys).name == name
    assert load(name, romancal_ramp_fit=True).name == f"{name}_likelihood"
    assert load(f"{name}_likelihood", romancal_ramp_fit=True).name == f"{name}_likelihood"
    assert load(f"{name}_likelihood").name == f"{name}_likelihood"
    assert load(name, romancal_ramp_fit=None).name == name  # a key with nothing after it


def test_false_contradicts_a_recipe_that_fits_by_likelihood():
    with pytest.raises(InputError) as caught:
        load("l1_to_l2_likelihood", romancal_ramp_fit=False)
    assert caught.value.problems == [
        "romancal_ramp_fit is false, but recipe l1_to_l2_likelihood fits by likelihood; choose "
        "another one with GRAPH, or leave the key out"
    ]


def test_a_recipe_that_has_no_likelihood_fit(own):
    with pytest.raises(InputError) as caught:
        load(own("mine", name="mine", likelihood=None), romancal_ramp_fit=True)
    assert caught.value.problems == [
        "romancal_ramp_fit: recipe mine has no likelihood fit, and no key 'likelihood' that names "
        "a recipe with one"
    ]


def test_likelihood_is_looked_for_beside_the_recipe(own, monkeypatch):
    own("other", "l1_to_l2_likelihood", name="the other")
    mine = own("mine", likelihood="other.yaml")
    monkeypatch.chdir("/")
    found = load(mine, romancal_ramp_fit=True)
    assert found.name == "the other"
    assert found.path == mine.with_name("other.yaml")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("l1_to_l2_likelyhood", "likelihood: no recipe or file 'l1_to_l2_likelyhood'"),
        ("romanimpreprocess_1.0", "recipe romanimpreprocess_1.0 has no step ramp_fit_likelihood"),
        (["a"], "likelihood is ['a'], expected the name of a recipe or a file"),
    ],
)
def test_likelihood_that_leads_nowhere(own, value, message):
    path = own("mine", likelihood=value)
    with pytest.raises(InputError) as caught:
        load(path, romancal_ramp_fit=True)
    (line,) = caught.value.problems
    assert str(path) in line
    assert message in line


def test_keys_reach_the_steps():
    large = {"expand_large_events": True, "min_jump_area": 9, "sat_expand": 1, "edge_size": 25}
    found = load(romancal_ramp_fit=True, REJECTION_THRESHOLD=6, JUMP_KW=large)
    assert options(found, "ramp_fit_likelihood").rejection_threshold == 6
    assert options(found, "event_flags").expand_large_events is True
    set_ = options(found, "large_events").model_dump(exclude_defaults=True)
    assert set_ == large
    assert found.notes == ()


GIVEN = {"slope": 1.0, "sigma_read": 7.0}


@pytest.mark.parametrize(
    ("keys", "notes"),
    [
        ({}, []),
        ({"RAMP_OPT_PARS": GIVEN, "JUMP_DETECT_PARS": {"SthreshA": 6}}, []),
        (
            {"REJECTION_THRESHOLD": 4.5},
            ["REJECTION_THRESHOLD: no effect, recipe l1_to_l2 has no such option"],
        ),
        (
            {"JUMP_KW": {"expand_large_events": True}},
            ["JUMP_KW: no effect, recipe l1_to_l2 has no such option"],
        ),
        ({"JUMP_KW": {}}, []),
        (
            {"romancal_ramp_fit": True, "RAMP_OPT_PARS": GIVEN},
            ["RAMP_OPT_PARS.slope: no effect, recipe l1_to_l2_likelihood has no such option"],
        ),
        (
            {"romancal_ramp_fit": True, "JUMP_DETECT_PARS": {"SthreshA": 6, "IthreshA": 2}},
            ["JUMP_DETECT_PARS: no effect, recipe l1_to_l2_likelihood has no such option"],
        ),
        (
            {"romancal_ramp_fit": True, "JUMP_KW": {"min_jump_area": 7, "maximum_cores": "half"}},
            [
                "JUMP_KW: no effect without JUMP_KW.expand_large_events",
                "JUMP_KW.maximum_cores: no effect, the number of threads is that of --threads",
            ],
        ),
        ({"romancal_ramp_fit": True, "JUMP_KW": {"expand_large_events": False}}, []),
    ],
)
def test_nothing_goes_unheard(keys, notes):
    assert list(load(**keys).notes) == notes


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"REJECTION_THRESHOLD": 0}, "REJECTION_THRESHOLD is 0, expected a number larger than 0"),
        ({"REJECTION_THRESHOLD": True}, "REJECTION_THRESHOLD is True, expected a number"),
        ({"romancal_ramp_fit": 3}, "romancal_ramp_fit is 3, expected true or false"),
        ({"JUMP_KW": 3}, "JUMP_KW is 3, expected a mapping of keys to values"),
        (
            {"JUMP_KW": {"sat_expand": 1.5}},
            "JUMP_KW.sat_expand is 1.5, expected a whole number",
        ),
        (
            {"JUMP_KW": {"min_sat_radius_extend": -1}},
            "JUMP_KW.min_sat_radius_extend is -1, expected a number from 0 up",
        ),
        (
            {"JUMP_KW": {"expand_factr": 2}},
            "unknown key JUMP_KW.expand_factr, did you mean 'JUMP_KW.expand_factor'?",
        ),
    ],
)
def test_wrong_values(keys, message):
    with pytest.raises(InputError) as caught:
        load(**keys)
    (line,) = caught.value.problems
    assert line.endswith(message)
