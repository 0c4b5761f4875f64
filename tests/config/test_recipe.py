"""Recipes: what loads, and in which words the rest is refused."""

from __future__ import annotations

import textwrap

import pytest
import yaml

from roman_dask_l2.config.model import load_config
from roman_dask_l2.config.recipe import RESULTS, load_recipe, shipped
from roman_dask_l2.errors import InputError
from roman_dask_l2.steps.registry import STEPS, find_step

REQUIRED = ("dark", "gain", "linearitylegendre", "read", "saturation", "flat")
CALDIR = {key: f"/cal/{key}.asdf" for key in REQUIRED}
FITTING = ["dq_init", "saturation", "refpix", "linearity", "dark", "ipc", "ramp_fit", "flat",
           "mask", "sky"]  # fmt: skip


@pytest.fixture
def recipe(tmp_path):
    """``recipe(steps, **other keys)``: load a recipe that is written as YAML."""

    def load(steps, config=None, **keys):
        path = tmp_path / "mine.yaml"
        path.write_text(yaml.safe_dump({"steps": steps, **keys}))
        return load_recipe(path, config)

    return load


def config(**keys):
    return load_config({"IN": "a.asdf", "OUT": "b.asdf", "CALDIR": CALDIR, **keys})


def by_name(recipe):
    return {bound.name: bound.params for bound in recipe.steps}


def test_shipped_recipes():
    recipes = ("l1_to_l2", "romanimpreprocess_1.0")
    with_likelihood = {*recipes, *(f"{name}_likelihood" for name in recipes)}
    assert set(shipped()) == with_likelihood | {"mixed", "observatory", "romancal_1.1"}
    default, compatible = (load_recipe(name) for name in ("l1_to_l2", "romanimpreprocess_1.0"))
    assert default.name == "l1_to_l2"
    assert [b.name for b in default.steps] == [
        "dq_init", "saturation", "refpix", "bias", "dark_decay", "wfi18_transient", "linearity",
        "dark", "ipc", "ramp_fit", "flat", "mask", "medsky", "sky",
    ]  # fmt: skip
    assert {b.name for b in compatible.steps} | {"dark"} == {b.name for b in default.steps} | {
        "dark_rate"
    }
    assert by_name(compatible)["ramp_fit"].truncated_min == 3
    assert by_name(default)["ramp_fit"].truncated_min == 2
    fit = by_name(compatible)["ramp_fit"]
    assert not fit.dark_noise
    assert not fit.ipc_noise
    # the default has no quirk switched on; it says what was done to the ramp before the fit
    changed = {b.name: b.params.model_dump(exclude_defaults=True) for b in default.steps}
    assert {name: options for name, options in changed.items() if options} == {
        "ramp_fit": {"dark_noise": True, "ipc_noise": True}
    }


@pytest.mark.parametrize("name", ["l1_to_l2", "romanimpreprocess_1.0"])
def test_the_likelihood_recipes_differ_in_the_fit_alone(name):
    """And in what follows from it: jumps are not masked, flags around large events."""
    usual, other = (load_recipe(f"{name}{end}") for end in ("", "_likelihood"))
    assert usual.likelihood == other.name
    assert other.likelihood == ""
    steps, others = by_name(usual), by_name(other)
    fit, likelihood = steps.pop("ramp_fit"), others.pop("ramp_fit_likelihood")
    for shared in ("dark_noise", "ipc_noise", "check_references", "reference_dq"):
        assert getattr(fit, shared) == getattr(likelihood, shared)
    assert others.pop("event_flags") == find_step("event_flags", "").params()
    ours = name == "l1_to_l2"
    assert others.pop("large_events").do_not_use is ours
    if ours:
        masked, kept = (dict(params.pop("mask").growth) for params in (steps, others))
        assert kept == {flag: n for flag, n in masked.items() if flag != "JUMP_DET"}
    else:  # with fixed weights there is no NaN that the flat could leave without a flag
        steps["flat"] = steps["flat"].model_copy(update={"flag_nan": False})
    assert others == steps


def test_every_known_step_is_there():
    assert {find_step(name, "").name for name in STEPS} == set(STEPS)


def test_own_recipe(recipe):
    found = recipe([*FITTING[:5], {"ipc": {"order": 3}}, *FITTING[6:]], name="mine", description="")
    assert found.name == "mine"
    assert by_name(found)["ipc"].order == 3
    assert recipe(FITTING).name == "mine"  # the file's name
    assert by_name(recipe([{name: None} for name in FITTING]))["ipc"].order == 2
    assert recipe(FITTING).outputs == ()
    assert recipe(FITTING, outputs=["var_rnoise", "mask"]).outputs == ("var_rnoise", "mask")


