"""The simulator with the observatory's reference files: valid, consistent, and the right truth.

The calibration that they are tried with is a short one in plain NumPy. Statistical tests allow 5
standard deviations; the seeds are fixed.
"""

from __future__ import annotations

import asdf
import numpy as np
import plain_observatory as plain
import pytest
import yaml
from astropy.wcs import WCS
from roman_datamodels import datamodels

from roman_dask_l2.core.dq import PIXEL
from roman_dask_l2.errors import InputError
from roman_dask_l2.simulation import observatory_detector, readout, settings
from roman_dask_l2.simulation.observatory_files import MODELS
from roman_dask_l2.simulation.simulate import simulate

SIDE = 256
SILENT = dict.fromkeys(settings.NOISE, 0.0)
ACTIVE = plain.ACTIVE


@pytest.fixture(scope="module")
def everything(tmp_path_factory):
    """All conditions."""
    folder = tmp_path_factory.mktemp("all")
    return simulate(folder, side=SIDE, seed=3, references="observatory")


@pytest.fixture(scope="module")
def uniform(tmp_path_factory):
    """``uniform(**options)``: an exposure without stars, cosmic rays and defects."""
    made = {}

    def make(**options):
        key = repr(sorted(options.items()))
        if key not in made:
            made[key] = simulate(
                tmp_path_factory.mktemp("uniform"),
                **(dict(side=SIDE, seed=5, references="observatory", conditions="plain",
                        stars=0, cosmic_rays=0) | options),
            )  # fmt: skip
        return made[key]

    return make


def times(side=SIDE, detector="WFI01", frame_time=3.04):
    return readout.read_times(side, detector, frame_time)


def true_rate(simulation):
    return np.asarray(plain.load(simulation.truth, "truth")["rate"])


# --- files --------------------------------------------------------------------------------------


def test_files_open_as_what_they_are(everything):
    config = yaml.safe_load(everything.config.read_text())
    assert set(config["CALDIR"]) == set(MODELS) == set(everything.caldir)
    assert config["GRAPH"] == "observatory"
    assert not {"FITSWCS", "GWCS"} & set(config)
    for key, model in MODELS.items():
        with datamodels.open(everything.directory / config["CALDIR"][key]) as file:
            assert type(file).__name__ == model
            file.validate()
            assert file.meta.reftype == key.upper()
            assert file.meta.instrument.detector == "WFI01"
            if key == "flat":
                assert file.meta.instrument.optical_element == "F158"


def test_shapes_and_types(everything):
    full, inner = (SIDE, SIDE), (SIDE - 8, SIDE - 8)
    expected = {
        ("refpix", "gamma"): ((2, SIDE * 70 + 1), "complex128"),
        ("refpix", "alpha"): ((2, SIDE * 70 + 1), "complex128"),
        ("linearity", "coeffs"): ((8, *full), "float32"),
        ("inverselinearity", "coeffs"): ((4, *full), "float32"),
        ("integralnonlinearity", "value"): ((65536,), "uint16"),
        ("dark", "dark_slope_error"): (full, "float32"),
        ("flat", "data"): (inner, "float32"),
        ("flat", "err"): (inner, "float32"),
        ("flat", "dq"): (inner, "uint32"),
    }
    for (key, name), (shape, dtype) in expected.items():
        stored = plain.load(everything.caldir[key])[name]
        assert (key, name, stored.shape, str(stored.dtype)) == (key, name, shape, dtype)
    assert "data" not in plain.load(everything.caldir["dark"])  # there is no dark cube


def test_exposure(everything):
    with datamodels.open(everything.l1) as model:
        model.validate()
        reads = [list(r) for r in model.meta.exposure.read_pattern]
        assert reads == [[f + 1 for f in r] for r in settings.READ_PATTERN]
        assert "wcs" not in model.meta


