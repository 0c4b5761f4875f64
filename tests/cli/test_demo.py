"""The demonstration, on a small detector."""

from __future__ import annotations

import sys
from dataclasses import replace
from types import SimpleNamespace

import asdf
import numpy as np
import pytest
import yaml

from roman_dask_l2.cli import demo as demo_module
from roman_dask_l2.cli.demo import run_demo
from roman_dask_l2.core.dq import PIXEL
from roman_dask_l2.core.exposure import Exposure
from roman_dask_l2.errors import InputError
from roman_dask_l2.products.level2 import calibrate
from roman_dask_l2.report.truth import compare, convention, jump_significance, true_rate
from roman_dask_l2.simulation.observatory_files import MODELS
from roman_dask_l2.simulation.simulate import simulate
from roman_dask_l2.simulation.wcs import relative_area
from roman_dask_l2.steps.ramp_params import RampFitParams
from roman_dask_l2.steps.ramp_weights import fits


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return tmp_path_factory.mktemp("work") / "demo"


@pytest.fixture(scope="module")
def report(directory):
    return run_demo(directory, side=256)


def test_passes(report, directory):
    assert [check.name for check in report.checks if not check.ok] == []
    assert report.ok
    for name in ("l1", "l2", "truth"):
        assert (directory / f"{name}.asdf").is_file()
    assert all(path.is_file() for path in report.files.values())
    assert {"configuration", "L2 image", "FITS copy", "quick look", "report"} <= set(report.files)


def test_summary(report):
    text = "\n".join(report.lines())
    assert all(str(path) in text for path in report.files.values())
    assert all(check.name in text and check.measured in text for check in report.checks)
    assert report.lines()[-1] == "all checks passed"


def test_same_simulation_is_used_again(report, directory, monkeypatch):
    def refuse(*args, **options):
        raise AssertionError("simulated again")

    with monkeypatch.context() as patch:
        patch.setattr(demo_module, "simulate", refuse)
        patch.setitem(sys.modules, "matplotlib.figure", None)  # no picture, and no failure
        again = run_demo(directory, side=256, scheduler="synchronous")
        assert again.ok
        assert "quick look" not in again.files
        assert any("roman-dask-l2[plots]" in line for line in again.lines())
        with pytest.raises(AssertionError, match="simulated again"):
            run_demo(directory, side=256, seed=2)
    before = report.files["exposure"].stat().st_mtime_ns
    report.files["truth"].unlink()
    assert run_demo(directory, side=256).ok
    assert report.files["exposure"].stat().st_mtime_ns > before


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("chi-square", lambda image: image["data_withsky"].__imul__(1.2)),
        ("median", lambda image: image["data_withsky"].__iadd__(0.03)),
        ("cosmic", lambda image: image["dq"].__iand__(~np.uint32(PIXEL["JUMP_DET"]))),
        ("saturated", lambda image: image["dq"].__iand__(~np.uint32(PIXEL["SATURATED"]))),
        ("flagged far", lambda image: image["dq"].__ior__(np.uint32(PIXEL["SATURATED"]))),
        ("defects", lambda image: image["dq"].__iand__(~np.uint32(PIXEL["DROPOUT"]))),
        ("defects", lambda image: image["dq"].__iand__(~np.uint32(PIXEL["GW_AFFECTED_DATA"]))),
    ],
)
def test_comparison_notices(report, tmp_path, name, change):
    with asdf.open(report.files["L2 image"], memmap=False, lazy_load=False) as file:
        change(file["roman"])
        file.write_to(tmp_path / "l2.asdf")
    checks = compare(report.files["configuration"], tmp_path / "l2.asdf", report.files["truth"])
    assert any(name in check.name for check in checks if not check.ok)


def test_comparison_notices_a_file_that_is_no_image(report, tmp_path):
    with asdf.open(report.files["L2 image"], memmap=False, lazy_load=False) as file:
        plain = {name: np.asarray(file["roman"][name]) for name in ("data_withsky", "err", "dq")}
        asdf.AsdfFile({"roman": plain, "mask": file["mask"]}).write_to(tmp_path / "l2.asdf")
    checks = compare(report.files["configuration"], tmp_path / "l2.asdf", report.files["truth"])
    assert [check.name for check in checks if not check.ok] == ["file is valid"]


def test_failed_check_shows(report):
    bad = replace(report, checks=[*report.checks, replace(report.checks[0], ok=False)])
    assert not bad.ok
    assert "1 of" in bad.lines()[-1]
    assert "FAILED" in bad.lines()[-1]


def test_side_that_cannot_be(tmp_path):
    with pytest.raises(InputError, match="side 300"):
        run_demo(tmp_path / "demo", side=300)
    assert not (tmp_path / "demo").exists()


def test_directory_that_is_a_file(tmp_path):
    (tmp_path / "demo").write_text("")
    with pytest.raises(InputError, match="cannot write"):
        run_demo(tmp_path / "demo", side=256)


def test_significance_of_cosmic_rays():
    """One hit before a resultant, one amid its reads, one that no fit can see."""
    exposure = Exposure(side=256, read_pattern=((0,), (1,), (2,), (3, 4), (5,)), frame_time=3.0)
    fit = fits(exposure, RampFitParams())[-1]
    plane = np.ones((248, 248), np.float32)
    rays = {"y": [10, 11, 12], "x": [20, 21, 22], "frame": [3, 4, 1], "electrons": [400] * 3}
    y, x, significance, first = jump_significance(
        rays, 0 * plane, 2 * plane, 6 * plane, exposure, fit
    )
    np.testing.assert_array_equal(y, [6, 7, 8])
    np.testing.assert_array_equal(x, [16, 17, 18])

    step = np.array([0, 0, 0, 200, 200])
    slope = (fit.k * step).sum()
    pair = [tuple(p) for p in fit.pairs].index((2, 3))
    variance = fit.pair_a[pair] * slope / 2 + fit.pair_b[pair] * 36
    assert first[0] == 2
    assert significance[0] == pytest.approx((200 / 4.5 - slope) / np.sqrt(variance), rel=1e-4)
    assert 0 < significance[1] < significance[0]
    assert abs(significance[2]) < 1e-3


