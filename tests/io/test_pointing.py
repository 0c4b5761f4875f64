"""World coordinates from the pointing and a distortion file, against rotations in plain NumPy."""

from __future__ import annotations

import logging
import warnings

import asdf
import numpy as np
import pytest
from astropy.modeling import models as m

from roman_dask_l2.core.detector import OMEGA_IDEAL
from roman_dask_l2.errors import InputError
from roman_dask_l2.io.footprint import sky_region
from roman_dask_l2.io.pointing import pointed_wcs

SIDE = 248
POINTING = {
    "v2_ref": 1312.95, "v3_ref": -1040.78, "roll_ref": 12.5, "dec_ref": -28.5, "ra_ref": 0.003
}  # fmt: skip


class L1:
    """The metadata of a Level-1 file."""

    path = "l1.asdf"

    def __init__(self, scale=1.00007, **wcsinfo):
        aberration = {"scale_factor": scale}
        self.meta = {"wcsinfo": POINTING | wcsinfo, "velocity_aberration": aberration}

    def value(self, *key):
        found = self.meta
        for name in key[2:]:
            found = found.get(name)
        return found


def distortion(v2=1312.95, v3=-1040.78, bend=1e-6):
    """0.11 arcsec a pixel, turned by 60 degrees, and a little bent; with its inverse."""
    c, s, mid = 0.11 * np.cos(np.pi / 3), 0.11 * np.sin(np.pi / 3), (SIDE - 1) / 2
    x = m.Polynomial2D(2, c1_0=s, c0_1=-c, c2_0=bend)
    y = m.Polynomial2D(2, c1_0=-c, c0_1=-s)
    ahead = m.Shift(-mid) & m.Shift(-mid) | m.Mapping((0, 1, 0, 1)) | x & y
    ahead = ahead | m.Shift(v2) & m.Shift(v3)
    linear = np.linalg.inv([[s, -c], [-c, -s]])
    back = m.Shift(-v2) & m.Shift(-v3) | m.AffineTransformation2D(linear)
    ahead.inverse = back | m.Shift(mid) & m.Shift(mid)
    return ahead


@pytest.fixture
def written(tmp_path):
    """``written(model)``: a distortion file."""

    def write(model=None, **tree):
        path = tmp_path / "distortion.asdf"
        tree = tree or {"coordinate_distortion_transform": model or distortion()}
        asdf.AsdfFile({"roman": tree}).write_to(path)
        return path

    return write


def turned(axis, degrees):
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    i, j = [k for k in range(3) if k != "xyz".index(axis)]
    found = np.eye(3)
    sign = -1 if axis == "y" else 1
    found[i, i] = found[j, j] = c
    found[i, j], found[j, i] = sign * s, -sign * s
    return found


def expected(model, l1, x, y):
    """The matrix of the five rotations on unit vectors."""
    info, scale = l1.meta["wcsinfo"], l1.meta["velocity_aberration"]["scale_factor"] or 1
    v2, v3 = model(x, y)
    v2, v3 = (scale * v + (1 - scale) * info[k] for v, k in ((v2, "v2_ref"), (v3, "v3_ref")))
    a, b = np.radians(v2 / 3600), np.radians(v3 / 3600)
    unit = np.array([np.cos(b) * np.cos(a), np.cos(b) * np.sin(a), np.sin(b)])
    for axis, angle in (
        ("z", info["v2_ref"] / 3600), ("y", -info["v3_ref"] / 3600), ("x", info["roll_ref"]),
        ("y", info["dec_ref"]), ("z", -info["ra_ref"]),
    ):  # fmt: skip
        unit = turned(axis, angle) @ unit
    return np.degrees(np.arctan2(unit[1], unit[0])) % 360, np.degrees(np.arcsin(unit[2]))


