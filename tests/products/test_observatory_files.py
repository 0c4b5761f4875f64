"""Level-2 files without a sky model, with romancal's border, with a WCS from the pointing."""

from __future__ import annotations

import logging
import os
import textwrap
import warnings

import asdf
import numpy as np
import pytest
import roman_datamodels as rdm
import yaml
from astropy.io import fits
from astropy.modeling import models as m
from configuring import elsewhere

from roman_dask_l2.core.detector import Window
from roman_dask_l2.core.step import Tile
from roman_dask_l2.engine.kernels import measure, run_steps
from roman_dask_l2.errors import InputError
from roman_dask_l2.products.job import prepare
from roman_dask_l2.products.level2 import calibrate, l1_to_l2
from roman_dask_l2.products.noise_layers import generate_noise
from roman_dask_l2.report.two_files import compare_files
from roman_dask_l2.simulation.simulate import simulate

pytestmark = pytest.mark.usefixtures("blank_pictures")

SIDE, ACTIVE = 256, 248
LIKELIHOOD = ["dq_init", "saturation", "refpix", "dark_decay", "linearity", "dark",
              {"ramp_fit_likelihood": {"dark_noise": True}}, "flat", "mask", "medsky"]  # fmt: skip
FIXED = ["dq_init", "saturation", "refpix", "linearity", "dark", "ipc", "ramp_fit", "flat", "mask",
         "medsky"]  # fmt: skip


@pytest.fixture(scope="module")
def simulation(tmp_path_factory):
    return simulate(tmp_path_factory.mktemp("sim"), side=SIDE, seed=21, dark_decay=True)


@pytest.fixture
def configured(simulation, tmp_path):
    """``configured(steps, **keys)``: a configuration with a recipe of these steps."""

    def make(steps, layers=(), recipe=None, name="one", **keys):
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        path = folder / "mine.yaml"
        path.write_text(yaml.safe_dump({"name": "mine", "steps": steps, **(recipe or {})}))
        keys = {"SKYORDER": None, "GRAPH": str(path)} | keys
        return elsewhere(simulation, folder, layers, **keys)

    return make


def tree_of(path):
    with asdf.open(path, memmap=False, lazy_load=False) as file:
        return file.tree


@pytest.mark.parametrize("steps", [FIXED, LIKELIHOOD], ids=["fixed", "likelihood"])
def test_without_sky(steps, configured, caplog):
    """The image is the rate: that of the recipe with a sky step, bit for bit."""
    plain = calibrate(configured(steps, ["P", "Ra"], SKYORDER=2), tile="100x256")
    assert "SKYORDER: no effect, recipe mine has no such option" in caplog.text
    with_sky = calibrate(configured([*steps, "sky"], ["P", "Ra"], name="sky"))
    made, usual = tree_of(plain.out), tree_of(with_sky.out)
    assert "data_withsky" not in made["roman"]
    for name in ("data", "err", "dq", "var_poisson", "chisq", "dumo"):
        twin = "data_withsky" if name == "data" else name
        np.testing.assert_array_equal(made["roman"][name], usual["roman"][twin])
    np.testing.assert_array_equal(made["mask"], usual["mask"])
    assert made["processinfo"]["skyorder"] == -1
    assert made["processinfo"]["medsky"] == usual["processinfo"]["medsky"] == plain.medsky
    with fits.open(plain.fits) as copy:
        np.testing.assert_array_equal(copy[0].data, made["roman"]["data"])
        assert copy[0].header["UNILIGHT"] == "SOLID ANGLE"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        with rdm.open(plain.out) as model:
            assert isinstance(model, rdm.datamodels.ImageModel)
            model.validate()
    # Layers: without SKYORDER the sky step subtracts nothing, so they are the same ones.
    ours, theirs = (
        tree_of(generate_noise(made.out.parent / "config.yaml").out)["noise"]
        for made in (plain, with_sky)
    )
    np.testing.assert_array_equal(ours, theirs)
    assert (np.std(ours, axis=(1, 2)) > 0).all()


def test_lazy_arrays_without_sky(configured):
    arrays = l1_to_l2(configured(FIXED))
    assert "data_withsky" not in arrays
    found = arrays["data"][50:60, 70:90].compute()
    image = tree_of(calibrate(configured(FIXED)).out)["roman"]["data"]
    np.testing.assert_array_equal(found, image[50:60, 70:90])
    assert arrays["data"].dtype == np.float32


def test_reports_without_sky(configured):
    from roman_dask_l2.report import write_report

    config = configured(FIXED, ["P"])
    made = calibrate(config)
    generate_noise(config)
    page = write_report(config)
    assert "No sky was subtracted" in page.read_text()
    assert made.out.parent in page.parents


