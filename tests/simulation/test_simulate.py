"""The simulator: valid files, repeatable, the conditions it claims, right noise, right truth.

Statistical tests allow 5 standard deviations of what they measure: with free seeds fewer than one
run in a million would fail; the seeds are fixed, so a failure is a change.
"""

from __future__ import annotations

import asdf
import numpy as np
import pytest
import yaml
from astropy.io import fits
from astropy.wcs import WCS
from numpy.polynomial import legendre
from rewriting import rewrite_array
from roman_datamodels import datamodels

from roman_dask_l2.core.detector import OMEGA_IDEAL, Window
from roman_dask_l2.core.dq import GROUP, MASK_GROWTH, PIXEL
from roman_dask_l2.core.pixel_times import pixel_times
from roman_dask_l2.errors import InputError
from roman_dask_l2.simulation import readout, settings
from roman_dask_l2.simulation.settings import ALL, CONDITIONS, GAIN, NOISE
from roman_dask_l2.simulation.simulate import simulate

SILENT = dict.fromkeys(NOISE, 0.0)
ACTIVE = np.s_[..., 4:-4, 4:-4]


def tree(path, branch="roman"):
    with asdf.open(path, memmap=False, lazy_load=False) as file:
        return file[branch]


def array(path, *names):
    node = tree(path)
    for name in names:
        node = node[name]
    return np.asarray(node)


@pytest.fixture(scope="module")
def everything(tmp_path_factory):
    return simulate(tmp_path_factory.mktemp("all"), side=256, seed=3)


@pytest.fixture(scope="module")
def exposure(everything):
    """L1, truth and references of the simulation with all conditions."""
    files = {key: tree(path) for key, path in everything.caldir.items()}
    return tree(everything.l1), tree(everything.truth, "truth"), files


# --- files --------------------------------------------------------------------------------------


def check_l1(path, shape, pattern):
    with datamodels.open(path) as model:
        assert isinstance(model, datamodels.ScienceRawModel)
        model.validate()
        assert model.data.shape == shape
        assert model.data.dtype == np.uint16
        assert model.amp33.shape == (shape[0], shape[1], 128)
        assert [list(reads) for reads in model.meta.exposure.read_pattern] == pattern
        assert model.meta.exposure.nresultants == shape[0]


def test_l1_is_valid(everything):
    check_l1(everything.l1, (8, 256, 256), settings.READ_PATTERN)


def test_configuration_is_complete(everything):
    config = yaml.safe_load(everything.config.read_text())
    files = [config["IN"], config["FITSWCS"], *config["CALDIR"].values()]
    assert all((everything.directory / name).is_file() for name in files)
    required = {"dark", "gain", "ipc4d", "linearitylegendre", "mask", "read", "saturation", "flat"}
    assert set(config["CALDIR"]) == required | {"biascorr"}


@pytest.mark.parametrize(
    ("side", "pattern"),
    [
        (384, [[0, 1], [2], [3, 4, 5], [6]]),
        (256, [[1], [2, 3], [6, 7, 8, 9], [12]]),  # starts late, leaves frames out
        (640, [[0], [1], [2]]),
    ],
)
def test_any_side_and_pattern(tmp_path, side, pattern):
    sim = simulate(tmp_path, side=side, read_pattern=pattern)
    check_l1(sim.l1, (len(pattern), side, side), pattern)
    reached = tree(sim.truth, "truth")["saturated_at"]
    assert set(range(len(pattern))) <= set(np.unique(reached))


def test_seed_and_threads(tmp_path, everything):
    same = simulate(tmp_path / "same", side=256, seed=3, threads=1)
    other = simulate(tmp_path / "other", side=256, seed=4)
    l1 = tree(everything.l1)
    for name in ("data", "amp33"):
        np.testing.assert_array_equal(l1[name], array(same.l1, name))
        assert np.mean(l1[name] != array(other.l1, name)) > 0.9
    for key, path in everything.caldir.items():
        for name in ("data", "dq", "dark_slope", "resetnoise"):
            if name in tree(path):
                np.testing.assert_array_equal(array(path, name), array(same.caldir[key], name))


