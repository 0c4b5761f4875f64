"""WCS input and pixel areas, against astropy.wcs and the closed form of the TAN-SIP Jacobian."""

from __future__ import annotations

import pickle
import subprocess
import sys
from itertools import pairwise, product

import numpy as np
import pytest
from astropy.coordinates import angular_separation
from astropy.io import fits
from astropy.wcs import WCS

from roman_dask_l2.core.detector import OMEGA_IDEAL
from roman_dask_l2.errors import InputError
from roman_dask_l2.io.wcs import Wcs, load_wcs

SIDE = 4088
CRPIX = np.array([2343.5, -456.5])


def make_header(dec=-30.0, ra=350.0, order=0, lonpole=None, amplitude=40.0):
    """TAN(-SIP) header with a rotated, sheared CD matrix and `amplitude` pixels of distortion."""
    suffix = "-SIP" if order else ""
    header = fits.Header()
    header["CTYPE1"], header["CTYPE2"] = f"RA---TAN{suffix}", f"DEC--TAN{suffix}"
    header["CRPIX1"], header["CRPIX2"] = CRPIX
    header["CRVAL1"], header["CRVAL2"] = ra, dec
    c, s = np.cos(0.7) * 0.11 / 3600, np.sin(0.7) * 0.11 / 3600
    header["CD1_1"], header["CD1_2"], header["CD2_1"], header["CD2_2"] = -c, s, 1.01 * s, c
    if lonpole is not None:
        header["LONPOLE"] = lonpole
    if order:
        rng = np.random.default_rng(order)
        for name, n in (("A", order), ("B", max(order - 1, 2))):  # the orders may differ
            header[f"{name}_ORDER"] = n
            for p in range(n + 1):
                for q in range(n + 1 - p):
                    if p + q > 1:
                        header[f"{name}_{p}_{q}"] = rng.normal() * amplitude / 4000.0 ** (p + q)
    return fits.Header.fromstring(header.tostring())  # values as rounded by the cards


def load(path, header, origin=0, sep=""):
    path.write_text(header.tostring(sep=sep))
    return load_wcs(path, None, None, origin)


def separation(a, b):
    return np.degrees(angular_separation(*np.radians(a), *np.radians(b))).max()


def exact_area(header, x, y):
    """Closed form: det(CD) det(I + d(A, B)/d(u, v)) cos^3(theta), sr."""
    u, v = np.broadcast_arrays(x - header["CRPIX1"], y - header["CRPIX2"])
    f = [u.copy(), v.copy()]
    jac = np.zeros((2, 2, *u.shape)) + np.eye(2)[:, :, None, None]
    for k, name in enumerate("AB"):
        for p in range(10):
            for q in range(10):
                coef = header.get(f"{name}_{p}_{q}", 0.0)
                f[k] += coef * u**p * v**q
                jac[k, 0] += coef * p * u ** max(p - 1, 0) * v**q
                jac[k, 1] += coef * q * u**p * v ** max(q - 1, 0)
    cd = np.radians([[header[f"CD{i}_{j}"] for j in (1, 2)] for i in (1, 2)])
    xi, eta = np.einsum("ij,jkl->ikl", cd, f)
    det = jac[0, 0] * jac[1, 1] - jac[0, 1] * jac[1, 0]
    return abs(np.linalg.det(cd)) * det * (1 + xi**2 + eta**2) ** -1.5


@pytest.mark.parametrize("dec", [-30.0, 0.01, 89.95, 90.0, -90.0])
@pytest.mark.parametrize("lonpole", [None, 180.0, 0.0, 133.0])
def test_agrees_with_astropy_wcs(tmp_path, dec, lonpole):
    x, y = np.meshgrid(np.linspace(-10, 4100, 12), np.linspace(-10, 4100, 12))
    for order in (0, 2, 5, 9):
        header = make_header(dec, order=order, lonpole=lonpole)
        reference = WCS(header)
        for origin in (0, 1):  # astropy's own `origin` is that of x and y; its CRPIX is 1-based
            wcs = load(tmp_path / "h.txt", header, origin, sep="\n" if origin else "")
            theirs = reference.all_pix2world(x, y, 1 - origin)
            assert separation(wcs.sky(x, y), theirs) < 1e-11


def test_pc_and_cdelt(tmp_path):
    header = make_header()
    cd = [header.pop(f"CD{i}_{j}") for i in (1, 2) for j in (1, 2)]
    header["CDELT1"], header["CDELT2"] = -3e-5, 2e-5
    for key, value in zip(("PC1_1", "PC1_2", "PC2_1"), cd, strict=False):  # PC2_2 defaults to 1
        header[key] = value * 3e4
    wcs = load(tmp_path / "h.txt", header)
    theirs = WCS(header).all_pix2world([0.0, 4000.0], [7.0, 100.0], 1)
    assert separation(wcs.sky([0.0, 4000.0], [7.0, 100.0]), theirs) < 1e-11