# --- recipes ------------------------------------------------------------------------------------


def test_recipe_of_the_survey(tmp_path):
    report = run_demo(tmp_path / "demo", side=256, recipe="romanimpreprocess_1.0")
    assert "recipe romanimpreprocess_1.0" in report.title
    with asdf.open(report.files["truth"]) as file:
        assert "references" not in file["truth"]["options"]
    assert any("solid angle" in line for line in report.lines())
    with asdf.open(report.files["L2 image"]) as file:
        assert "data_withsky" in file["roman"]


def test_recipe_of_the_observatory(tmp_path):
    """The exposure has the observatory's files, and comes out as it was put in."""
    report = run_demo(tmp_path / "demo", side=256, recipe="observatory")
    assert [check.name for check in report.checks if not check.ok] == []
    assert {path.stem for path in (tmp_path / "demo" / "cal").iterdir()} == set(MODELS)
    assert any("uniform light is uniform" in line for line in report.lines())
    assert not any("warning" in line or "ipc4d" in line for line in report.lines())


def test_recipe_of_romancal(tmp_path):
    """Conditions to which it gives no flags are named, and their rates are not compared."""
    report = run_demo(tmp_path / "demo", side=256, recipe="romancal_1.1")
    assert [check.name for check in report.checks if not check.ok] == []
    (defects,) = [check for check in report.checks if "defects" in check.name]
    assert "(not by this recipe: ad_floor, dropout, gain, flat)" in defects.name
    found, _, n = defects.measured.split()
    assert int(found) == int(n) > 50
    with (
        asdf.open(report.files["truth"]) as truth,
        asdf.open(report.files["L2 image"], memmap=False, lazy_load=False) as file,
    ):
        y, x = np.array(truth["truth"]["conditions"]["gain"]).T - 4
        assert not file["mask"][y, x].all()  # or there would be nothing to leave out
        assert file["processinfo"]["uniform_light"] == "uniform"


def test_mixed_recipe(tmp_path, caplog):
    """Its images are of the survey's kind, the truth is of the observatory's."""
    report = run_demo(tmp_path / "demo", side=256, recipe="mixed")
    assert [check.name for check in report.checks if not check.ok] == []
    assert "no CALDIR.ipc4d" not in caplog.text
    assert (tmp_path / "demo" / "cal" / "ipc4d.asdf").exists()
    (note,) = [line for line in report.lines() if line.startswith("truth:")]
    assert note.endswith("compared with the image times the solid angle of each pixel")
    with asdf.open(report.files["truth"]) as file:
        rates = [true_rate(file["truth"], light) for light in ("solid angle", "uniform", None)]
    np.testing.assert_allclose(rates[0] / rates[1], relative_area(256), rtol=1e-6)
    assert np.ptp(rates[0] / rates[1]) > 5e-4
    np.testing.assert_array_equal(rates[1], rates[2])
    # without the file that takes it out again, what the pixels of stars share is wrong
    whole, lost = report.files["L2 image"], tmp_path / "demo" / "lost.asdf"
    config = yaml.safe_load((tmp_path / "demo" / "config.yaml").read_text())
    del config["CALDIR"]["ipc4d"]
    (tmp_path / "demo" / "lost.yaml").write_text(yaml.safe_dump(config | {"OUT": lost.name}))
    calibrate(tmp_path / "demo" / "lost.yaml")
    left = []
    for path in (whole, lost):
        with asdf.open(path, memmap=False, lazy_load=False) as file:
            rate = np.asarray(file["roman"]["data_withsky"])
            peaks = ~file["mask"] & (rates[0] > 20)  # DN/s; stars
            left.append(np.median(rate[peaks] / rates[0][peaks]))
    assert abs(left[0] - 1) < 0.005
    assert abs(left[1] - 1) > 0.03


def test_recipe_that_needs_both_kinds_of_files(tmp_path, monkeypatch):
    def both(name):
        def step(array):
            return SimpleNamespace(step=SimpleNamespace(references_for=lambda _: {"a": array}),
                                   params=None)  # fmt: skip

        return SimpleNamespace(steps=[step("linearity.coeffs"), step("linearitylegendre.data")])

    monkeypatch.setattr(demo_module, "load_recipe", both)
    with pytest.raises(
        InputError, match=r"recipe both: .*both kinds \(linearity, linearitylegendre\)"
    ):
        run_demo(tmp_path / "demo", side=256, recipe="both")
    assert not (tmp_path / "demo").exists()


def test_recipe_that_is_not_there(tmp_path):
    with pytest.raises(InputError, match="nonsense"):
        run_demo(tmp_path / "demo", side=256, recipe="nonsense")
    assert not (tmp_path / "demo").exists()


def test_truth_of_the_observatory(tmp_path):
    """Uniform light with these files is uniform, and the report knows."""
    for references, words in (("observatory", "is uniform"), ("survey", "solid angle")):
        made = simulate(
            tmp_path / references, side=256, references=references, conditions="plain", stars=0
        )
        assert words in convention(made.truth)
        with asdf.open(made.truth) as file:
            rate = np.asarray(file["truth"]["rate"])
        assert (np.ptp(rate) < 1e-6) == (references == "observatory")