def test_one_thing_more_does_not_shift_the_others(tmp_path, everything):
    plain = simulate(tmp_path, side=256, seed=3, conditions="plain")
    equal = array(plain.l1, "data") == array(everything.l1, "data")
    assert equal[:, :4].all()  # border pixels: noise only
    assert equal.mean() > 0.8  # all but the light of added stars
    same = array(plain.caldir["gain"], "data") == array(everything.caldir["gain"], "data")
    assert np.count_nonzero(~same) == 8  # the condition's own


@pytest.mark.parametrize("how", ["float64", "big-endian", "quantity", "zlib", "bzp2+float64"])
def test_array_formats(tmp_path, how, everything):
    packed = "zlib" in how or "bzp2" in how  # takes its time
    keys = ["gain", "dark"] if packed else [k for k in everything.caldir if k != "mask"]
    sim = simulate(tmp_path, side=256, seed=3, array_format=dict.fromkeys(keys, how))
    for key in keys:
        with asdf.open(sim.caldir[key]) as file:
            stored = file["roman"]["data"]
            if how == "quantity":
                assert stored.unit is not None
                stored = stored.value
            assert stored.dtype.itemsize == (8 if "float64" in how else 4)
            assert (stored.dtype.byteorder == ">") == (how == "big-endian")
            np.testing.assert_array_equal(stored, array(everything.caldir[key], "data"))
            compression = file.get_array_compression(file["roman"]["data"])
            assert compression == (how.split("+")[0] if packed else None)


def test_bad_options(tmp_path):
    for bad in (
        {"side": 300},
        {"conditions": "nonsense"},
        {"read_pattern": [[0], [2], [1]]},
        {"read_pattern": [[0], [1]]},
        {"array_format": {"gain": "float16"}},
        {"array_format": {"dark_decay": "zlib"}},
        {"wcs": "none"},
        {"wfi18_transient": True},
    ):
        with pytest.raises(InputError):
            simulate(tmp_path, **({"side": 256, "conditions": "plain"} | bad))


def test_rewrite_array(tmp_path):
    path = tmp_path / "x.asdf"
    content = {"data": np.arange(4.0), "amp33": {"med": np.zeros(3), "valid": True}}
    asdf.AsdfFile({"roman": content}).write_to(path)
    rewrite_array(path, "data", lambda a: a + 1)
    rewrite_array(path, "amp33.med", None)
    np.testing.assert_array_equal(array(path, "data"), np.arange(4) + 1)
    assert list(tree(path)["amp33"]) == ["valid"]


# --- conditions ---------------------------------------------------------------------------------


def places(truth, condition):
    return tuple(np.asarray(truth["conditions"][condition]).T)


def test_saturation(exposure):
    l1, truth, files = exposure
    raw, limit = l1["data"], files["saturation"]["data"]
    above = raw >= limit
    first = np.where(above.any(axis=0), above.argmax(axis=0), -1)
    np.testing.assert_array_equal(first, truth["saturated_at"])
    assert set(first[ACTIVE].ravel()) == set(range(-1, 8))
    clean = [s for s in truth["saturating_stars"] if not s["amid"]]
    assert {s["resultant"] for s in clean} == set(range(8))
    for star in clean:
        assert first[star["y"], star["x"]] == star["resultant"]
    amid = [s for s in truth["saturating_stars"] if s["amid"]]
    assert {s["resultant"] for s in amid} == {2, 3, 4, 5, 6}
    for star in amid:  # full before the last of its reads, above threshold one later at the latest
        assert first[star["y"], star["x"]] in (star["resultant"], star["resultant"] + 1)
    assert first[4].max() > 0
    assert first[-5, -5] > 0
    # a resultant in which a pixel fills up stays below threshold, but on the way
    y, x = np.nonzero(first[ACTIVE] == 7)
    assert y.size


