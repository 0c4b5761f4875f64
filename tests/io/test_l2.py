"""The L2 file: a valid ImageModel, with everything that its readers expect."""

from __future__ import annotations

import warnings

import asdf
import numpy as np
import pytest
import roman_datamodels as rdm
from astropy.io import fits

from roman_dask_l2.core.dq import PIXEL
from roman_dask_l2.core.float16 import to_float16
from roman_dask_l2.io.l2 import CAL_STEPS
from roman_dask_l2.products.level2 import calibrate, l1_to_l2
from roman_dask_l2.simulation.simulate import simulate

SIDE, ACTIVE = 256, 248


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("l2")
    simulation = simulate(
        folder, side=SIDE, seed=9, config={"FITSOUT": True, "SLICEOUT": True, "SKYORDER": 1}
    )
    return simulation, calibrate(simulation.config)


@pytest.fixture(scope="module")
def tree(made):
    with asdf.open(made[1].out, memmap=False, lazy_load=False) as file:
        return file.tree


def test_is_a_valid_image_model(made):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        with rdm.open(made[1].out) as model:
            assert isinstance(model, rdm.datamodels.ImageModel)
            model.validate()
            assert model.meta.filename == made[1].out.name
            assert model.meta.model_type == "ImageModel"
            assert set(model.meta.cal_step) <= set(CAL_STEPS)
            for step in ("dq_init", "saturation", "refpix", "linearity", "dark", "ramp_fit"):
                assert model.meta.cal_step[step] == "COMPLETE"
            assert model.meta.cal_step.dark_decay == "SKIPPED"
            assert model.meta.photometry.conversion_megajanskys > 0


@pytest.mark.parametrize(
    ("name", "dtype", "shape"),
    [
        ("data", "float32", (ACTIVE, ACTIVE)),
        ("data_withsky", "float32", (ACTIVE, ACTIVE)),
        ("dq", "uint32", (ACTIVE, ACTIVE)),
        ("err", "float16", (ACTIVE, ACTIVE)),
        ("var_poisson", "float16", (ACTIVE, ACTIVE)),
        ("chisq", "float16", (ACTIVE, ACTIVE)),
        ("dumo", "float16", (ACTIVE, ACTIVE)),
        ("amp33", "uint16", (8, SIDE, 128)),
        ("border_ref_pix_left", "float32", (8, SIDE, 4)),
        ("border_ref_pix_top", "float32", (8, 4, SIDE)),
        ("dq_border_ref_pix_right", "uint32", (SIDE, 4)),
        ("dq_border_ref_pix_bottom", "uint32", (4, SIDE)),
    ],
)
def test_arrays(tree, name, dtype, shape):
    array = np.asarray(tree["roman"][name])
    assert array.dtype == dtype
    assert array.shape == shape
    assert np.isfinite(array).all()


def test_border_is_the_raw_one(made, tree):
    with asdf.open(made[0].l1, memmap=False, lazy_load=False) as file:
        raw = np.asarray(file["roman"]["data"]).astype("f4")
    roman = tree["roman"]
    assert np.array_equal(roman["border_ref_pix_left"], raw[:, :, :4])
    assert np.array_equal(roman["border_ref_pix_right"], raw[:, :, -4:])
    assert np.array_equal(roman["border_ref_pix_bottom"], raw[:, :4])
    assert np.array_equal(roman["border_ref_pix_top"], raw[:, -4:])
    assert (roman["dq_border_ref_pix_left"] & PIXEL["REFERENCE_PIXEL"] != 0).all()


def test_what_pyimcom_reads(tree):
    ra, dec = tree["roman"]["meta"]["wcs"](ACTIVE / 2, ACTIVE / 2)
    assert np.isfinite([ra, dec]).all()
    assert tree["mask"].dtype == bool
    assert tree["mask"].shape == (ACTIVE, ACTIVE)
    assert 0 < tree["mask"].mean() < 0.5