def test_the_users_configuration_comes_first(recipe):
    steps = [
        "dq_init", {"saturation": {"backup": 3}}, *FITTING[2:6],
        {"ramp_fit": {"slope": 9.0, "threshold_a": 9.0}}, "flat", {"mask": {"growth": {"HOT": 25}}},
        {"sky": {"order": 1}},
    ]  # fmt: skip
    # what the user did not say is the recipe's business
    found = by_name(recipe(steps, config()))
    assert found["saturation"].backup == 3
    assert found["ramp_fit"].slope == found["ramp_fit"].threshold_a == 9
    assert found["mask"].growth == (("HOT", 25),)
    assert found["sky"].order == 1
    said = config(
        SATURATION_BACKUP=0, SKYORDER=4, MASK={"HOT": 1, "DEAD": 5},
        RAMP_OPT_PARS={"slope": 0.4, "gain": 2.0}, JUMP_DETECT_PARS={"IthreshB": 600.0},
    )  # fmt: skip
    found = by_name(recipe(steps, said))
    assert found["saturation"].backup == 0
    fit = found["ramp_fit"]
    assert (fit.slope, fit.gain, fit.threshold_a, fit.rate_b) == (0.4, 2.0, 9, 600)
    assert dict(found["mask"].growth) == {"HOT": 1, "DEAD": 5}
    assert found["sky"].order == 4


def test_a_step_by_dotted_path(recipe, tmp_path, monkeypatch):
    (tmp_path / "mylab_steps.py").write_text(
        textwrap.dedent(
            """
            from roman_dask_l2.core.step import Params, Step

            class MyParams(Params):
                level: float = 1.0

            def mine(ramp, *, params):
                return ramp - params.level

            step = Step(name="mine", kernel=mine, reads=("ramp",), writes=("ramp",),
                        params=MyParams)
            number = 3
            """
        )
    )
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("mylab_steps:step", "mylab_steps.step"):
        found = recipe(["dq_init", "saturation", {name: {"level": 2.5}}, *FITTING[3:]])
        assert by_name(found)["mine"].level == 2.5
    with pytest.raises(InputError, match="'mylab_steps:number' is int, not a Step"):
        recipe(["mylab_steps:number"])
    with pytest.raises(InputError, match="'mylab_steps:nothing' cannot be imported"):
        recipe(["mylab_steps:nothing"])
    with pytest.raises(InputError, match="'nolab_steps:step' cannot be imported"):
        recipe(["nolab_steps:step"])