def test_ad_floor(exposure):
    l1, truth, _ = exposure
    y, x = places(truth, "ad_floor")
    zero = (l1["data"][:, y, x] == 0).T
    np.testing.assert_array_equal(zero[0::3], True)
    np.testing.assert_array_equal(zero[1::3], [np.arange(8) == 4] * 3)
    np.testing.assert_array_equal(zero[2::3], [np.arange(8) >= 4] * 2)


def test_off_range(exposure):
    l1, truth, files = exposure
    y, x = places(truth, "off_range")
    lin = files["linearitylegendre"]
    signal = l1["data"][:, y, x] - files["biascorr"]["data"][:, y - 4, x - 4]
    z = -1 + 2 * (signal - lin["Smin"][y, x]) / (lin["Smax"] - lin["Smin"])[y, x]
    assert (truth["saturated_at"][y, x] == -1).all()
    assert (z[-1, 0:-2:2] > 2).all()
    assert (z[1, 1::2] < -1).all()
    assert (z[-1, 1:-2:2] > -1).all()
    assert (z[:, -1] < -1).all()  # all the way


def test_reference_conditions(exposure):
    _, truth, files = exposure
    assert {c for c in ALL if c != "guide_window"} == set(truth["conditions"])
    y, x = places(truth, "no_sat_check")
    limit, dq = files["saturation"]["data"][y, x], files["saturation"]["dq"][y, x]
    assert np.isnan(limit[0::2]).all()
    assert (dq[1::2] == PIXEL["NO_SAT_CHECK"]).all()
    flat = files["flat"]["data"][places(truth, "flat")]
    assert {(f < 0.1, f > 10) for f in flat} == {(True, False), (False, True)}
    assert (files["gain"]["data"][places(truth, "gain")] <= np.float32(0.1)).all()
    assert files["dark"]["dark_slope"][places(truth, "hot")].min() > 8
    assert (files["dark"]["dq"][places(truth, "hot")] & PIXEL["HOT"]).all()
    assert (files["mask"]["dq"][places(truth, "hot")] == PIXEL["HOT"]).all()
    assert (files["mask"]["dq"][places(truth, "dead")] == PIXEL["DEAD"]).all()
    assert (files["dark"]["dq"][places(truth, "dark_dq")] > 0).all()
    flagged = set(files["mask"]["dq"][places(truth, "masked")])
    assert flagged == {PIXEL[flag] for flag in MASK_GROWTH}
    flagged = set(files["linearitylegendre"]["dq"][places(truth, "linearity_dq")])
    assert flagged == {PIXEL[f] for f in ("NO_LIN_CORR", "REFERENCE_PIXEL", "NONLINEAR")}
    for key in ("mask", "linearitylegendre"):
        border = (files[key]["dq"] & PIXEL["REFERENCE_PIXEL"]) > 0
        assert border[:4].all()
        assert border[:, -4:].all()


def test_light_on_hot_and_dead_pixels(exposure):
    l1, truth, files = exposure
    ramp = l1["data"][7].astype(float) - l1["data"][1]
    background = np.median(ramp[ACTIVE])
    assert (ramp[places(truth, "hot")] > background + 200).all()
    assert truth["saturated_at"][places(truth, "hot")].max() >= 0
    # IPC brings 6.8 % from the neighbours; read noise is 9 DN
    assert abs(np.mean(ramp[places(truth, "dead")])) < 0.068 * background + 5 * 9.2 / np.sqrt(8)


def test_dropout_and_guide_window(exposure):
    l1, truth, _ = exposure
    dq = l1["resultantdq"]
    assert dq.dtype == np.uint8
    assert (dq[4][places(truth, "dropout")] == GROUP["DROPOUT"]).all()
    assert np.count_nonzero(dq) == len(truth["conditions"]["dropout"])
    star = l1["meta"]["guide_star"]
    window = [star[f"window_{name}"] for name in ("xstart", "xstop", "ystart", "ystop")]
    assert window == truth["guide_window"] == [120, 136, 120, 136]


