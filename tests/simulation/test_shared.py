"""Exposures that share their reference files, and dithers of one field."""

from __future__ import annotations

import asdf
import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS

from roman_dask_l2.batch.campaign import load_campaign
from roman_dask_l2.cli.app import main
from roman_dask_l2.errors import InputError
from roman_dask_l2.simulation.campaign import simulate_exposures
from roman_dask_l2.simulation.simulate import simulate

SIDE = 256


def arrays(path, *keys):
    with asdf.open(path, memmap=False, lazy_load=False) as file:
        node = file.tree
        for key in keys:
            node = node[key]
        return {k: np.array(v) for k, v in node.items() if getattr(v, "ndim", 0)}


def world(folder):
    """A WCS for astropy of an exposure: the file counts from 0."""
    header = fits.Header.fromstring((folder / "wcs.txt").read_text())
    for key in ("CRPIX1", "CRPIX2"):
        header[key] += 1
    return WCS(header)


@pytest.fixture(scope="module")
def night(tmp_path_factory):
    """Three exposures; not to be changed."""
    folder = tmp_path_factory.mktemp("night")
    simulate_exposures(folder, 3, seed=5, side=SIDE, conditions="plain", cosmic_rays=0)
    return folder


def test_the_campaign_is_ready_to_run(night):
    campaign = load_campaign(night / "campaign.yaml")
    assert [entry.identity for entry in campaign.entries] == ["obs=1", "obs=2", "obs=3"]
    configs = [campaign.config(entry) for entry in campaign.entries]
    assert {config.CALDIR.dark for config in configs} == {night / "cal" / "dark.asdf"}
    assert [config.IN for config in configs] == [night / str(i) / "l1.asdf" for i in (1, 2, 3)]
    assert len({config.OUT for config in configs}) == 3


def test_stars_are_where_the_coordinates_say(night):
    """In every exposure, at the place that its WCS has for them, with the light they had."""
    rates = [arrays(night / str(i) / "truth.asdf", "truth")["rate"] for i in (1, 2, 3)]
    first, n = rates[0], SIDE - 8
    y, x = np.unravel_index(np.argsort(first, axis=None)[::-1], first.shape)
    inner = (np.minimum(y, x) > 40) & (np.maximum(y, x) < n - 40)
    y, x = y[inner][0], x[inner][0]
    box = np.s_[y - 3 : y + 4, x - 3 : x + 4]
    light = (first[box] - np.median(first)).sum()
    grid = np.mgrid[box]
    centre = [(g * (first[box] - np.median(first))).sum() / light for g in grid]
    sky = world(night / "1").all_pix2world(centre[1], centre[0], 0)
    for number, rate in zip((2, 3), rates[1:], strict=True):
        there = world(night / str(number)).all_world2pix(*sky, 0)
        assert np.hypot(there[0] - x, there[1] - y) > 1
        yy, xx = round(float(there[1])), round(float(there[0]))
        part = rate[yy - 3 : yy + 4, xx - 3 : xx + 4] - np.median(rate)
        grid = np.mgrid[yy - 3 : yy + 4, xx - 3 : xx + 4]
        found = [(g * part).sum() / part.sum() for g in grid]
        assert part.sum() == pytest.approx(light, rel=0.05)
        assert found == pytest.approx([float(there[1]), float(there[0])], abs=0.1)


def test_noise_differs(night):
    data = [arrays(night / str(i) / "l1.asdf", "roman")["data"].astype(int) for i in (1, 2)]
    assert (data[0] != data[1]).mean() > 0.9