def test_own_step_runs(tmp_path, monkeypatch, simulated, pipeline):
    """In the graph like any other: two DN taken from every resultant change nothing, a slope of 1
    DN/s taken from the rate does."""
    import dask
    import numpy as np

    from roman_dask_l2.core.detector import Grid
    from roman_dask_l2.engine.graph import build

    (tmp_path / "mylab_rate.py").write_text(
        "from roman_dask_l2.core.step import Step\n"
        "def dimmed(rate):\n    return rate - 1\n"
        "step = Step(name='dimmed', kernel=dimmed, reads=('rate',), writes=('rate',))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    path = tmp_path / "dimmed.yaml"
    path.write_text(yaml.safe_dump({"steps": [*FITTING, "mylab_rate:step"]}))
    results = []
    for name in (path, "l1_to_l2"):
        steps, inputs = pipeline(simulated(biascorr=False, amp33=False), name)
        rate = build(steps, inputs, Grid(256, (100, 256)), ["rate"]).arrays["rate"]
        with dask.config.set(scheduler="synchronous"):
            results.append(rate.compute())
    np.testing.assert_array_equal(results[0], results[1] - 1)


BAD = {
    "unknown step": (["dq_init", "ramp_fi"], "unknown step 'ramp_fi', did you mean 'ramp_fit'"),
    "nothing like it": (["qqq"], "unknown step 'qqq'$"),
    "unknown option": ([{"saturation": {"bckup": 1}}], "saturation has no option 'bckup', did you "
                       "mean 'backup'"),
    "wrong type": ([{"saturation": {"backup": "often"}}], "saturation, option backup: .*integer"),
    "wrong type of a table": ([{"mask": {"growth": {"HOT": 3}}}], "mask, option growth.*growth 3"),
    "options that are a list": ([{"saturation": [1]}], "options of saturation must be a mapping"),
    "two names in one entry": ([{"saturation": {}, "refpix": {}}], "is not a step name"),
    "a number": ([3], "3 is not a step name"),
    "a step twice": ([*FITTING[:3], "refpix", *FITTING[3:]], "step refpix stands there twice"),
    "needs what nobody made": (["saturation"], "step saturation needs '.*', which no earlier step"),
    "order": (["dq_init", "flat", "ramp_fit"], "step flat needs '.*', which no earlier step makes"),
    "reduction": ([*FITTING[:8], "medsky", "mask", "sky"], "step medsky needs 'mask'"),
    "no flags": (FITTING[:-2], "no step makes 'mask', which the L2 file needs"),
    "no mask": ([*FITTING[:8], "sky"], "no step makes 'mask'"),
    "empty": ([], "no list 'steps'"),
    "no list": ("dq_init", "no list 'steps'"),
}  # fmt: skip


@pytest.mark.parametrize(("steps", "message"), BAD.values(), ids=BAD)
def test_bad_recipes(steps, message, recipe, tmp_path):
    with pytest.raises(InputError, match=message) as caught:
        recipe(steps)
    assert str(tmp_path / "mine.yaml") in str(caught.value)
    assert len(caught.value.problems) == 1
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("outputs", [["ramp"], ["rat"], ["rate", "nothing"], "nothing", 3])
def test_bad_outputs(outputs, recipe):
    with pytest.raises(InputError, match="is no image that a step makes, expected a list of chisq"):
        recipe(FITTING, outputs=outputs)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"border": "corrected"}, "border is 'corrected', expected raw or romancal_1.1"),
        ({"border": ["raw"]}, "border is .*, expected raw or romancal_1.1"),
        ({"exclude_first": "no way"}, "exclude_first is 'no way', expected true or false"),
        ({"exclude_first": 0}, "exclude_first is 0, expected true or false"),
    ],
)
def test_bad_keys(keys, message, recipe):
    with pytest.raises(InputError, match=message):
        recipe(FITTING, **keys)


def test_first_resultant_and_border(recipe):
    plain = recipe(FITTING[:-1], config())
    assert (plain.exclude_first, plain.border) == (True, "raw")
    other = recipe(FITTING, config(), exclude_first=False, border="romancal_1.1")
    assert (other.exclude_first, other.border) == (False, "romancal_1.1")
    assert recipe(FITTING, config(EXCLUDE_FIRST=True), exclude_first=False).exclude_first


def test_keys_of_steps_that_are_not_there(recipe):
    said = recipe(FITTING[:-1], config(SKYORDER=2, wfi18_mask_rows=True, MASK={"HOT": 1})).notes
    assert [note.partition(":")[0] for note in said] == ["SKYORDER", "wfi18_mask_rows"]
    assert recipe(FITTING[:-1], config(SKYORDER=None)).notes == ()


def test_results_are_what_the_l2_file_needs():
    assert set(RESULTS) >= {"rate", "dq", "err", "var_poisson", "mask", "endslice"}


def test_unknown_recipe():
    with pytest.raises(InputError, match="no recipe or file 'l1_tol2'; .*did you mean 'l1_to_l2'"):
        load_recipe("l1_tol2")
    with pytest.raises(InputError, match="shipped recipes: l1_to_l2, l1_to_l2_likelihood, mixed, "):
        load_recipe("/no/such/file.yaml")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"steps: [dq_init", "cannot be read"),
        (b"\xff\xfe\x00", "cannot be read"),
        (b"- dq_init", "no list 'steps'"),
        (b"", "no list 'steps'"),
        (b"steps: [dq_init]\nstep: 3", "unknown key 'step'"),
    ],
)
def test_files_that_are_no_recipes(text, message, tmp_path):
    path = tmp_path / "bad.yaml"
    path.write_bytes(text)
    with pytest.raises(InputError, match=message) as caught:
        load_recipe(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_threshold_that_is_not_passed_on():
    """romancal 1.1 searches with 4.5 sigma whatever its option says."""
    given = config(REJECTION_THRESHOLD=6.0)
    for name, limit, told in (("observatory", 36.0, 0), ("romancal_1.1", 20.25, 1)):
        recipe = load_recipe(name, given)
        (fit,) = (b.params for b in recipe.steps if b.name == "ramp_fit_likelihood")
        assert fit.limits[0] == limit
        assert sum("REJECTION_THRESHOLD: no effect" in note for note in recipe.notes) == told