def test_flags_of_the_files(everything):
    places = plain.load(everything.truth, "truth")["conditions"]
    assert "off_range" not in places
    dq = np.asarray(plain.load(everything.caldir["linearity"])["dq"])
    y, x = np.asarray(places["linearity_dq"])[0]
    assert dq[y, x] == PIXEL["NO_LIN_CORR"]
    flat = plain.load(everything.caldir["flat"])
    values = [flat["data"][y - 4, x - 4] for y, x in np.asarray(places["flat"])[:4]]
    np.testing.assert_array_equal(values, [np.nan, 0, -1, 1])
    y, x = np.asarray(places["flat"])[3]
    assert flat["dq"][y - 4, x - 4] == PIXEL["NO_FLAT_FIELD"]
    gain = plain.load(everything.caldir["gain"])["data"]
    values = [gain[y, x] for y, x in np.asarray(places["gain"])[:3]]
    np.testing.assert_array_equal(values, np.float32([0, np.nan, -0.5]))


def test_nan_where_asked(uniform):
    sim = uniform(conditions="nan_reference")
    places = plain.load(sim.truth, "truth")["conditions"]["nan_reference"]
    arrays = settings.OBSERVATORY_NAN_ARRAYS
    for (key, name), (y, x) in zip(arrays, places[: len(arrays)], strict=True):
        array = np.asarray(plain.load(sim.caldir[key])[name])
        shift = 4 if array.shape[-1] == SIDE - 8 else 0
        where = np.argwhere(np.isnan(array if array.ndim == 2 else array[0]))
        np.testing.assert_array_equal(where, [[y - shift, x - shift]])


def test_reference_files_shared(tmp_path):
    options = dict(side=SIDE, conditions="plain", detector_seed=1, cal=tmp_path / "cal")
    first = simulate(tmp_path / "1", seed=1, references="observatory", **options)
    before = first.caldir["flat"].stat().st_mtime_ns
    second = simulate(tmp_path / "2", seed=2, references="observatory", **options)
    assert second.caldir == first.caldir
    assert first.caldir["flat"].stat().st_mtime_ns == before
    with pytest.raises(InputError, match="references observatory, expected survey"):
        simulate(tmp_path / "3", seed=3, **options)


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ({"references": "mine"}, "'survey' or 'observatory'"),
        ({"references": "observatory", "biascorr": True}, "biascorr"),
        ({"references": "observatory", "extra_plane": True}, "extra_plane"),
        ({"references": "observatory", "array_format": {"flat": "zlib"}}, "array_format"),
        ({"references": "observatory", "conditions": "off_range"}, "off_range"),
        ({"references": "observatory", "read_pattern": [[0], [1], [2]]}, "from 1"),
        ({"wcs": "distortion"}, "wcs"),
    ],
)
def test_bad_options(tmp_path, bad, words):
    with pytest.raises(InputError, match=words):
        simulate(tmp_path / "x", side=SIDE, **bad)
    assert not (tmp_path / "x").exists()


# --- the detector -------------------------------------------------------------------------------


def test_polynomials_are_inverse_to_each_other(everything):
    files = {key: plain.load(everything.caldir[key]) for key in ("linearity", "inverselinearity")}
    p, q = (np.asarray(files[key]["coeffs"])[ACTIVE] for key in files)
    assert np.ptp(q[2]) > 0.3 * abs(q[2].mean())  # pixels differ
    for signal in np.linspace(4000, 66_000, 8):
        z = np.full(p.shape[1:], signal)
        raw = plain.horner(q, z)
        assert np.abs(plain.horner(p, raw) - z).max() < 0.05
    assert np.abs(raw - z).max() > 1000