def test_guide_window_edge_and_own(tmp_path):
    sim = simulate(tmp_path / "a", side=256, conditions="guide_window_edge")
    assert tree(sim.truth, "truth")["guide_window"] == [0, 16, 240, 256]
    sim = simulate(tmp_path / "b", side=256, conditions="plain", guide_window=(5, 9, 7, 11))
    assert tree(sim.l1)["meta"]["guide_star"]["window_ystop"] == 11


def test_nan_reference(tmp_path):
    sim = simulate(tmp_path, side=256, conditions="nan_reference")
    for (key, name), (y, x) in zip(
        settings.NAN_ARRAYS, tree(sim.truth, "truth")["conditions"]["nan_reference"], strict=True
    ):
        values = array(sim.caldir[key], name)
        shift = 4 if values.shape[-1] == 248 else 0
        assert np.isnan(values[..., y - shift, x - shift]).all()
        assert np.isnan(values).sum() == np.prod(values.shape[:-2], dtype=int)


def test_conditions_keep_apart(exposure):
    _, truth, _ = exposure
    where = np.concatenate([np.asarray(v) for v in truth["conditions"].values()])
    distance = np.abs(where[:, None] - where).max(axis=-1)
    assert np.sort(distance, axis=0)[1].min() >= 12
    assert set(ALL) < set(CONDITIONS)


# --- other forms of the exposure ----------------------------------------------------------------


def test_reference_read(tmp_path, everything):
    sim = simulate(tmp_path, side=256, seed=3, reference_read=4000)
    check_l1(sim.l1, (7, 256, 256), settings.READ_PATTERN[1:])
    l1, whole = tree(sim.l1), tree(everything.l1)
    offset = l1["meta"]["instrument"]["data_encoding_offset"]
    assert offset == 4000
    for name, kept in (("data", "reference_read"), ("amp33", "reference_amp33")):
        back = l1[name].astype(int) + l1[kept] - offset
        unclipped = (l1[name] > 0) & (l1[name] < 65535)
        assert unclipped.mean() > 0.99
        np.testing.assert_array_equal(back[unclipped], whole[name][1:][unclipped])
    for key in ("dark", "biascorr"):
        assert array(sim.caldir[key], "data").shape[0] == 8
    before = tree(everything.truth, "truth")["saturated_at"]
    after = np.where(before > 0, before - 1, np.minimum(before, 0))
    np.testing.assert_array_equal(tree(sim.truth, "truth")["saturated_at"], after)


@pytest.mark.parametrize(("offset", "extra", "planes"), [(None, True, 9), (100, False, 7)])
def test_extra_plane(tmp_path, everything, offset, extra, planes):
    sim = simulate(tmp_path, side=256, seed=3, reference_read=offset, extra_plane=extra)
    for key in ("dark", "biascorr"):
        cube, usual = array(sim.caldir[key], "data"), array(everything.caldir[key], "data")
        assert cube.shape[0] == planes
        np.testing.assert_array_equal(cube[-7:], usual[-7:])


def test_without_amp33_and_biascorr(tmp_path):
    sim = simulate(tmp_path, side=256, conditions="plain", amp33=False, biascorr=False)
    assert "amp33" not in tree(sim.caldir["read"])
    assert "biascorr" not in sim.caldir


@pytest.mark.parametrize("wcs", ["gwcs", "l1"])
def test_gwcs_is_the_fits_wcs(tmp_path, wcs):
    sim = simulate(tmp_path, side=256, conditions="plain", wcs=wcs)
    config = yaml.safe_load(sim.config.read_text())
    assert "FITSWCS" not in config
    assert ("GWCS" in config) == (wcs == "gwcs")
    with asdf.open(sim.gwcs or sim.l1) as file:
        gwcs = file["wcs"] if sim.gwcs else file["roman"]["meta"]["wcs"]
        x, y = np.meshgrid([0.0, 100.0, 247.0], [0.0, 31.0, 247.0])
        header = fits.Header.fromstring(sim.fitswcs.read_text())
        expected = WCS(header).all_pix2world(x, y, 1)  # CRPIX counts from 0
        np.testing.assert_allclose(gwcs(x, y), expected, rtol=0, atol=1e-11)
    if wcs == "l1":
        check_l1(sim.l1, (8, 256, 256), settings.READ_PATTERN)


