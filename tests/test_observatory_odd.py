"""Odd values in the observatory's reference files: a flag, a warning or one clear line."""

from __future__ import annotations

import shutil

import asdf
import asdf.schema
import numpy as np
import pytest
import yaml

from roman_dask_l2.cli.app import main
from roman_dask_l2.core.dq import PIXEL

SIDE, BORDER = 256, 4
AT = (100, 100)


@pytest.fixture(scope="module")
def simulation(simulated):
    return simulated(side=SIDE, seed=5, references="observatory", conditions="plain")


@pytest.fixture
def run(simulation, tmp_path, monkeypatch, capsys):
    """``run(key, edit)``: status, what is said, and the Level 2 arrays with an edited file, of the
    reference files or (key "l1") the exposure."""

    def calibrated(key=None, edit=None, recipe="observatory", drop=()):
        base = simulation.config.parent
        config = yaml.safe_load(simulation.config.read_text())
        config |= {"IN": str(base / config["IN"]), "OUT": str(tmp_path / "out" / "l2.asdf")}
        config |= {"GRAPH": recipe, "FITSOUT": False}
        caldir = {k: str(base / v) for k, v in config["CALDIR"].items() if k not in drop}
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
        (tmp_path / "out").mkdir()
        if key is not None:
            files = config if key == "l1" else caldir
            name = "IN" if key == "l1" else key
            with asdf.open(files[name], lazy_load=False, memmap=False) as file:
                tree = dict(file.tree)
            edit(tree["roman"])
            files[name] = str(tmp_path / f"{key}.asdf")
            with monkeypatch.context() as patch:  # what no schema allows can be in a file
                patch.setattr(asdf.schema, "validate", lambda *args, **kwargs: None)
                patch.setattr(asdf.AsdfFile, "_validate", lambda *args, **kwargs: None)
                asdf.AsdfFile(tree).write_to(files[name])
        config["CALDIR"] = caldir
        path = tmp_path / "config.yaml"
        path.write_text(yaml.safe_dump(config))
        status = main([str(path), "--scheduler", "synchronous"])
        shown = capsys.readouterr()
        if status:
            assert not list((tmp_path / "out").iterdir())
            return status, shown.out + shown.err, None
        with asdf.open(tmp_path / "out" / "l2.asdf", lazy_load=False, memmap=False) as file:
            return status, shown.out + shown.err, dict(file["roman"])

    return calibrated


def _pixel(value):
    def edit(tree):
        tree["data"] = np.array(tree["data"])
        tree["data"][AT] = value

    return edit


@pytest.mark.parametrize(("key", "value", "flag"), [
    ("gain", 1e-40, "NO_GAIN_VALUE"),
    ("gain", 1e30, "NO_GAIN_VALUE"),
    ("gain", 9e-5, "NO_GAIN_VALUE"),
    ("gain", 1.1e4, "NO_GAIN_VALUE"),
    ("readnoise", 1e-40, "UNRELIABLE_ERROR"),
    ("readnoise", 0.005, "UNRELIABLE_ERROR"),
])  # fmt: skip
def test_no_amplifier_is_like_that(key, value, flag, run):
    """A gain or read noise far from any detector's is flagged, and the rate is still a rate."""
    status, _, image = run(key, _pixel(value))
    assert status == 0
    y, x = (v - BORDER for v in AT)
    assert image["dq"][y, x] & PIXEL[flag]
    assert not (image["dq"] & PIXEL[flag]).astype(bool).sum() > 1
    assert image["err"][y, x] > 0.02
    assert image["data"][y, x] == pytest.approx(0.4, abs=5 * float(image["err"][y, x]))


@pytest.mark.parametrize(("entry", "words"), [
    ({"photmjsr": "bright"}, "phot_table.F158.photmjsr is 'bright'"),
    ({"photmjsr": float("nan")}, "phot_table.F158.photmjsr is nan"),
    ({"photmjsr": -1.0}, "phot_table.F158.photmjsr is -1.0, expected a number > 0"),
    ({"uncertainty": float("inf")}, "phot_table.F158.uncertainty is inf"),
    ({"pixelareasr": 0}, "phot_table.F158.pixelareasr is 0, expected a number > 0"),
    ({"pixelareasr": True}, "phot_table.F158.pixelareasr is True"),
])  # fmt: skip
def test_conversion_that_is_no_number(entry, words, run):
    status, said, _ = run("photom", lambda tree: tree["phot_table"]["F158"].update(entry))
    assert status == 2
    assert "CALDIR.photom: " in said
    assert "photom.asdf" in said
    assert words in said


@pytest.mark.parametrize("table", ["N/A", [1, 2], {"F158": "N/A"}, {"F158": 0.5}])
def test_table_that_is_none(table, run):
    status, said, _ = run("photom", lambda tree: tree.__setitem__("phot_table", table))
    assert status == 2
    assert "photom.asdf: phot_table" in said
    assert "expected a mapping" in said


@pytest.mark.parametrize("entry", [{"photmjsr": None}, {"photmjsr": -999999}])
def test_conversion_that_is_unknown(entry, run):
    """Null and the observatory's word for it are one thing; other numbers stay."""
    status, _, image = run("photom", lambda tree: tree["phot_table"]["F158"].update(entry))
    assert status == 0
    photometry = image["meta"]["photometry"]
    assert photometry["conversion_megajanskys"] in (None, -999999)
    assert photometry["pixel_area"] > 0