def test_processinfo(tree):
    info = tree["processinfo"]
    for key in ("medsky", "medgain", "log", "config", "exclude_first", "ramp_opt_pars"):
        assert key in info
    assert info["skyorder"] == 1
    assert len(info["skycoefs"]) == 3
    assert len(info["weights"]) == info["meta"]["ngrp"] == 8
    assert abs(np.sum(info["weights"])) < 1e-6
    assert info["endslice"].dtype == np.int8
    assert info["endslice"].max() >= 4


def test_provenance(made, tree):
    found = tree["processinfo"]["provenance"]
    assert found["recipe"]["name"] == "l1_to_l2"
    assert "numba" in found["versions"]
    for key, path in {**made[0].caldir, "IN": made[0].l1, "FITSWCS": made[0].fitswcs}.items():
        assert found["files"][key]["size"] == path.stat().st_size
        assert len(found["files"][key]["content"]) == 64


def test_fits(made, tree):
    with fits.open(made[1].fits) as hdus:
        assert np.array_equal(hdus[0].data, tree["roman"]["data"])
        assert np.array_equal(hdus[1].data, tree["roman"]["dq"])
        expected = np.where(tree["mask"], np.float32(-1000), tree["roman"]["data"])
        assert np.array_equal(hdus[2].data, expected)


def test_is_what_the_lazy_arrays_hold(made, tree):
    arrays = l1_to_l2(made[0].config, tile=(96, 130))
    assert np.array_equal(arrays["data"].compute(), tree["roman"]["data"])
    assert np.array_equal(arrays["mask"].compute(), tree["mask"])
    corner = arrays["dq"][:10, :10].compute()
    assert np.array_equal(corner, tree["roman"]["dq"][:10, :10])


def test_half_does_not_overflow():
    assert np.isfinite(to_float16(np.array([1e9, -1e9], "f4"))).all()


def test_metadata_are_those_of_the_image(made):
    """The outline is that of the WCS in the file, in the mission's words; names of reference files
    are those that were used."""
    from stcal.alignment.util import compute_s_region_imaging

    simulation, result = made
    with rdm.open(result.out) as model, rdm.open(simulation.l1) as raw:
        wcsinfo, region = model.meta.wcsinfo, model.meta.wcsinfo.s_region
        assert region == compute_s_region_imaging(
            model.meta.wcs, shape=(ACTIVE, ACTIVE), center=False
        )
        assert region != raw.meta.wcsinfo.s_region
        ra, dec = model.meta.wcs((ACTIVE - 1) / 2, (ACTIVE - 1) / 2)
        assert wcsinfo.ra_ref == pytest.approx(float(ra), abs=1e-12)
        assert wcsinfo.dec_ref == pytest.approx(float(dec), abs=1e-12)
        for name in ("roll_ref", "v2_ref", "v3_ref", "v3yangle", "vparity", "aperture_name"):
            assert wcsinfo[name] == raw.meta.wcsinfo[name]
        used = {"gain": "gain", "readnoise": "read", "linearity": "linearitylegendre"}
        for key, file in used.items():
            assert model.meta.ref_file[key] == simulation.caldir[file].name
        assert model.meta.ref_file.darkdecaysignal == "N/A"
        assert model.meta.ref_file.crds == raw.meta.ref_file.crds
        for name in ("product_type", "calibration_software_name"):
            assert model.meta[name] in ("l2", "roman-dask-l2")


def test_outlines_around_zero_and_the_pole():
    from roman_dask_l2.io.footprint import middle, sky_region
    from roman_dask_l2.io.wcs import Wcs

    class Sky(Wcs):
        def sky(self, x, y):
            x, y = np.asarray(x, float), np.asarray(y, float)
            return (x - 100) * 1e-2 - 1e-12, 89 + y * 1e-3

    numbers = [float(v) for v in sky_region(Sky(None, True), 201).split()[2:]]
    expected = [358.995, 88.9995, 358.995, 89.2005, 1.005, 89.2005, 1.005, 88.9995]
    assert numbers == pytest.approx(expected, abs=1e-9)
    assert all(0 <= ra < 360 for ra in numbers[::2])
    assert middle(Sky(None, True), 201)[0] == pytest.approx(360, abs=1e-9)