def test_decaying_signals(tmp_path):
    still = {"side": 256, "conditions": "plain", "detector": "WFI18", "noise": SILENT}
    still |= {"read_pattern": [[0, 1], [2], [3, 4]], "frame_time": 0.5}
    base = simulate(tmp_path / "0", **still)
    decay = simulate(tmp_path / "1", **still, dark_decay=True)
    transient = simulate(tmp_path / "2", **still, wfi18_transient=True)
    t = pixel_times(18, 256, 0.5, Window(4, 252, 4, 252))
    reads = [[0, 1], [2], [3, 4]]

    def raw(sim):
        return array(sim.l1, "data").astype(float)[ACTIVE]

    table = tree(decay.caldir["dark_decay"])["decay_table"]["WFI18"]
    for j, read in enumerate(reads):
        late = np.array([t + (f - 1.5) * 0.5 for f in read])
        expected = np.mean(table["amplitude"] * np.exp(-late / table["time_constant"]), axis=0)
        assert abs(raw(decay)[j] - raw(base)[j] - expected).max() <= 1  # rounding
    late = np.array([t, t + 0.5])
    expected = np.mean(60 * np.exp(-late / 0.35) - 6 * np.exp(-late / 1.2), axis=0)
    difference = raw(transient) - raw(base)
    assert abs(difference[0] - expected).max() <= 1
    assert not difference[1:].any()


@pytest.mark.parametrize(("number", "side"), [(1, 256), (3, 384)])
def test_read_times(number, side):
    expected = pixel_times(number, side, 0.4, Window(4, side - 4, 4, side - 4))
    ours = readout.read_times(side, f"WFI{number:02d}", 0.4)
    np.testing.assert_allclose(ours, expected, rtol=1e-6)


# --- numbers ------------------------------------------------------------------------------------


def unshare(kernel, gain, signal):
    """Undo IPC, to convergence; arrays of the active pixels, in DN."""
    charge = gain * signal
    n, out = charge.shape[-1], charge.copy()
    for _ in range(12):
        padded = np.pad(kernel * out, ((0, 0), (0, 0), (1, 1), (1, 1)))
        moved = sum(
            padded[1 + dy, 1 + dx, 1 - dy : 1 - dy + n, 1 - dx : 1 - dx + n]
            for dy in (-1, 0, 1)
            for dx in (-1, 0, 1)
        )
        out = out + charge - moved
    return out / gain


def small_pipeline(sim):
    """Charge ramp (DN_lin, no refpix), flat over area, mean times, gain: plain NumPy, float64."""

    def active(key, name="data"):
        return array(sim.caldir[key], name).astype(float)[ACTIVE]

    model, lin = tree(sim.l1), "linearitylegendre"
    exposure = model["meta"]["exposure"]
    t = np.array([np.mean(r) for r in exposure["read_pattern"]]) * exposure["frame_time"]
    raw = model["data"].astype(float)[ACTIVE] - array(sim.caldir["biascorr"], "data")
    z = -1 + 2 * (raw - active(lin, "Smin")) / (active(lin, "Smax") - active(lin, "Smin"))
    ramp = np.array([legendre.legval(plane, active(lin), tensor=False) for plane in z])
    ramp -= t[:, None, None] * active("dark", "dark_slope")
    kernel, gain = array(sim.caldir["ipc4d"], "data").astype(float), active("gain")
    ramp = np.array([unshare(kernel, gain, plane) for plane in ramp])
    x, y = np.meshgrid(np.arange(z.shape[-1]), np.arange(z.shape[-1]))
    wcs = WCS(fits.Header.fromstring(sim.fitswcs.read_text()))

    def unit_vector(x, y):
        ra, dec = np.deg2rad(wcs.all_pix2world(x, y, 1))
        return np.array([np.cos(dec) * np.cos(ra), np.cos(dec) * np.sin(ra), np.sin(dec)])

    along_x = unit_vector(x + 0.5, y) - unit_vector(x - 0.5, y)
    along_y = unit_vector(x, y + 0.5) - unit_vector(x, y - 0.5)
    area = np.linalg.norm(np.cross(along_x, along_y, axis=0), axis=0) / OMEGA_IDEAL
    return ramp, unshare(kernel, gain, active("flat")) / area, t, gain