def ramp_after(config):
    """The ramp as all steps have left it, and what dq_init made, on the whole frame at once."""
    job = prepare(config)
    last = max(i for i, b in enumerate(job.steps) if "ramp" in b.step.writes)
    steps, tile = job.steps[: last + 1], Tile(Window(0, SIDE, 0, SIDE), SIDE)
    first = run_steps(steps[:1], {}, tile, job.inputs, {})
    have = run_steps(steps, {}, tile, job.inputs, measure(steps, job.inputs))
    return have["ramp"], first


@pytest.mark.parametrize("per_step", [False, True])
def test_border_as_romancal_keeps_it(configured, per_step):
    config = configured(LIKELIHOOD, recipe={"border": "romancal_1.1"})
    made = calibrate(config, tile="64x100", per_step=per_step)
    ramp, first = ramp_after(config)
    raw, flags, roman = first["ramp"], first["pixeldq"], tree_of(made.out)["roman"]
    for edge, planes, dq in (
        ("left", ramp[:, :, :4], flags[:, :4]),
        ("right", ramp[:, :, -4:], flags[:, -4:]),
        ("top", raw[:, :4], flags[:4]),
        ("bottom", raw[:, -4:], flags[-4:]),
    ):
        np.testing.assert_array_equal(roman[f"border_ref_pix_{edge}"], planes)
        np.testing.assert_array_equal(roman[f"dq_border_ref_pix_{edge}"], dq)
    assert (ramp[:, :, :4] != raw[:, :, :4]).any()


OUTPUT = """
    from roman_dask_l2.core.step import Reduction, Step

    def combine(partials, amp33, *, params):
        return {"amp33": amp33 // 2}

    def nothing():
        return ()

    step = Step(name="refpix_irrc", kernel=nothing, reduction=Reduction(
        windows=lambda exposure, params: [], partial=nothing, combine=combine, reads=(),
        whole={"amp33": "l1.amp33"}))
"""