CASES = {
    "field": {},
    "no aberration": {"scale": 1.0},
    "not known": {"scale": None},
    "other side": {"ra_ref": 359.99, "dec_ref": 66.0, "roll_ref": 300.0, "scale": 0.9999},
    "pole": {"dec_ref": 89.9, "v2_ref": -300.0, "v3_ref": 200.0},
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_positions(case, written):
    l1 = L1(**case)
    info = l1.meta["wcsinfo"]
    model = distortion(info["v2_ref"], info["v3_ref"])
    wcs = pointed_wcs(l1, written(model))
    x, y = np.random.default_rng(5).uniform(-0.5, SIDE - 0.5, (2, 500))
    ra, dec = wcs.sky(x, y)
    true_ra, true_dec = expected(model, l1, x, y)
    off = (ra - true_ra + 180) % 360 - 180
    assert np.abs(off * np.cos(np.radians(dec))).max() < 1e-11
    assert np.abs(dec - true_dec).max() < 1e-10
    assert ((ra >= 0) & (ra < 360)).all()
    # The middle of the distortion is where the telescope points at.
    middle = np.array(wcs.sky((SIDE - 1) / 2, (SIDE - 1) / 2))
    assert np.abs(middle - (info["ra_ref"], info["dec_ref"])).max() < 1e-9
    gwcs = wcs.gwcs(SIDE)
    assert gwcs.available_frames == ["detector", "v2v3", "v2v3vacorr", "world"]
    back = gwcs.invert(*wcs.sky(100.0, 60.0))
    assert np.abs(np.subtract(back, (100, 60))).max() < 0.05  # the inverse is not bent
    with_straight = pointed_wcs(l1, written(distortion(info["v2_ref"], info["v3_ref"], 0))).gwcs(
        SIDE
    )
    back = with_straight.invert(*with_straight(100.0, 60.0))
    assert np.abs(np.subtract(back, (100, 60))).max() < 1e-6


def test_areas(written):
    """The Jacobian of the polynomials and of the sphere, times the aberration twice."""
    l1, model = L1(), distortion()
    wcs = pointed_wcs(l1, written(model))
    y, x = np.mgrid[:SIDE, :SIDE].astype(float)
    stretched = 0.11**2 + 2e-6 * (x - (SIDE - 1) / 2) * 0.11 * np.sin(np.pi / 3)
    v3 = 1.00007 * model(x, y)[1] - 0.00007 * -1040.78
    area = stretched * np.cos(np.radians(v3 / 3600)) * (1.00007 * np.radians(1 / 3600)) ** 2
    found = wcs.areas(SIDE).window(0, SIDE, 0, SIDE)
    assert np.abs(found * OMEGA_IDEAL / area - 1).max() < 1e-7


def test_bounding_box(written):
    wcs = pointed_wcs(L1(), written())
    assert wcs.gwcs(SIDE).bounding_box.bounding_box() == ((-0.5, 247.5), (-0.5, 247.5))
    model = distortion()
    model.bounding_box = ((10.0, 200.0), (20.0, 230.0))  # y first, as astropy has it
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        wcs = pointed_wcs(L1(), written(model))
        gwcs = wcs.gwcs(SIDE)
    assert gwcs.bounding_box.bounding_box() == ((20.0, 230.0), (10.0, 200.0))
    assert np.isnan(gwcs(5.0, 50.0)).all()
    assert np.isfinite(wcs.sky(5.0, 50.0)).all()
    corners = [float(v) for v in sky_region(wcs, SIDE).split()[2:]]
    assert np.abs(np.subtract(corners[:2], wcs.sky(20.0, 10.0))).max() < 1e-8


BAD = {
    "no pointing": ({"ra_ref": None}, "meta.wcsinfo.ra_ref is None, expected degrees from -360"),
    "not known": ({"dec_ref": -999999}, "meta.wcsinfo.dec_ref is -999999, expected degrees from"),
    "a text": ({"roll_ref": "12"}, "meta.wcsinfo.roll_ref is '12', expected degrees"),
    "not a number": ({"v2_ref": float("nan")}, "meta.wcsinfo.v2_ref is nan, expected arcsec from"),
    "boolean": ({"v3_ref": True}, "meta.wcsinfo.v3_ref is True, expected arcsec"),
    "aberration": ({"scale": 2.0}, "scale_factor is 2.0, expected a number within 0.001 of 1"),
    "infinite": ({"scale": float("inf")}, "scale_factor is inf, expected a number within"),
    "word": ({"scale": "one"}, "scale_factor is 'one', expected a number within"),
}


@pytest.mark.parametrize(("changes", "message"), BAD.values(), ids=BAD)
def test_bad_metadata(changes, message, written):
    with pytest.raises(InputError) as caught:
        pointed_wcs(L1(**changes), written())
    (line,) = caught.value.problems
    assert line.startswith("l1.asdf: meta.")
    assert message in line


def test_all_that_is_wrong_is_told_at_once(written):
    with pytest.raises(InputError) as caught:
        pointed_wcs(L1(ra_ref=None, roll_ref="x"), written())
    assert ["roll_ref" in caught.value.problems[0], "ra_ref" in caught.value.problems[1]] == [1, 1]
    nothing = dict.fromkeys(("v2_ref", "v3_ref", "roll_ref", "ra_ref", "dec_ref"))
    with pytest.raises(InputError) as caught:
        pointed_wcs(L1(**nothing), written())
    (line,) = caught.value.problems
    assert "l1.asdf: meta.wcsinfo has no usable v2_ref, v3_ref, roll_ref, dec_ref, ra_ref" in line


@pytest.mark.parametrize("dec", [90.0, -90.0, 89.9999, -89.9999])
@pytest.mark.parametrize("ra", [0.0, 360.0, 359.9999])
def test_poles(dec, ra, written):
    """Solid angles and the way back from the sky are as anywhere else. (gwcs itself gives NaN there
    unless its bounding box is left out, as a pole lies between no right ascensions.)"""
    usual = pointed_wcs(L1(dec_ref=10.0), written())
    wcs = pointed_wcs(L1(dec_ref=dec, ra_ref=ra), written())
    x, y = np.meshgrid(np.linspace(0, SIDE - 1, 5), np.linspace(0, SIDE - 1, 5))
    np.testing.assert_allclose(wcs.pixel_area(x, y), usual.pixel_area(x, y), rtol=1e-6)
    sky = wcs.sky(x, y)
    assert (sky[0] >= 0).all()
    assert (sky[0] <= 360).all()
    back = wcs.gwcs(SIDE).invert(*sky, with_bounding_box=False)
    expected = usual.gwcs(SIDE).invert(*usual.sky(x, y), with_bounding_box=False)
    np.testing.assert_allclose(back, expected, atol=1e-5)


def test_unknown_aberration_is_told(written, caplog):
    with caplog.at_level(logging.WARNING):
        pointed_wcs(L1(scale=-999999), written())
    assert "no meta.velocity_aberration.scale_factor" in caplog.text


FILES = {
    "nothing": ({"other": 1}, "KeyError"),
    "a number": ({"coordinate_distortion_transform": 3}, "is int, expected an astropy model"),
    "one axis": ({"coordinate_distortion_transform": m.Shift(1)}, "has 1 inputs and 1 outputs"),
    "nowhere": (
        {"coordinate_distortion_transform": distortion(np.nan)}, "no sky position at pixel (0, 0)"
    ),
}  # fmt: skip


@pytest.mark.parametrize(("tree", "message"), FILES.values(), ids=FILES)
def test_bad_files(tree, message, written):
    path = written(**tree)
    with pytest.raises(InputError) as caught:
        pointed_wcs(L1(), path)
    (line,) = caught.value.problems
    assert f"CALDIR.distortion: {path}" in line
    assert message in line
    assert "\n" not in line


@pytest.mark.parametrize(
    "content", [None, b"", b"no ASDF at all", b"#ASDF 1.0.0\n%YAML 1.1\n--- [\n"]
)
def test_broken_files(content, tmp_path):
    path = tmp_path / "distortion.asdf"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        pointed_wcs(L1(), path)
    (line,) = caught.value.problems
    assert line.startswith(f"CALDIR.distortion: {path}: ")
    assert "expected an astropy model" in line
    assert "\n" not in line
