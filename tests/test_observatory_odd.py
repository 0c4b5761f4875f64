"""Odd values in the observatory's reference files: a flag, a warning or one clear line."""

from __future__ import annotations

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
    """``run(key, edit)``: status, what is said, and the Level 2 arrays with an edited file."""

    def calibrated(key=None, edit=None, recipe="observatory", drop=()):
        base = simulation.config.parent
        config = yaml.safe_load(simulation.config.read_text())
        config |= {"IN": str(base / config["IN"]), "OUT": str(tmp_path / "out" / "l2.asdf")}
        config |= {"GRAPH": recipe, "FITSOUT": False}
        caldir = {k: str(base / v) for k, v in config["CALDIR"].items() if k not in drop}
        (tmp_path / "out").mkdir()
        if key is not None:
            with asdf.open(caldir[key], lazy_load=False, memmap=False) as file:
                tree = dict(file.tree)
            edit(tree["roman"])
            caldir[key] = str(tmp_path / f"{key}.asdf")
            with monkeypatch.context() as patch:  # what no schema allows can be in a file
                patch.setattr(asdf.schema, "validate", lambda *args, **kwargs: None)
                patch.setattr(asdf.AsdfFile, "_validate", lambda *args, **kwargs: None)
                asdf.AsdfFile(tree).write_to(caldir[key])
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