@pytest.fixture(scope="module")
def quiet(tmp_path_factory):
    """Light alone: no noise but photons'; and its small reduction."""
    sim = simulate(
        tmp_path_factory.mktemp("quiet"), side=256, read_pattern=[[0], [4, 5], [10]], sky=30.0,
        conditions="plain", stars=40, cosmic_rays=0, noise=SILENT,
    )  # fmt: skip
    return tree(sim.truth, "truth")["rate"], *small_pipeline(sim)


def test_truth_is_what_a_pipeline_finds(quiet):
    rate, ramp, flat, t, gain = quiet
    found = (ramp[-1] - ramp[0]) / (t[-1] - t[0]) / flat
    error = np.sqrt(rate / (gain * flat) / (t[-1] - t[0]))
    pull = (found - rate) / error
    assert abs(pull.mean()) < 5 / np.sqrt(pull.size)
    assert abs(np.median(pull)) < 5 * 1.25 / np.sqrt(pull.size)
    edge = np.concatenate([pull[0], pull[-1], pull[:, 0], pull[:, -1]])
    assert abs(edge.mean()) < 5 / np.sqrt(edge.size)
    stars = pull[rate > 60]
    assert stars.size > 20
    assert abs(stars.mean()) < 5 / np.sqrt(stars.size)


def test_photons_are_poisson(quiet):
    rate, ramp, flat, t, gain = quiet
    expected = rate * flat * gain * (t[-1] - t[0])  # electrons
    charge = gain * (ramp[-1] - ramp[0])
    rounding = 2 / 12 * gain**2
    ratio = np.mean((charge - expected) ** 2 / (expected + rounding))
    assert abs(ratio - 1) < 5 * np.sqrt(2 / ratio.size / rate.size)
    # resultant 1 is the mean of reads 4 and 5: the light since read 0 counts 4 + 1/4 times
    part = gain * (ramp[1] - ramp[0])
    expected = rate * flat * gain * 3.04
    ratio = np.mean((part - 4.5 * expected) ** 2 / (4.25 * expected + rounding))
    assert abs(ratio - 1) < 5 * np.sqrt(2 / rate.size)
    pull = (part - 4.5 * expected) / np.sqrt(4.25 * expected + rounding)
    third = (4 + 1 / 8) / 4.25**1.5 / np.sqrt(expected)
    assert abs(np.mean(pull**3 - third)) < 5 * np.sqrt(15 / rate.size)


def test_read_and_reset_noise(tmp_path):
    noise = SILENT | {"read": 20.0, "reset": 40.0, "amp33": 15.0}
    sim = simulate(
        tmp_path, side=256, read_pattern=[[0], [1], [2, 3, 4, 5]], sky=0, stars=0, cosmic_rays=0,
        conditions="plain", noise=noise,
    )  # fmt: skip
    l1, read = tree(sim.l1), tree(sim.caldir["read"])
    noise = l1["data"] - array(sim.caldir["dark"], "data").astype(float)
    five = 5 * np.sqrt(2 / noise[0].size)
    assert abs(np.mean(read["data"] ** 2) / 20**2 - 1) < 1e-3
    for a, b, reads in ((0, 1, 1 + 1), (1, 2, 1 + 1 / 4)):  # reset noise drops out
        ratio = np.mean((noise[b] - noise[a]) ** 2 / (reads * read["data"] ** 2 + 2 / 12))
        assert abs(ratio - 1) < five + 0.002  # a little for the dark current's photons
    kept = np.mean(noise[:2], axis=0) / np.sqrt(read["resetnoise"] ** 2 + read["data"] ** 2 / 2)
    assert abs(np.mean(kept**2) - 1) < five + 0.002
    other = (l1["amp33"][2] - read["amp33"]["med"]) / np.hypot(read["amp33"]["std"] / 2, 12**-0.5)
    assert abs(np.mean(other**2) - 1) < 5 * np.sqrt(2 / other.size)