def test_reference_files_are_used_again(night, tmp_path):
    """They are not written again, and a simulation with the detector's seed would have the same."""
    before = {p: p.stat().st_mtime_ns for p in (night / "cal").iterdir()}
    plain = {"side": SIDE, "conditions": "plain"}
    shared = simulate(tmp_path / "a", seed=7, detector_seed=5, cal=night / "cal", **plain)
    assert {p: p.stat().st_mtime_ns for p in (night / "cal").iterdir()} == before
    assert set(shared.caldir.values()) == set(before)
    assert not (tmp_path / "a" / "cal").exists()
    own = simulate(tmp_path / "b", seed=7, detector_seed=5, **plain)
    for key, path in own.caldir.items():
        other = arrays(shared.caldir[key], "roman")
        for name, array in arrays(path, "roman").items():
            np.testing.assert_array_equal(array, other[name], err_msg=f"{key} {name}")
    one, two = (arrays(made.l1, "roman")["data"] for made in (shared, own))
    np.testing.assert_array_equal(one, two)


def test_the_detectors_seed_changes_the_detector_alone(night, tmp_path):
    """The random numbers of the exposure stay, as far as they do not depend on the detector."""
    plain = {"side": SIDE, "conditions": "plain", "cosmic_rays": 9, "seed": 5}
    one = simulate(tmp_path / "a", detector_seed=5, **plain)
    two = simulate(tmp_path / "b", detector_seed=6, **plain)
    for key in ("gain", "flat", "dark", "read", "saturation", "ipc4d", "biascorr"):
        first, second = (arrays(made.caldir[key], "roman")["data"] for made in (one, two))
        assert (first != second).mean() > 0.5, key
    first, second = (arrays(made.truth, "truth")["rate"] for made in (one, two))
    np.testing.assert_array_equal(first, second)
    first, second = (arrays(made.truth, "truth", "cosmic_rays") for made in (one, two))
    assert all((first[name] == second[name]).all() for name in first)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"side": 384}, "side 256, expected 384"),
        ({"detector": "WFI02"}, "detector WFI01, expected WFI02"),
        ({"detector_seed": 6}, "detector_seed 5, expected 6"),
        ({"conditions": "hot"}, r"conditions \[\], expected \['hot'\]"),
        ({"optical_element": "F062"}, "optical_element F158, expected F062"),
    ],
)
def test_another_detector_is_refused(night, tmp_path, changes, said):
    how = {"side": SIDE, "conditions": "plain", "detector_seed": 5, "cal": night / "cal"}
    with pytest.raises(InputError, match=said):
        simulate(tmp_path / "new", **(how | changes))
    assert not (tmp_path / "new").exists()


def test_folders_that_were_not_simulated(tmp_path):
    asdf.AsdfFile({"roman": {"meta": {}}}).write_to(tmp_path / "read.asdf")
    with pytest.raises(InputError, match=r"read\.asdf: was not simulated"):
        simulate(tmp_path / "new", side=SIDE, cal=tmp_path)
    (tmp_path / "read.asdf").write_bytes(b"nothing")
    with pytest.raises(InputError, match=r"read\.asdf: cannot be read"):
        simulate(tmp_path / "new", side=SIDE, cal=tmp_path)


def test_command_line(night, tmp_path, capsys):
    """The options of the detector are taken from the reference files; --quiet is quiet."""
    one = ["simulate", str(tmp_path / "9"), "--cal", str(night / "cal"), "--seed", "9"]
    assert main([*one, "--quiet"]) == 0
    assert capsys.readouterr() == ("", "")
    assert arrays(tmp_path / "9" / "l1.asdf", "roman")["data"].shape[1:] == (SIDE, SIDE)
    assert main([*one, "--side", "512"]) == 2
    assert "was simulated with side 256, expected 512" in capsys.readouterr().err
    assert main([*one, "--conditions", "fortran"]) == 2
    assert "fortran: would spoil shared reference files" in capsys.readouterr().err
    assert main([*one, "--exposures", "0"]) == 2
    assert "exposures 0: expected at least 1" in capsys.readouterr().err
    assert main([*one, "--exposures", "1"]) == 0
    assert f"roman-dask-l2 batch {tmp_path / '9' / 'campaign.yaml'}\n" in capsys.readouterr().out


def test_dithers_have_a_limit(tmp_path):
    with pytest.raises(InputError, match=r"dither \(33, 0\): expected at most 32 pixels"):
        simulate(tmp_path, side=SIDE, dither=(33, 0))
