"""Outputs as others open them: xarray, roman_datamodels, asdf info."""

from __future__ import annotations

import io
import pickle
import subprocess
import sys
from contextlib import redirect_stdout

import asdf
import numpy as np
import pytest

import roman_dask_l2
from roman_dask_l2.core import dq
from roman_dask_l2.errors import InputError
from roman_dask_l2.io.arrays import FileArray


@pytest.fixture(scope="module")
def image(simulated, tmp_path_factory):
    out = tmp_path_factory.mktemp("l2") / "l2.asdf"
    from roman_dask_l2.config.model import load_config

    config = load_config(simulated().config).replace(OUT=str(out), SLICEOUT=True, FITSOUT=False)
    roman_dask_l2.calibrate(config)
    return out


@pytest.fixture(scope="module")
def tree(image):
    with asdf.open(image, memmap=False, lazy_load=False) as file:
        yield file.tree


def test_the_same_numbers(image, tree):
    opened = roman_dask_l2.open_l2(image)
    roman = tree["roman"]
    for name in ("data", "data_withsky", "dq", "err", "var_poisson", "chisq", "dumo", "amp33",
                 "border_ref_pix_top", "dq_border_ref_pix_left"):  # fmt: skip
        values = opened[name].values
        np.testing.assert_array_equal(values, np.asarray(roman[name]), name)
        assert values.dtype.isnative
    np.testing.assert_array_equal(opened.mask, np.asarray(tree["mask"]))
    np.testing.assert_array_equal(opened.endslice, np.asarray(tree["processinfo"]["endslice"]))
    np.testing.assert_array_equal(opened.time, np.asarray(tree["processinfo"]["meta"]["tbar"]))


@pytest.mark.parametrize(
    "key",
    [
        (slice(3, 90, 7), slice(None)),
        (slice(None, None, -2), slice(100, 20, -3)),
        (5, slice(10, 11)),
        (-1, -2),
        (slice(4, 4), slice(None)),
        ([7, 3, 200], slice(0, 9)),
        (np.array([1, 2]), np.array([0, 247])),
    ],
    ids=str,
)
def test_any_window(image, tree, key):
    expected = np.asarray(tree["roman"]["data"])
    opened = roman_dask_l2.open_l2(image)
    np.testing.assert_array_equal(
        opened.data[key],
        expected[np.ix_(*key)] if isinstance(key[1], np.ndarray) else expected[key],
    )
    planes = np.asarray(tree["roman"]["amp33"])
    np.testing.assert_array_equal(opened.amp33[::-2, 3:40:5, 7], planes[::-2, 3:40:5, 7])


def test_nothing_is_read_before_it_is_used(image, monkeypatch):
    windows = []
    read = FileArray.read

    def noted(self, window=None, *planes):
        windows.append((self.key[-1], window))
        return read(self, window, *planes)

    monkeypatch.setattr(FileArray, "read", noted)
    opened = roman_dask_l2.open_l2(image)
    chunked = roman_dask_l2.open_l2(image, chunks={"y": 100})
    assert repr(opened)
    part = opened.data.sel(y=slice(10, 19), x=slice(20, 39))
    assert {name for name, _ in windows} <= {"tbar"}  # a few numbers
    windows.clear()
    assert part.values.shape == (10, 20)
    assert windows == [("data", (10, 20, 20, 40))]
    windows.clear()
    assert chunked.data.chunks == ((100, 100, 48), (248,))
    np.testing.assert_array_equal(chunked.data[:50].compute(), opened.data[:50])
    assert len(windows) == 2  # one chunk, one window


def test_coordinates_units_and_flags(image, tree):
    opened = roman_dask_l2.open_l2(image)
    wcs = tree["roman"]["meta"]["wcs"]
    ra, dec = wcs([20, 30], [5, 5])
    np.testing.assert_allclose(opened.ra[5, [20, 30]], ra, rtol=0, atol=1e-12)
    np.testing.assert_allclose(opened.dec[5, [20, 30]], dec, rtol=0, atol=1e-12)
    assert opened.ra.attrs["units"] == "deg"
    assert opened.data.attrs["units"] == "DN/s"
    assert opened.var_poisson.attrs["units"] == "(DN/s)^2"
    assert all(v.attrs["units"] and v.attrs["long_name"] for v in opened.variables.values())
    about = opened.dq.attrs
    flags = dict(zip(about["flag_meanings"].split(), about["flag_masks"], strict=True))
    assert flags == dq.PIXEL
    assert opened.attrs["detector"] == "WFI01"
    assert opened.attrs["recipe"] == "l1_to_l2"


def test_travels(image):
    opened = roman_dask_l2.open_l2(image)
    copied = pickle.loads(pickle.dumps(opened))
    np.testing.assert_array_equal(copied.data[3:5], opened.data[3:5])
    np.testing.assert_array_equal(copied.ra[3:5, :3], opened.ra[3:5, :3])


def test_other_files(simulated, tmp_path):
    with pytest.raises(InputError, match="no such file|does not exist|No such file"):
        roman_dask_l2.open_l2(tmp_path / "none.asdf")
    with pytest.raises(InputError, match="expected a Level-2 file"):
        roman_dask_l2.open_l2(simulated().l1)


def test_without_xarray():
    program = (
        "import sys; sys.modules['xarray'] = None\n"
        "import roman_dask_l2\n"
        "try: roman_dask_l2.open_l2\n"
        "except ImportError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert "pip install 'roman-dask-l2[xarray]'" in done.stdout, done.stderr


def test_asdf_info_describes_the_arrays(image):
    told = io.StringIO()
    with redirect_stdout(told):
        asdf.info(image, max_rows=200)
    text = told.getvalue()
    for line in (
        "Level 2 (L2) Calibrated Roman Wide Field Instrument (WFI) Rate Image",
        "Science Data (DN/s)",
        "Data Quality",
        "Poisson Variance",
    ):
        assert line in text
    for name in ("mask", "processinfo", "medsky", "skycoefs", "endslice", "provenance"):
        assert f"─{name} (" in text


def test_roman_datamodels_opens_it(image):
    import roman_datamodels.datamodels as models

    with models.open(image) as model:
        assert isinstance(model, models.ImageModel)
        model.validate()