@pytest.mark.parametrize("recipe", ["observatory", "romancal_1.1"])
def test_decay_that_is_not_corrected(recipe, run):
    """No dark ramp takes the decay out: its absence is said."""
    status, said, _ = run(recipe=recipe, drop=("darkdecaysignal",))
    assert status == 0
    assert "no CALDIR.darkdecaysignal, the decay stays in the rate" in said


def test_no_word_of_the_decay_where_all_is_there(run):
    status, said, _ = run()
    assert status == 0
    assert "the decay stays" not in said


@pytest.mark.parametrize("value", [0.0, -5.0, np.inf])
def test_threshold_that_is_none(value, run):
    """It neither saturates every pixel nor lets one saturate unseen."""

    def edit(tree):
        tree["data"] = np.array(tree["data"])
        tree["data"][AT[0], AT[1] : AT[1] + 20] = value

    status, _, image = run("saturation", edit)
    assert status == 0
    y, x = (v - BORDER for v in AT)
    row = np.s_[y, x : x + 20]
    assert (image["dq"][row] & PIXEL["NO_SAT_CHECK"]).all()
    assert np.isfinite(image["data"][row]).all()


@pytest.mark.parametrize("value", [1e30, 1e300])
def test_correction_that_would_drown_a_channel(value, run):
    large = np.full((SIDE // 128, SIDE * 140 // 2 + 1), value, np.complex128)
    status, said, _ = run("refpix", lambda tree: tree.update(zeta=large))
    assert status == 2
    assert "CALDIR.refpix: zeta has values that are not finite, or too large" in said


@pytest.mark.parametrize("recipe", ["observatory", "romancal_1.1"])
def test_reference_output_that_is_not_known(recipe, run):
    """A NaN in what was subtracted on board counts as 0, as it does for the pixels."""
    unknown = np.zeros((SIDE, 128), np.float32)
    _, _, usual = run(recipe=recipe)
    unknown[7, 9] = np.nan
    status, _, image = run("l1", lambda tree: tree.update(reference_amp33=unknown), recipe)
    assert status == 0
    np.testing.assert_array_equal(image["data"], usual["data"])


def test_nothing_can_be_used(run):
    """An image of flags alone is one, but says so."""
    unusable = np.ones((SIDE, SIDE), np.uint32)
    status, said, image = run("mask", lambda tree: tree.update(dq=unusable))
    assert status == 0
    assert (image["dq"] & PIXEL["DO_NOT_USE"]).all()
    assert "no pixel of the image can be used" in said


@pytest.mark.parametrize("recipe", ["observatory", "romancal_1.1"])
def test_spectra_are_not_divided_by_the_flat(recipe, run):
    """Nor is a flat needed for them."""

    def edit(tree):
        tree["meta"]["exposure"]["type"] = "WFI_SPECTRAL"

    _, _, usual = run(recipe=recipe)
    status, said, image = run("l1", edit, recipe, drop=("flat",))
    assert status == 0
    assert "type is WFI_SPECTRAL, which is no image: it is not divided by the flat" in said
    assert image["meta"]["cal_step"]["flat_field"] == "SKIPPED"
    good = (image["dq"] | usual["dq"]) == 0
    ratio = image["data"][good] / usual["data"][good]
    assert 0.5 < np.median(ratio) < 1.5
    assert np.std(ratio) > 1e-3


@pytest.mark.parametrize(("amplitude", "constant"), [(1e30, 5.0), (1.0, 1e-9), (-7e4, 20.0)])
def test_decay_beyond_the_converter(amplitude, constant, run):
    entry = {"amplitude": amplitude, "time_constant": constant}
    status, said, _ = run("darkdecaysignal", lambda tree: tree["decay_table"].update(WFI01=entry))
    assert status == 2
    assert "darkdecaysignal.asdf: decay_table has amplitude" in said
    assert "expected at most 65535 DN in the first frame" in said


@pytest.mark.parametrize("value", [1e-42, 1e-6, -1.0])
def test_flat_of_a_pixel_that_sees_nothing(value, run):
    """What is left is the rate, with a flag."""
    y, x = (v - BORDER for v in AT)

    def edit(tree):
        tree["data"] = np.array(tree["data"])
        tree["data"][y, x] = value

    status, _, image = run("flat", edit)
    assert status == 0
    assert image["dq"][y, x] & PIXEL["NO_FLAT_FIELD"]
    assert image["data"][y, x] == pytest.approx(0.4, abs=5 * float(image["err"][y, x]))


def _flag(where):
    def edit(tree):
        tree["dq"] = np.array(tree["dq"])
        tree["dq"][where] |= np.uint32(PIXEL["BAD_REF_PIXEL"])

    return edit


def test_an_active_pixel_is_no_reference_pixel(run):
    """A flag that only reference pixels can have does not take an active pixel's signal."""
    _, _, usual = run()
    status, _, image = run("mask", _flag(np.s_[100:110, 50:60]))
    assert status == 0
    np.testing.assert_array_equal(image["data"], usual["data"])
    np.testing.assert_array_equal(image["err"], usual["err"])
    _, _, lost = run("mask", _flag(np.s_[100:110, 50:60]), "romancal_1.1")
    assert np.nanmax(np.abs(lost["data"][96:106, 46:56])) < 0.3


def test_no_reference_pixel_is_left(run):
    border = np.ones((SIDE, SIDE), bool)
    border[BORDER:-BORDER, BORDER:-BORDER] = False
    border[2, 200] = False  # one in the second channel
    status, said, _ = run("mask", _flag(border))
    assert status == 0
    assert "no usable reference pixel in the rows of channel 1 and on the left side and on" in said
    status, said, _ = run("mask", _flag(np.s_[:BORDER]))
    assert "no usable reference pixel" not in said