def test_sip_of_order_zero(tmp_path):
    header = make_header(order=2, amplitude=0.0)
    header["A_ORDER"] = header["B_ORDER"] = 0
    plain = load(tmp_path / "h.txt", make_header()).sky(10.0, 20.0)
    assert load(tmp_path / "h.txt", header).sky(10.0, 20.0) == plain


def test_header_layouts(tmp_path):
    header = make_header(order=4, lonpole=170.0)
    header["COMMENT"] = "anything"
    here = load(tmp_path / "h.txt", header).sky(10.0, 20.0)
    short = "\r\n".join(line.rstrip() for line in header.tostring(sep="\n").splitlines())
    texts = {
        "short lines": short,
        "final newline": header.tostring() + "\n",
        "no END": header.tostring(endcard=False, padding=False),
        "odd card": "odd=card; 'unclosed\n" + short + "\nCRVAL1  = 1.0",
        "keyword twice, the first counts": short.replace("\r\nEND", "\r\nCRVAL1  = 1.0"),
    }
    for name, text in texts.items():
        (tmp_path / "h.txt").write_text(text)
        assert load_wcs(tmp_path / "h.txt", None).sky(10.0, 20.0) == here, name


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"CTYPE1": "RA---SIN", "CTYPE2": "DEC--SIN"}, "CTYPE1"),
        ({"CTYPE1": "RA---TAN"}, "CTYPE1"),
        ({"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN"}, "A_ORDER"),
        ({"CRVAL1": None}, "no CRVAL1"),
        ({"CRVAL2": 91.0}, "CRVAL2"),
        ({"CRPIX2": None}, "no CRPIX2"),
        ({"CRPIX2": "middle"}, "CRPIX2 = 'middle'"),
        ({"B_ORDER": None}, "A_ORDER"),
        ({"A_ORDER": 12}, "A_ORDER = 12"),
        ({"A_0_2": "x"}, "A_0_2"),
        ({"CD1_1": 0.0, "CD1_2": 0.0}, "singular"),
        ({"CD1_1": None, "CD1_2": None, "CD2_1": None, "CD2_2": None}, "pixel scale"),
        ({"PV1_1": 0.1}, "PV1_1"),
        ({"CUNIT1": "arcsec"}, "CUNIT1"),
        ({"RADESYS": "FK4"}, "RADESYS"),
    ],
)
def test_bad_headers_are_refused(tmp_path, change, word):
    header = make_header(order=3)
    for key, value in change.items():
        if value is None:
            del header[key]
        else:
            header[key] = value
    with pytest.raises(InputError, match=word) as info:
        load(tmp_path / "bad.txt", header)
    assert "bad.txt" in str(info.value)
    assert "expected" in str(info.value)
    assert "\n" not in str(info.value)


@pytest.mark.parametrize("content", [None, b"", b"hello\n", b"\x00\xff\x80", b"#ASDF 1.0.0\n"])
def test_unreadable_files_are_refused(tmp_path, content):
    path = tmp_path / "file.x"
    if content is not None:
        path.write_bytes(content)
    for sources in ((path, None), (None, path)):
        with pytest.raises(InputError, match=r"file.x.*expected") as info:
            load_wcs(*sources, None)
        assert "\n" not in str(info.value)


def test_sources(tmp_path):
    import asdf

    with pytest.raises(InputError, match="no WCS"):
        load_wcs(None, None, None)
    with pytest.raises(InputError, match=r"L1 file.*str"):
        load_wcs(None, None, "not a wcs")
    with pytest.raises(InputError, match="FITSWCS_ORIGIN"):
        load(tmp_path / "h.txt", make_header(), origin=2)
    wcs = load(tmp_path / "h.txt", make_header(-40.0, order=3))
    expected = wcs.sky([-3.0, 5.0], [0.0, 90.0])
    model = wcs.gwcs(SIDE)
    trees = ({"wcs": model}, {"roman": {"meta": {"wcs": model}}})
    for tree in trees:
        asdf.AsdfFile(tree).write_to(tmp_path / "w.asdf")
        got = load_wcs(None, tmp_path / "w.asdf")
        np.testing.assert_array_equal(got.sky([-3.0, 5.0], [0.0, 90.0]), expected)
        assert not got.north
    np.testing.assert_array_equal(
        load_wcs(None, None, model).sky([-3.0, 5.0], [0.0, 90.0]), expected
    )
    asdf.AsdfFile({"wcs": [1, 2], "x": 1}).write_to(tmp_path / "w.asdf")
    with pytest.raises(InputError, match=r"w.asdf.*expected a gwcs"):
        load_wcs(None, tmp_path / "w.asdf")


def test_full_frame_box_is_noticed(tmp_path, caplog):
    model = load(tmp_path / "h.txt", make_header()).gwcs(SIDE)
    load_wcs(None, None, model)
    assert not caplog.records
    model.bounding_box = ((-0.5, 4095.5), (-0.5, 4095.5))
    load_wcs(None, None, model)
    assert "full frame" in caplog.text