def test_nonlinearity_is_added_by_the_calibration(uniform):
    """Without any noise raw + I(raw) is the polynomial of the charge, up to rounding."""
    sim = uniform(noise=SILENT, sky=100.0, dark_decay=False, read_pattern=[[1], [10], [20], [30]])
    raw = np.asarray(plain.load(sim.l1)["data"], np.float64)
    assert "darkdecaysignal" not in sim.caldir
    inl = plain.load(sim.caldir["integralnonlinearity"])["inl_table"]
    inverse = np.asarray(plain.load(sim.caldir["inverselinearity"])["coeffs"])[ACTIVE]
    p = np.asarray(plain.load(sim.caldir["linearity"])["coeffs"])[ACTIVE]
    for j in (1, 3):
        drift = 3 * np.exp(-j)
        for channel, name in enumerate(sorted(inl)):
            columns = slice(max(channel * 128 - 4, 0), min((channel + 1) * 128 - 4, SIDE - 8))
            table = np.asarray(inl[name]["correction"])
            seen = raw[j][4:-4, 4:-4][:, columns] - drift
            right = seen + np.interp(seen, np.arange(table.size), table)
            wrong = seen - np.interp(seen, np.arange(table.size), table)
            # The charge is unknown but for its mean: q(p(x)) = x tells nothing, so the scatter of
            # the pixels' residuals from what their start and rate give has to be compared.
            model = expected_raw(sim, j)[:, columns]
            good, bad = (np.mean(value - model) for value in (right, wrong))
            assert abs(good) < 0.25
            assert abs(bad - good) > 0.5 or np.abs(table[seen.astype(int)]).mean() < 0.5
    assert inverse.shape[0] < p.shape[0]


def expected_raw(sim, j):
    """q(reference level + charge) by what the files and the truth tell."""
    l1, files = plain.load(sim.l1), {k: plain.load(p) for k, p in sim.caldir.items()}
    exposure = l1["meta"]["exposure"]
    t = np.mean(exposure["read_pattern"][j]) * exposure["frame_time"]
    t += settings.RESET_LAG * exposure["frame_time"]
    dark = np.asarray(files["dark"]["dark_slope"])[ACTIVE]
    rate = true_rate(sim) * np.asarray(files["flat"]["data"])
    run = settings.Run(
        SIDE, [], 1.0, settings.Seeds(5, 5, 5), dict(settings.NOISE), 1
    )  # its random streams are those of the detector
    level = run.plane("sref", 6000, 250)
    start = dark * (1 + settings.RESET_LAG) * exposure["frame_time"]
    inverse = np.asarray(files["inverselinearity"]["coeffs"])[ACTIVE]
    return plain.horner(inverse, level + (rate + dark) * t - start)


# --- truth --------------------------------------------------------------------------------------


@pytest.mark.parametrize("sky", [0.4, 30.0, 300.0])
def test_rate_is_the_truth(uniform, sky):
    """Uniform light is uniform, and differs from the truth by no more than the errors tell."""
    sim = uniform(sky=sky, noise={k: 0.0 for k in ("U_PINK", "C_PINK", "RU_PINK")})
    truth = true_rate(sim)
    np.testing.assert_allclose(truth, sky, rtol=1e-6)
    rate, err = plain.calibrate(sim, times(), sky + 0.003)
    # Some pixels are dark current's, whose rate is not the one that the weights are for.
    pulls = ((rate - truth) / err).ravel()
    n = pulls.size
    # The trends of two channels come from 1024 border samples each, whose noise they share.
    shared = 5 / np.sqrt(2 * 1024)
    assert abs(pulls.mean()) < shared + 5 / np.sqrt(n) + 0.001 * sky / np.median(err)
    assert np.var(pulls) == pytest.approx(1, abs=5 * np.sqrt(2 / n) + 0.02)
    assert np.mean(np.abs(pulls) > 4) < 1e-3


def test_reference_pixels_help(uniform):
    """The weights take most of the 1/f noise that is common to the channels out."""
    noise = {"U_PINK": 0.0, "RU_PINK": 0.1, "amp33": 1.0, "C_PINK": 8.0}
    sim, quiet = uniform(noise=noise), uniform(noise=noise | {"C_PINK": 0.0})
    spread = {}
    for name, args in {
        "as it is": (sim, False), "corrected": (sim, True), "without": (quiet, False)
    }.items():  # fmt: skip
        exposure, correct = args
        rate, _ = plain.calibrate(exposure, times(), 0.4, correct=correct)
        rows = rate.reshape(SIDE - 8, -1, 62).mean(-1)  # half a channel's rows
        spread[name] = float(np.var(rows))
    more = {name: value - spread["without"] for name, value in spread.items()}
    assert more["as it is"] > 3 * spread["without"]
    assert more["corrected"] < 0.2 * more["as it is"]


