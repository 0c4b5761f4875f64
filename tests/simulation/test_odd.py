"""The gallery of odd files: each becomes what it shall become, and the judge can say no."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import asdf
import numpy as np
import pytest
import yaml

from roman_dask_l2.cli import app, demo_odd
from roman_dask_l2.cli.demo_odd import run_odd
from roman_dask_l2.errors import InputError
from roman_dask_l2.report.odd_expected import Became, Image, unexpected, wrong_image
from roman_dask_l2.simulation import odd
from roman_dask_l2.simulation.odd import ODD, SIMULATED
from roman_dask_l2.simulation.odd_edits import FORMATS, PIXEL_AT, store

QUICK = ["truncated_l1", "gain_zero_cells", "linearity_zero", "resultant_do_not_use",
         "reference_dq", "sky_order", "other_reftype", "l1_tag_unknown", "symlink_out"]  # fmt: skip


@pytest.fixture(scope="module")
def ordinary(tmp_path_factory):
    return odd.simulate_odd(
        tmp_path_factory.mktemp("odd") / "ordinary", **SIMULATED, conditions="plain"
    )


def report_of(tmp_path, names):
    report = run_odd(tmp_path, names)
    assert [o.name for o in report.outcomes] == list(names)
    return report


def test_some(tmp_path):
    report = report_of(tmp_path, QUICK)
    assert report.ok, "\n".join(report.lines())


@pytest.mark.faults
def test_all(tmp_path):
    report = report_of(tmp_path, ODD)
    assert report.ok, "\n".join(report.lines())


def test_the_command(tmp_path, monkeypatch, capsys):
    """``demo --odd`` shows the table; a case that is not as expected makes its status 1."""
    cases = {"truncated_l1": ODD["truncated_l1"]}
    monkeypatch.setattr(demo_odd, "ODD", cases)
    assert app.main(["demo", "--odd", str(tmp_path), "--quiet"]) == 0
    assert "1 cases" in (said := capsys.readouterr().out)
    assert "truncated_l1" in said
    assert "all as expected" in said
    cases["truncated_l1"] = replace(cases["truncated_l1"], status=(0,))
    assert app.main(["demo", "--odd", str(tmp_path), "--quiet"]) == 1
    assert "status 2 instead of 0" in (said := capsys.readouterr().out)
    assert "NOT AS EXPECTED" in said


def test_names_of_conditions(tmp_path, capsys):
    """Names of odd files stand among the conditions, beside those of the detector."""
    command = ["simulate", str(tmp_path), "--side", "256", "--quiet", "--conditions"]
    assert app.main([*command, "dead,gain_negative,sky_order"]) == 0
    with asdf.open(tmp_path / "cal" / "gain.asdf") as file:
        assert file["roman"]["data"][PIXEL_AT] == -1
    with asdf.open(tmp_path / "truth.asdf") as file:
        assert len(file["truth"]["conditions"]["dead"]) == 8
    assert yaml.safe_load((tmp_path / "config.yaml").read_text())["SKYORDER"] == 10
    assert app.main([*command, "gain_negativ,sky_order"]) == 2
    assert "gain_negative" in capsys.readouterr().err
    with pytest.raises(InputError, match="different exposures"):
        odd.simulate_odd(tmp_path, side=256, conditions=["many_resultants", "partial_saturation"])


@pytest.mark.parametrize("how", [*FORMATS, "float64"])
def test_formats_keep_values(ordinary, tmp_path, how):
    made = odd.linked(ordinary, tmp_path / "case")
    store(made.caldir["gain"], how)
    with (
        asdf.open(ordinary.caldir["gain"], memmap=False, lazy_load=False) as before,
        asdf.open(made.caldir["gain"], memmap=False, lazy_load=False) as after,
    ):
        value = after["roman"]["data"]
        np.testing.assert_array_equal(getattr(value, "value", value), before["roman"]["data"])
        assert after["roman"]["meta"]["reftype"] == "GAIN"
    assert made.caldir["gain"].stat().st_nlink == 1
    assert ordinary.caldir["gain"].stat().st_size < 300_000
    assert {p.name for p in (tmp_path / "case" / "cal").iterdir()} >= {"gain.asdf"}
    assert not list((tmp_path / "case" / "cal").glob("*.before"))


def test_every_case_changes_something(ordinary, tmp_path):
    """And none changes the files that it has in common with the others."""
    whole = {p: p.read_bytes() for p in ordinary.directory.rglob("*") if p.is_file()}
    for name, case in ODD.items():
        if case.options or name == "nan_noise":
            continue
        made = odd.linked(ordinary, tmp_path / name)
        odd.apply(name, made)
        files = [p for p in made.directory.rglob("*") if p.is_file()]
        names = {p.relative_to(made.directory) for p in files}
        assert names >= {p.relative_to(ordinary.directory) for p in whole}
        assert any(p.stat().st_nlink == 1 for p in files), name
    assert all(p.read_bytes() == data for p, data in whole.items())


def test_the_judge_says_no(ordinary):
    """Each thing that is looked at, wrong once."""
    ordinary_case = replace(ODD["gain_zero"], words=("gain.asdf",), warning=("once",))
    folder = ordinary.directory
    l2 = folder / "l2.asdf"

    def wrong(*became, new=()):
        return unexpected(ordinary_case, Became(*became), set(new))

    assert wrong(0, [], ["once"], new=[l2]) == []
    assert "status 1 instead of 0" in wrong(1, ["TypeError: x"])[0]
    assert "in 2 warnings" in wrong(0, [], ["once", "once"])[0]
    assert "left behind: .l2.part" in wrong(0, [], ["once"], new=[folder / ".l2.part"])[0]
    refused = wrong(2, ["flat.asdf: bad"], [], new=[l2])
    assert any("there are l2.asdf" in line for line in refused)
    assert any("'gain.asdf' is not in the message" in line for line in refused)

    zeros = np.zeros((248, 248), np.float32)
    others = {name: zeros for name in ("var_poisson", "chisq", "dumo")}
    dq = zeros.astype(np.uint32)
    usual = Image(zeros + 0.4, zeros, zeros + 0.1, dq, None, "", np.zeros(2), others)

    def seen(name, **changes):
        return "\n".join(wrong_image(name, ordinary, replace(usual, **changes), usual))

    spoilt = usual.rate.copy()
    spoilt[0, 0] = np.nan
    assert seen("symlink_out") != seen("symlink_out", rate=spoilt)
    assert "1 pixels are not finite" in seen("gain_negative", rate=spoilt)
    assert "data_withsky of 1 pixels" in seen("gain_negative", rate=spoilt)
    assert "not finite" not in seen("gain_negative", rate=spoilt, dq=dq | 1)
    assert "not NO_GAIN_VALUE" in seen("gain_negative")
    assert "sky is not subtracted" in seen("gain_negative", data=usual.rate)
    assert "rate 0.900" in seen("resultant_do_not_use", rate=zeros + 0.9)
    assert "median rate off by 0.5" in seen("float64", rate=zeros + 0.9)
    assert odd.HALO < 10


def test_too_long(ordinary, tmp_path):
    """Time is up, in this process and in another one."""
    made = odd.linked(ordinary, tmp_path / "case")
    for calibrated in (demo_odd.calibrate_here, demo_odd.calibrate_apart):
        became = calibrated(made, False, 0.05)
        assert became.status == -1
        assert "not finished after 0.05 s" in became.lines[0]
    assert not list(made.directory.glob(".*"))


def test_the_manual_lists_them():
    page = (Path(__file__).parents[2] / "docs" / "odd.md").read_text()
    rows = [line for line in page.splitlines() if line.startswith("| `")]
    named = [name for row in rows for name in re.findall(r"`(\w+)`", row.split("|")[1])]
    assert sorted(named) == sorted(ODD)


def test_unknown_case(tmp_path):
    with pytest.raises(InputError, match="unknown odd files"):
        run_odd(tmp_path, ["nothing"])