def test_gwcs_in_a_roman_image(tmp_path):
    import roman_datamodels.datamodels as rdm

    wcs = load(tmp_path / "h.txt", make_header(order=4, lonpole=12.0))
    image = rdm.ImageModel.create_fake_data(shape=(32, 32))
    image.meta.wcs = wcs.gwcs(32)
    image.validate()
    image.save(tmp_path / "l2.asdf")
    with rdm.open(tmp_path / "l2.asdf") as opened:
        model = opened.meta.wcs
        assert model.pixel_shape == (32, 32)
        assert model.bounding_box.bounding_box() == ((-0.5, 31.5), (-0.5, 31.5))
        assert [f.name for f in (model.input_frame, model.output_frame)] == ["detector", "world"]
        assert model.output_frame.reference_frame.name == "icrs"
        np.testing.assert_array_equal(model(3.0, 30.0), wcs.sky(3.0, 30.0))
        assert np.isnan(model(3.0, 33.0)).all()  # outside the box
        np.testing.assert_allclose(model.invert(*model(3.0, 30.0)), (3.0, 30.0), atol=1e-6)
    assert wcs.model.get().bounding_box is None  # a copy was changed, not the original
    from_image = load_wcs(None, tmp_path / "l2.asdf")
    np.testing.assert_array_equal(from_image.sky(3.0, 33.0), wcs.sky(3.0, 33.0))


@pytest.mark.parametrize("order", [0, 2, 5])
def test_gwcs_can_be_inverted(tmp_path, order):
    x, y = np.meshgrid(np.linspace(0, SIDE - 1, 9), np.linspace(0, SIDE - 1, 9))
    model = load(tmp_path / "h.txt", make_header(order=order)).gwcs(SIDE)
    sky = model(x, y)
    np.testing.assert_allclose(model.invert(*sky), (x, y), atol=2e-2)


@pytest.mark.parametrize("dec", [-30.0, 0.05, 89.95, -90.0])
@pytest.mark.parametrize("order", [0, 4])
def test_areas_are_exact(tmp_path, dec, order):
    """To the rounding of the sky coordinates in the differences, and below it in the spline."""
    header = make_header(dec, order=order)
    wcs = load(tmp_path / "h.txt", header)
    x = np.r_[0:6, 6:4082:173, 4082:4088]
    for offset in (0, -4):
        area = exact_area(header, (x + offset)[None, :], (x + offset)[:, None])
        for half in (0.5, 1.0):
            ours = wcs.pixel_area((x + offset)[None, :], (x + offset)[:, None], half)
            np.testing.assert_allclose(ours, area, rtol=5e-9 / half)
        ours = wcs.areas(SIDE, offset).window(0, SIDE, 0, SIDE)[np.ix_(x, x)]
        np.testing.assert_allclose(ours, area / OMEGA_IDEAL, rtol=1e-10)


def test_spline_of_a_strong_distortion(tmp_path):
    """The spline follows the differences where the areas change by 10 %, edges included (they see
    the mean over two pixels, the spline the middle)."""
    header = make_header(-30.0, order=5, amplitude=60.0)
    wcs = load(tmp_path / "h.txt", header)
    x = np.r_[0:20, 20:4068:61, 4068:4088]
    area = wcs.pixel_area(x[None, :], x[:, None]) / OMEGA_IDEAL
    assert area.max() / area.min() > 1.08
    spline = wcs.areas(SIDE).window(0, SIDE, 0, SIDE)[np.ix_(x, x)]
    np.testing.assert_allclose(spline, area, rtol=2e-8)


def test_same_bits_through_any_window(tmp_path):
    exact = load(tmp_path / "h.txt", make_header(order=4))
    spline = Wcs(exact.model, exact.north)
    for wcs, side, offset in product((exact, spline), (SIDE, 248), (0, -4)):
        spline = pickle.loads(pickle.dumps(wcs.areas(side, offset)))
        assert len(pickle.dumps(spline)) < 200_000
        whole = spline.window(0, side, 0, side)
        assert whole.dtype == np.float64
        assert whole.shape == (side, side)
        rng = np.random.default_rng(3)
        edges = np.unique(np.r_[0, 1, 129, rng.integers(0, side, 5), side - 1, side])
        for y0, y1 in pairwise(edges):
            for x0, x1 in pairwise(edges):
                part = spline.window(y0, y1, x0, x1)
                np.testing.assert_array_equal(part, whole[y0:y1, x0:x1])
    assert spline.window(3, 3, 0, 9).shape == (0, 9)
    for window in ((-1, 2, 0, 2), (0, 2, 0, 249), (5, 4, 0, 2)):
        with pytest.raises(IndexError):
            spline.window(*window)


def test_area_where_there_is_no_sky():
    def model(x, y, with_bounding_box):
        return np.where(x > 100, np.nan, x / 3e4), y / 3e4

    wcs = Wcs(model, north=True)
    assert np.isfinite(wcs.areas(90).window(0, 90, 0, 90)).all()
    with pytest.raises(InputError, match="solid angle"):
        wcs.areas(248)


def test_import_is_cheap():
    code = (
        "import sys, roman_dask_l2.io.wcs\n"
        "assert not {'astropy', 'gwcs', 'asdf', 'scipy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