def test_output_as_the_correction_leaves_it(configured, simulation, tmp_path, monkeypatch):
    (tmp_path / "halved_output.py").write_text(textwrap.dedent(OUTPUT))
    monkeypatch.syspath_prepend(tmp_path)
    as_read = tree_of(simulation.l1)["roman"]["amp33"]
    for steps, expected in (
        (FIXED, as_read),
        ([*FIXED[:3], "halved_output:step", *FIXED[3:]], as_read // 2),
    ):
        made = calibrate(configured(steps))
        np.testing.assert_array_equal(tree_of(made.out)["roman"]["amp33"], expected)


def test_first_resultant(configured):
    """A recipe may fit it; the configuration comes first."""
    rates = {}
    for recipe in (True, False):
        for given in (None, True, False):
            config = configured(FIXED, recipe={"exclude_first": recipe}, EXCLUDE_FIRST=given)
            tree = tree_of(calibrate(config).out)
            wanted = recipe if given is None else given
            assert tree["processinfo"]["exclude_first"] is wanted
            assert tree["processinfo"]["provenance"]["recipe"]["exclude_first"] is wanted
            rates.setdefault(wanted, []).append(tree["roman"]["data"])
    for images in rates.values():
        for image in images[1:]:
            np.testing.assert_array_equal(image, images[0])
    assert (rates[True][0] != rates[False][0]).any()


def distortion():
    scale, middle = 0.11, (ACTIVE - 1) / 2
    turn = m.AffineTransformation2D(scale * np.array([[0.6, -0.8], [-0.8, -0.6]]))
    return m.Shift(-middle) & m.Shift(-middle) | turn | m.Shift(1300.0) & m.Shift(-900.0)


@pytest.fixture
def pointed(simulation, configured, tmp_path):
    """``pointed(steps)``: a configuration whose WCS can come from the pointing alone."""
    path = tmp_path / "distortion.asdf"
    asdf.AsdfFile({"roman": {"coordinate_distortion_transform": distortion()}}).write_to(path)
    l1 = tmp_path / "l1.asdf"
    info = {"v2_ref": 1300.0, "v3_ref": -900.0, "ra_ref": 35.0, "dec_ref": -28.0, "roll_ref": 30.0}

    def make(steps, **keys):
        with asdf.open(simulation.l1, memmap=False, lazy_load=False) as file:
            file["roman"]["meta"]["wcsinfo"].update(info)
            file["roman"]["meta"]["velocity_aberration"]["scale_factor"] = 1.00005
            if "meta_wcs" in keys:
                file["roman"]["meta"]["wcs"] = keys.pop("meta_wcs")
            file.write_to(l1)
        config = configured(steps, **({"IN": str(l1), "FITSWCS": None} | keys))
        raw = yaml.safe_load(config.read_text())
        raw["CALDIR"]["distortion"] = os.fspath(path)
        config.write_text(yaml.safe_dump(raw))
        return config, path

    return make


@pytest.mark.parametrize("steps", [FIXED, [*FIXED, "assign_wcs"]], ids=["plain", "step"])
def test_wcs_from_the_pointing(steps, pointed):
    config, path = pointed(steps)
    made = calibrate(config)
    meta = tree_of(made.out)["roman"]["meta"]
    middle = (ACTIVE - 1) / 2
    assert np.abs(np.subtract(meta["wcs"](middle, middle), (35, -28))).max() < 1e-9
    assert meta["wcs"].available_frames == ["detector", "v2v3", "v2v3vacorr", "world"]
    back = meta["wcs"].invert(*meta["wcs"](10.0, 20.0))
    assert np.abs(np.subtract(back, (10, 20))).max() < 1e-6
    assert meta["ref_file"]["distortion"] == path.name
    assert meta["cal_step"]["assign_wcs"] == "COMPLETE"
    assert meta["wcsinfo"]["s_region"].startswith("POLYGON ICRS")
    assert meta["wcsinfo"]["ra_ref"] == 35.0


def test_which_wcs_is_taken(pointed, simulation):
    """FITSWCS first, then meta.wcs unless the recipe takes none, then the pointing."""
    given = prepare(simulation.config).wcs
    header = os.path.join(simulation.config.parent, "wcs.txt")
    own = given.gwcs(ACTIVE)
    from_pointing = [*FIXED, {"assign_wcs": {"level1": False}}]
    config, _ = pointed(from_pointing, FITSWCS=header)
    assert prepare(config).wcs.sky(3, 4) == given.sky(3, 4)
    config, _ = pointed(FIXED, meta_wcs=own)
    assert np.allclose(prepare(config).wcs.sky(3, 4), given.sky(3, 4), rtol=0, atol=1e-9)
    config, _ = pointed(from_pointing, meta_wcs=own)
    job = prepare(config)
    assert job.wcs.distortion is not None
    assert abs(job.wcs.sky(3, 4)[0] - given.sky(3, 4)[0]) > 0.1
    raw = yaml.safe_load(config.read_text())
    del raw["CALDIR"]["distortion"]
    config.write_text(yaml.safe_dump(raw))
    with pytest.raises(InputError, match="CALDIR.distortion: missing, expected a file from which"):
        prepare(config)


def test_broken_distortion(pointed, capsys):
    from roman_dask_l2.cli.app import main

    config, path = pointed(FIXED)
    path.write_bytes(path.read_bytes()[:200])
    assert main([os.fspath(config)]) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert len([line for line in said if "CALDIR.distortion" in line]) == 1
    assert "Traceback" not in "".join(said)
    assert not (config.parent / "l2.asdf").exists()


def test_compared_with_sky(configured):
    """The image that only one of two files has is told, the others are compared."""
    one = calibrate(configured(FIXED)).out
    two = calibrate(configured([*FIXED, "sky"], name="sky", SKYORDER=1)).out
    found = {a.name: a for a in compare_files(one, two).arrays}
    assert found["data_withsky"].wrong == "only in the second file"
    assert found["err"].same
    assert found["data"].differ > 0


PHOT = {"F158": {"photmjsr": 0.5, "uncertainty": 0.01, "pixelareasr": 2.8e-13, "window": None}}


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        (PHOT, (0.5, 0.01, 2.8e-13)),
        ({"F158": dict.fromkeys(PHOT["F158"])}, (None, None, None)),
        ({"F062": PHOT["F158"]}, (-999999,) * 3),
        (None, (-999999,) * 3),
    ],
    ids=["there", "null", "no entry", "no file"],
)
def test_photometry_and_statistics(table, expected, configured, tmp_path, caplog):
    steps = [*FIXED, "photom", "statistics"]
    config = configured(steps)
    if table is not None:
        path = tmp_path / "photom.asdf"
        asdf.AsdfFile({"roman": {"phot_table": table}}).write_to(path)
        raw = yaml.safe_load(config.read_text())
        raw["CALDIR"]["photom"] = os.fspath(path)
        config.write_text(yaml.safe_dump(raw))
    with caplog.at_level(logging.WARNING):
        made = calibrate(config)
    tree = tree_of(made.out)
    meta, roman = tree["roman"]["meta"], tree["roman"]
    keys = ("conversion_megajanskys", "conversion_megajanskys_uncertainty", "pixel_area")
    assert tuple(meta["photometry"][key] for key in keys) == expected
    assert meta["cal_step"]["photom"] == ("SKIPPED" if table is None else "COMPLETE")
    assert meta["ref_file"]["photom"] == ("N/A" if table is None else "photom.asdf")
    err = np.asarray(roman["err"], np.float32)
    good = np.isfinite(roman["data"]) & ((roman["dq"] & 1) == 0) & (err > 0)
    middle = np.median(roman["data"][good])
    assert meta["statistics"]["image_median"] == pytest.approx(middle, rel=1e-6)
    rms = 1.4826 * np.median(np.abs(roman["data"][good] - middle))
    assert meta["statistics"]["image_rms"] == pytest.approx(rms, rel=1e-5)
    assert meta["statistics"]["good_pixel_fraction"] == pytest.approx(good.mean(), rel=1e-6)
    assert meta["statistics"]["zodiacal_light"] == -1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        with rdm.open(made.out) as model:
            model.validate()