def test_with_all_noise(uniform):
    """With 1/f noise, corrected: the median is right and the scatter little more than err."""
    sim = uniform()
    rate, err = plain.calibrate(sim, times(), 0.4)
    pulls = (rate - true_rate(sim)) / err
    assert abs(np.median(rate - true_rate(sim))) < 0.02
    assert 0.95 < np.mean(pulls**2) < 1.3


# --- pointing -----------------------------------------------------------------------------------


def turn(axis, degrees):
    """Matrix that turns the axes of coordinates about one of them."""
    s, c = np.sin(np.deg2rad(degrees)), np.cos(np.deg2rad(degrees))
    i, j = [k for k in range(3) if k != axis]
    out = np.eye(3)
    out[i, i] = out[j, j] = c
    out[i, j], out[j, i] = (-s, s) if axis == 1 else (s, -s)
    return out


@pytest.mark.parametrize("dither", [None, (7.0, -12.0)])
def test_pointing_gives_the_same_sky(uniform, dither):
    sim = uniform(dither=dither)
    with asdf.open(sim.caldir["distortion"]) as file:
        model = file["roman"]["coordinate_distortion_transform"]
        y, x = (a.ravel() for a in np.mgrid[0:247:9j, 0:247:9j])
        v2, v3 = model(x, y)
        back = model.inverse(v2, v3)
    np.testing.assert_allclose(back, [x, y], atol=1e-4)
    info = plain.load(sim.l1)["meta"]["wcsinfo"]
    a, b = np.deg2rad(v2 / 3600), np.deg2rad(v3 / 3600)
    vector = np.array([np.cos(a) * np.cos(b), np.sin(a) * np.cos(b), np.sin(b)])
    angles = [
        (2, info["v2_ref"] / 3600), (1, -info["v3_ref"] / 3600), (0, info["roll_ref"]),
        (1, info["dec_ref"]), (2, -info["ra_ref"]),
    ]  # fmt: skip
    for axis, angle in angles:
        vector = turn(axis, angle) @ vector
    ra = np.rad2deg(np.arctan2(vector[1], vector[0])) % 360
    dec = np.rad2deg(np.arcsin(vector[2]))
    from roman_dask_l2.simulation.wcs import astropy_wcs, wcs_cards

    sky = astropy_wcs(wcs_cards(SIDE, dither)).all_pix2world(x, y, 0)
    assert isinstance(astropy_wcs(wcs_cards(SIDE)), WCS)
    np.testing.assert_allclose([ra, dec], sky, atol=1e-8)


def test_pattern_that_starts_late_and_reference_read(uniform):
    """The reference read subtracted on board can be put back."""
    sim = uniform(reference_read=5000)
    with datamodels.open(sim.l1) as model:
        model.validate()
        assert model.meta.instrument.data_encoding_offset == 5000
        assert [list(r) for r in model.meta.exposure.read_pattern][0] == [2]
        restored = model.data.astype(int) + model.reference_read - 5000
    usual = plain.load(uniform().l1)
    np.testing.assert_array_equal(restored, np.asarray(usual["data"])[1:])


def test_constants_hold_the_range():
    """Curvatures that pixels may have keep the raw signal rising over its range."""
    low, high = observatory_detector.CURVATURE
    z = np.linspace(0, observatory_detector.RANGE, 100) / observatory_detector.SCALE
    for c in (low, high):
        assert (1 - 2 * c * z + 3 * observatory_detector.CUBIC * z**2 > 0.5).all()
