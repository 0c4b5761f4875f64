"""Noise layers end to end: the same bits however they are made, and what the files hold."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import asdf
import numpy as np
import pytest
import yaml
from astropy.io import fits

from roman_dask_l2 import compat
from roman_dask_l2.cli.app import main
from roman_dask_l2.config.model import load_config
from roman_dask_l2.errors import InputError
from roman_dask_l2.io.spill import NotWritten, TempStore
from roman_dask_l2.products import base_ramp, layer_plan
from roman_dask_l2.products.level2 import calibrate
from roman_dask_l2.products.noise_commands import read_noise
from roman_dask_l2.products.noise_layers import generate_noise
from roman_dask_l2.simulation.simulate import simulate

LABELS = ["RP", "RS2", "Rz4S2C1", "O", "Prb2", "RaC2", "RaC2"]
PATTERN = [[0], [1], [2, 3], [4, 5, 6, 7], [8, 9, 10], [11]]


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory):
    """A small calibrated exposure with a NOISE block; not to be changed."""
    folder = tmp_path_factory.mktemp("noise")
    (folder / "scratch").mkdir()
    simulate(
        folder,
        side=256,
        seed=5,
        read_pattern=PATTERN,
        config={
            "SLICEOUT": True,
            "SKYORDER": 1,
            "NOISE": {"LAYER": LABELS, "TEMP": "scratch", "SEED": 15000, "OUT": "noise.asdf"},
        },
    )
    calibrate(folder / "config.yaml")
    return folder


@pytest.fixture
def case(calibrated, tmp_path):
    """A copy that a test may change."""
    folder = tmp_path / "case"
    shutil.copytree(calibrated, folder)
    return folder


def made(folder: Path, labels=None, how=None, **changes) -> np.ndarray:
    """The layers of a configuration with changed NOISE keys."""
    config = load_config(folder / "config.yaml")
    block = dict(config.raw["NOISE"], **changes)
    if labels is not None:
        block["LAYER"] = labels
    result = generate_noise(config.replace(NOISE=block), **(how or {}))
    with asdf.open(result.out, memmap=False, lazy_load=False) as file:
        return np.array(file["noise"])


@pytest.fixture(scope="module")
def reference(calibrated, tmp_path_factory):
    """The layers as they come by default."""
    folder = tmp_path_factory.mktemp("reference") / "case"
    shutil.copytree(calibrated, folder)
    return made(folder)


@pytest.mark.parametrize(
    "how",
    [
        {"tile": 192},
        {"tile": (256, 256), "threads": 1},
        {"tile": (100, 77), "threads": 2},
        {"tile": 128, "per_step": True},
        {"scheduler": "synchronous"},
    ],
    ids=str,
)
def test_same_bits_however_they_are_made(case, reference, how):
    assert np.array_equal(made(case, how=how), reference)


def test_layers_do_not_depend_on_each_other(case, reference):
    order = ["O", "RaC2", "RP", "Rz4S2C1"]
    there = [LABELS.index(label) for label in order]
    assert np.array_equal(made(case, order), reference[there])
    assert np.array_equal(made(case, ["Prb2"]), reference[[4]])


def test_equal_labels_differ_and_the_seed_changes_everything(case, reference):
    assert not np.array_equal(reference[5], reference[6])
    other = made(case, SEED=15001)
    for a, b in zip(other, reference, strict=True):
        assert np.mean(a == b) < 0.5


def test_no_nan_and_nothing_empty(reference):
    assert np.isfinite(reference).all()
    assert (reference.std(axis=(1, 2)) > 0).all()


def test_output_is_what_pyimcom_reads(case):
    made(case)
    with asdf.open(case / "noise.asdf") as file:
        assert list(file["config"]["NOISE"]["LAYER"]) == LABELS
        for j in range(len(LABELS)):
            assert file["noise"][j].shape == (248, 248)
        assert file["noise"].dtype == np.float32
        assert [s["label"] for s in file["statistics"]] == LABELS
        assert file["statistics"][2]["clipped"] > 0


def test_half_precision_and_fits(case, reference):
    config = load_config(case / "config.yaml").replace(NOISE_PRECISION=16, FITSOUT=True)
    result = generate_noise(config)
    with asdf.open(result.out) as file:
        assert file["noise"].dtype == np.float16
        largest = np.finfo(np.float16).max
        expected = np.clip(reference, -largest, largest).astype(np.float16)
        assert np.array_equal(file["noise"], expected)
    with fits.open(case / "noise_asdf_to.fits") as hdus:
        assert hdus[0].data.dtype.newbyteorder("=") == np.float32
        assert hdus[0].data.shape == reference.shape


def test_clipping_is_exact(case):
    plain, clipped = made(case, ["RC1"])[0], made(case, ["Rz2C1"])[0]
    with asdf.open(case / "noise.asdf") as file:
        fraction = file["statistics"][0]["clipped"]
    with asdf.open(case / "l2.asdf") as file:
        usable = np.array(file["roman"]["dq"]) & 1 == 0
    # Other labels are other streams: compare each with its own statistics.
    quarters = np.percentile(plain[usable], [25, 50, 75])
    q25, median, q75 = quarters
    assert (np.abs(plain - median) > 3 * (q75 - q25) / 1.34896).any()
    low, high = read_noise.clip_limits(tuple(quarters), 2.0)
    reach = 2 * (q75 - q25) / 1.34896
    assert (low, high) == (np.float32(median - reach), np.float32(median + reach))
    # Those that were outside are at the limits now. That another one falls on a limit is rare.
    ends = (clipped == clipped.min()) | (clipped == clipped.max())
    assert fraction == pytest.approx(ends.mean(), abs=3 / ends.size)
    assert (clipped == clipped.max()).sum() > 100
    # The quartiles, and so the limits, are those of the layer before it was clipped.
    quarters = np.percentile(clipped[usable], [25, 50, 75])
    assert read_noise.clip_limits(tuple(quarters), 2.0) == (clipped.min(), clipped.max())


def test_sky_is_subtracted(case):
    """RS1 has no plane left in its cell medians; sigma of one is 1.25 sigma / 30."""
    image = made(case, ["PS1"])[0]
    medians = np.median(image.reshape(8, 31, 8, 31).swapaxes(1, 2).reshape(8, 8, -1), axis=-1)
    v, u = np.meshgrid(np.linspace(-1, 1, 8), np.linspace(-1, 1, 8), indexing="ij")
    design = np.stack([np.ones(64), u.ravel(), v.ravel()], axis=-1)
    coefs = np.linalg.lstsq(design, medians.ravel(), rcond=None)[0]
    assert np.abs(coefs).max() < 5e-5  # unsubtracted: 3e-4 and more


@pytest.fixture(scope="module")
def white(tmp_path_factory):
    """An exposure whose detector has no 1/f noise and no defects."""
    folder = tmp_path_factory.mktemp("white")
    quiet = {"U_PINK": 0.0, "C_PINK": 0.0, "M_PINK": 0.0, "RU_PINK": 0.0}
    simulate(
        folder,
        side=384,
        conditions="plain",
        stars=0,
        cosmic_rays=0,
        noise=quiet,
        config={
            "SLICEOUT": True,
            "SKYORDER": None,
            "NOISE": {"LAYER": ["R"], "TEMP": ".", "SEED": 1, "OUT": "noise.asdf"},
        },
    )
    calibrate(folder / "config.yaml")
    return folder


@pytest.mark.parametrize("label", ["R", "Ra"])
def test_variance_of_read_noise_after_the_pipeline(white, label):
    """Against K^2 sigma^2 / N, amplified by the IPC correction and divided by the flat.

    Expected scatter of the mean square over 376^2 pixels: 0.4 %; the amplification is right to
    1 %. At 4 % a false alarm has less than one chance in a million.
    """
    image = made(white, [label])[0]
    with asdf.open(white / "cal/read.asdf") as file, asdf.open(white / "cal/ipc4d.asdf") as ipc:
        sigma = np.array(file["roman"]["data"])[4:-4, 4:-4] / np.array(ipc["roman"]["data"])[1, 1]
    with asdf.open(white / "l2.asdf") as file:
        info = file["processinfo"]
        k, n = np.array(info["weights"], float), np.array(info["meta"]["N"], float)
        read = np.sqrt((k**2 / n).sum())
    with asdf.open(white / "cal/flat.asdf") as file:
        flat = np.array(file["roman"]["data"])[4:-4, 4:-4]
    with asdf.open(white / "cal/linearitylegendre.asdf") as file:
        roman = file["roman"]
        # Slope of the linearity curve at the level of the dark, by which noise is multiplied.
        z = -0.98
        coef = np.array(roman["data"])[:, 4:-4, 4:-4]
        span = (np.array(roman["Smax"]) - np.array(roman["Smin"]))[4:-4, 4:-4]
        slope = np.polynomial.legendre.legval(z, np.polynomial.legendre.legder(coef)) * 2 / span
    ratio = np.median(np.abs(image)) / np.median(np.abs(sigma * read / flat * slope)) / 0.67449
    assert ratio**2 == pytest.approx(1, abs=0.06)
    assert abs(np.mean(image)) < 5 * image.std() / np.sqrt(image.size) + 0.003


def test_light_layers_spill_no_cube(case, monkeypatch):
    created = []
    create = TempStore.create

    def watched(self, name, *args):
        created.append(name)
        return create(self, name, *args)

    monkeypatch.setattr(TempStore, "create", watched)
    made(case, ["O", "PrS1"])
    assert not [name for name in created if name.startswith(("cube", "base", "read"))]
    created.clear()
    made(case, ["R", "RC1", "RC2", "P"])
    assert len([name for name in created if re.fullmatch("base-[0-9a-f]+", name)]) == 1


def test_old_style_temp_and_clean_up(case):
    scratch = case / "scratch"
    made(case, ["R"], TEMP=str(scratch / "Something.asdf"))
    assert list(scratch.iterdir()) == []
    made(case, ["R"], TEMP=str(scratch), how={"keep_temp": True})
    assert len(list(scratch.glob("roman-dask-l2-*.zarr"))) == 1


def test_store_is_removed_after_a_failure(case, monkeypatch):
    def fail(*args):
        raise RuntimeError("in the middle")

    monkeypatch.setattr(read_noise, "PlaneNoise", fail)
    with pytest.raises(RuntimeError, match="in the middle"):
        made(case, ["R"])
    assert list((case / "scratch").iterdir()) == []
    assert not (case / "noise.asdf").exists()


def set_noise(folder: Path, **changes) -> None:
    path = folder / "config.yaml"
    settings = yaml.safe_load(path.read_text())
    settings["NOISE"] |= changes
    path.write_text(yaml.safe_dump(settings))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"LAYER": ["RxS2"]}, ["RxS2", "x", "at position 2"]),
        ({"LAYER": ["PR"]}, ["PR", "at position 1"]),
        ({"TEMP": "nowhere/x.asdf"}, ["NOISE.TEMP", "nowhere"]),
        ({"TEMP": "/proc/x.asdf"}, ["NOISE.TEMP", "not writable"]),
        ({"OUT": "nowhere/noise.asdf"}, ["nowhere", "does not exist"]),
    ],
)
def test_bad_noise_block(case, capsys, changes, words):
    set_noise(case, **changes)
    assert main([str(case / "config.yaml"), "--quiet", "--noise-only"]) == 2
    error = capsys.readouterr().err
    for word in words:
        assert word in error
    assert not (case / "noise.asdf").exists()


@pytest.mark.parametrize(
    ("changes", "word"), [({"LAYER": ["Q"]}, "Q"), ({"TEMP": "/proc/x"}, "not writable")]
)
def test_a_wrong_noise_block_is_told_before_the_calibration(case, capsys, changes, word):
    (case / "l2.asdf").unlink()
    set_noise(case, **changes)
    assert main([str(case / "config.yaml"), "--quiet"]) == 2
    assert not (case / "l2.asdf").exists()
    assert word in capsys.readouterr().err


def test_a_calibration_alone_does_not_need_temp(case):
    (case / "l2.asdf").unlink()
    set_noise(case, TEMP="nowhere/x.asdf", OUT="nowhere/noise.asdf")
    assert main([str(case / "config.yaml"), "--quiet", "--no-noise"]) == 0
    assert (case / "l2.asdf").is_file()


def test_temp_too_small(case, capsys, monkeypatch):
    class Full:
        free = 1000

    monkeypatch.setattr("roman_dask_l2.io.spill.shutil.disk_usage", lambda path: Full)
    with pytest.raises(InputError, match="too little disk space"):
        made(case)


def test_noise_only_refuses_an_image_from_other_inputs(case, capsys):
    config = str(case / "config.yaml")
    assert main([config, "--quiet", "--noise-only"]) == 0
    capsys.readouterr()
    settings = yaml.safe_load((case / "config.yaml").read_text())
    settings["RAMP_OPT_PARS"] = {"slope": 1.0}
    (case / "config.yaml").write_text(yaml.safe_dump(settings))
    assert main([config, "--quiet", "--noise-only"]) == 2
    assert "other steps or options" in capsys.readouterr().err


def test_noise_only_needs_the_image(case, capsys):
    (case / "l2.asdf").unlink()
    assert main([str(case / "config.yaml"), "--quiet", "--noise-only"]) == 2
    assert "l2.asdf" in capsys.readouterr().err


def test_command_line_does_both_and_no_noise(case):
    (case / "l2.asdf").unlink()
    assert main([str(case / "config.yaml"), "--quiet", "--no-noise"]) == 0
    assert (case / "l2.asdf").is_file()
    assert not (case / "noise.asdf").exists()
    set_noise(case, LAYER=["P"])
    assert main([str(case / "config.yaml"), "--quiet"]) == 0
    assert (case / "noise.asdf").is_file()


def test_compat(case, monkeypatch):
    monkeypatch.chdir(case)
    config = yaml.safe_load((case / "config.yaml").read_text())
    config["NOISE"]["LAYER"] = ["RP"]
    config.pop("SLICEOUT")
    compat.calibrateimage(config | {"SLICEOUT": True})
    compat.generate_all_noise(config)
    assert (case / "noise.asdf").is_file()


def lose_results(monkeypatch, indices):
    """Layers whose statistics get lost once, with what they were made from dropped: what is left
    of a layer when the worker dies that has finished it."""
    finish, lost = layer_plan.finish_layer, set()

    def losing(layer, parts, place, *rest):
        finish(layer, parts, place, *rest)
        if place[0] in indices and place[0] not in lost:
            lost.add(place[0])
            raise NotWritten(f"chunk of layer {place[0]}")

    monkeypatch.setattr(layer_plan, "finish_layer", losing)


def test_lost_results_do_not_cost_the_layers(case, reference, monkeypatch, caplog):
    lose_results(monkeypatch, {1, 4})
    assert np.array_equal(made(case), reference)
    assert "are made again" in caplog.text


def test_no_endless_attempts(case, monkeypatch):
    """Not one layer finished: there is no reason to try again."""

    def fails(*_):
        raise NotWritten("chunk")

    monkeypatch.setattr(layer_plan, "finish_layer", fails)
    with pytest.raises(NotWritten):
        made(case)
    assert not (case / "noise.asdf").exists()
    assert list((case / "scratch").iterdir()) == []


def test_memory_of_planes_is_given_back(case):
    """Not kept through the calibrations that follow in a batch."""
    made(case, ["R"])
    assert not base_ramp._planes
    assert base_ramp._read_noise.cache_info().currsize == 0