def test_pink_noise_has_one_over_f():
    blocks = [readout.pink_noise(np.random.default_rng(i), 256).ravel() for i in range(40)]
    power = np.mean([2 * abs(np.fft.rfft(b)) ** 2 / b.size**2 for b in blocks], axis=0)
    assert abs(np.mean(blocks)) < 1e-6
    for low in (32, 256, 2048, 8192):
        octave = power[low : 2 * low].sum()
        assert abs(octave / np.log(2) - 1) < 5 / np.sqrt(low * len(blocks)) + 0.5 / low


def test_pink_levels(tmp_path):
    noise = SILENT | {"C_PINK": 30.0, "U_PINK": 20.0, "M_PINK": 1.5, "RU_PINK": 25.0}
    sim = simulate(
        tmp_path, side=256, read_pattern=[[0], [1], [2, 3, 4, 5]], sky=0, stars=0, cosmic_rays=0,
        conditions="plain", noise=noise,
    )  # fmt: skip
    l1, read = tree(sim.l1), tree(sim.caldir["read"])
    noise = l1["data"] - array(sim.caldir["dark"], "data").astype(float)
    steps = np.diff(readout.pink_noise(np.random.default_rng(0), 1024).ravel())
    for j, reads in ((1, 1), (2, 4)):
        even, odd = noise[j, :, :128], noise[j, :, :127:-1]  # both in readout order
        other = l1["amp33"][j] - read["amp33"]["med"].astype(float)
        d = [np.diff(series.ravel()) for series in (even, odd, other)]
        unit = np.var(steps) / reads
        five = 5 / np.sqrt(d[0].size / 3)  # neighbouring steps are not independent
        for (a, b), level in {
            (0, 0): 30**2 + 20**2, (1, 1): 30**2 + 20**2, (0, 1): 30**2,
            (2, 2): 45**2 + 25**2, (0, 2): 30 * 45, (1, 2): 30 * 45,
        }.items():  # fmt: skip
            scale = np.sqrt(np.var(d[a]) * np.var(d[b])) / unit
            assert abs(np.mean(d[a] * d[b]) / unit - level) < five * scale


def test_cosmic_rays_are_where_the_truth_says(tmp_path):
    where = [(50, 60, 5, 5000), (4, 4, 1, 3000), (100, 200, 34, 8000)]
    common = {"side": 256, "conditions": "plain", "noise": SILENT, "sky": 0.4}
    hit = simulate(tmp_path / "hit", **common, cosmic_rays=where)
    none = simulate(tmp_path / "none", **common, cosmic_rays=0)
    table = tree(hit.truth, "truth")["cosmic_rays"]
    rows = np.array([table[name] for name in ("y", "x", "frame", "electrons")]).T
    np.testing.assert_array_equal(rows, where)
    ramp, _, _, gain = small_pipeline(hit)
    jump = (ramp - small_pipeline(none)[0]) * gain
    for y, x, frame, electrons in where:
        for j, reads in enumerate(settings.READ_PATTERN):
            seen = np.mean([f >= frame for f in reads])
            assert jump[j, y - 4, x - 4] == pytest.approx(seen * electrons, abs=3)
    assert np.count_nonzero(abs(jump[-1]) > 10) == 3


def test_default_cosmic_rays_and_saturating_light(exposure):
    _, truth, _ = exposure
    assert 10 < len(truth["cosmic_rays"]["y"]) < 300
    assert truth["rate"].shape == (248, 248)
    assert np.median(truth["rate"]) == pytest.approx(0.4, rel=0.1)
    assert GAIN == 1.8
