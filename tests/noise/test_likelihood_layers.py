"""Noise layers of an exposure that was fitted by maximum likelihood, from Level 1 to the layers."""

from __future__ import annotations

import re
import shutil

import asdf
import numpy as np
import pytest
import yaml
from rewriting import rewrite_array

from roman_dask_l2.cli.app import main
from roman_dask_l2.config.model import load_config
from roman_dask_l2.core.detector import Grid
from roman_dask_l2.core.dq import GROUP, PIXEL
from roman_dask_l2.engine.graph import build
from roman_dask_l2.errors import InputError
from roman_dask_l2.io.layout import read_layout
from roman_dask_l2.noise.difference_weights import difference_coefficients
from roman_dask_l2.noise.poisson import own_poisson_noise
from roman_dask_l2.products.block_noise import LikelihoodFit
from roman_dask_l2.products.job import prepare
from roman_dask_l2.products.layer_needs import check_needs
from roman_dask_l2.products.level2 import calibrate
from roman_dask_l2.products.noise_commands import poisson
from roman_dask_l2.products.noise_layers import generate_noise
from roman_dask_l2.simulation.simulate import simulate

SIDE = 256
LABELS = ["P", "Prb2", "O", "R", "RaC1", "RPS2", "Rz4S2C1", "PS1"]
FLAGGED, DEAD, EARLY = (60, 100), (np.s_[200:203], np.s_[40:43]), (130, 131)
"""A resultant in the middle is marked; saturated from the second resultant on, so no difference is
left; saturated from the sixth on, and so marked from the one before."""
EVERY_OTHER = np.s_[80, 150:160]
"""Every other resultant is marked: no difference, but resultants enough for no flag."""


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory):
    """A calibrated exposure with a NOISE block; not to be changed."""
    folder = tmp_path_factory.mktemp("likelihood")
    (folder / "scratch").mkdir()
    noise = {"LAYER": LABELS, "TEMP": "scratch", "SEED": 3, "OUT": "noise.asdf"}
    config = {"NOISE": noise, "SKYORDER": 1, "GRAPH": "l1_to_l2_likelihood", "SLICEOUT": True}
    made = simulate(folder, side=SIDE, seed=8, cosmic_rays=600, config=config)
    flags = np.zeros((8, SIDE, SIDE), np.uint8)
    flags[4][FLAGGED] = GROUP["DO_NOT_USE"]
    flags[2::2][:, *EVERY_OTHER] = GROUP["DO_NOT_USE"]

    def spoil(data):
        data[1:, *DEAD] = 65535
        data[5:, *EARLY] = 65535
        return data

    rewrite_array(made.l1, "data", spoil)
    rewrite_array(made.l1, "resultantdq", flags)
    calibrate(made.config)
    return made


@pytest.fixture
def case(calibrated, tmp_path):
    """A copy that a test may change."""
    folder = tmp_path / "case"
    shutil.copytree(calibrated.config.parent, folder)
    return folder


def full(values):
    """An array on active pixels with a border of zeros, so that indices are those of the L1."""
    values = np.array(values)
    return np.pad(values, [(0, 0)] * (values.ndim - 2) + [(4, 4), (4, 4)])


@pytest.fixture(scope="module")
def image(calibrated):
    """Arrays of the L2 file on the full frame."""
    config = load_config(calibrated.config)
    with asdf.open(config.OUT, memmap=False, lazy_load=False) as file:
        info, roman = file["processinfo"], file["roman"]
        found = {k: full(info[k]) for k in ("noise_ratio", "unused_differences", "endslice")}
        return found | {k: full(roman[k]) for k in ("data_withsky", "dq", "err", "var_poisson")}


@pytest.fixture(scope="module")
def fitted(calibrated, pipeline):
    """What the fit itself gives, and the exposure."""
    steps, inputs = pipeline(calibrated, "l1_to_l2_likelihood")
    last = [b.name for b in steps].index("ramp_fit_likelihood") + 1
    names = ("ramp", "rate", "err", "unused", "noise_ratio")
    lazy = build(steps[:last], inputs, Grid(SIDE, (256, 256)), names)
    return {name: lazy.arrays[name].compute() for name in names}, inputs.exposure


def made(config, labels=None, **how):
    """The layers of a configuration, and their statistics."""
    config = load_config(config)
    block = config.raw["NOISE"] | ({} if labels is None else {"LAYER": labels})
    result = generate_noise(config.replace(NOISE=block), **how)
    with asdf.open(result.out, memmap=False, lazy_load=False) as file:
        return full(file["noise"]), list(file["statistics"])


@pytest.fixture(scope="module")
def reference(calibrated, tmp_path_factory):
    """The layers as they come by default, and their statistics."""
    folder = tmp_path_factory.mktemp("reference") / "case"
    shutil.copytree(calibrated.config.parent, folder)
    return made(folder / "config.yaml")


def test_the_file_says_how_each_pixel_was_fitted(image, fitted):
    fit, exposure = fitted
    inside = np.s_[..., 4:-4, 4:-4]
    ratio = fit["noise_ratio"][inside]
    np.testing.assert_array_equal(image["noise_ratio"][inside].view("u4"), ratio.view("u4"))
    unused = fit["unused"].copy()
    assert unused[0, 4:-4, 4:-4].all()
    assert not unused[-1].any()
    unused[: exposure.start] = 0
    bits = np.packbits(unused[:-1], axis=0, bitorder="little")
    np.testing.assert_array_equal(image["unused_differences"][inside], bits[inside])
    assert image["unused_differences"][0][FLAGGED] == 1 << 3 | 1 << 4
    assert (image["unused_differences"][0][DEAD] == 0b1111110).all()
    assert image["unused_differences"][0][EARLY] == 0b1111000
    assert (image["unused_differences"] != 0).mean() > 5e-3  # cosmic rays


def test_the_weights_are_those_of_the_fit(image, fitted):
    """The rates once more, from the ramp and the file."""
    fit, exposure = fitted
    c = difference_coefficients(image["unused_differences"], image["noise_ratio"], exposure)
    again = (c * np.diff(fit["ramp"].astype(np.float64), axis=0)).sum(axis=0)
    inside = np.s_[4:-4, 4:-4]
    rate, err = fit["rate"][inside], fit["err"][inside]
    some = np.isfinite(rate)
    assert not c[:, 4:-4, 4:-4][:, ~some].any()
    error = np.abs(again[inside] - rate)[some]
    assert (error < 1e-6 * np.abs(rate[some]) + 1e-5 * err[some]).all()
    # Not with weights that are only nearly right:
    c = difference_coefficients(None, image["noise_ratio"], exposure)
    wrong = (c * np.diff(fit["ramp"].astype(np.float64), axis=0)).sum(axis=0)[inside]
    there = some & (image["unused_differences"][0][inside] != 0)
    assert (np.abs(wrong - rate)[there] > 1e-2 * err[there]).mean() > 0.9


@pytest.mark.parametrize(
    "how",
    [{"tile": (100, 77), "threads": 2}, {"tile": 192, "per_step": True},
     {"scheduler": "synchronous"}],
    ids=str,
)  # fmt: skip
def test_same_bits_however_they_are_made(case, reference, image, how):
    config = load_config(case / "config.yaml")
    calibrate(config, **how)
    with asdf.open(config.OUT, memmap=False, lazy_load=False) as file:
        for name in ("noise_ratio", "unused_differences"):
            np.testing.assert_array_equal(full(file["processinfo"][name]), image[name])
    layers, statistics = made(case / "config.yaml", **how)
    np.testing.assert_array_equal(layers, reference[0])
    assert statistics == reference[1]


def test_draws_have_the_weights_of_their_pixels(case, image, fitted, monkeypatch):
    rows, seen = [], []
    read = LikelihoodFit.read

    def reading(self, blocks, exposure):
        rows.append(blocks.y0)
        return read(self, blocks, exposure)

    def noted(rng, level, gain, coefficients, exposure):
        seen.append(coefficients)
        return own_poisson_noise(rng, level, gain, coefficients, exposure)

    monkeypatch.setattr(LikelihoodFit, "read", reading)
    monkeypatch.setattr(poisson, "own_poisson_noise", noted)
    made(case / "config.yaml", ["P"], scheduler="synchronous")
    whole = np.zeros((7, SIDE, SIDE))
    for number, values in enumerate(seen):  # one row of blocks after the other
        y, x = rows[number // 2], number % 2 * 128
        whole[:, y : y + 128, x : x + 128] = values
    c = difference_coefficients(image["unused_differences"], image["noise_ratio"], fitted[1])
    np.testing.assert_array_equal(whole, c)
    assert np.flatnonzero(c[:, *FLAGGED]).tolist() == [1, 2, 5, 6]
    assert np.flatnonzero(c[:, *EARLY]).tolist() == [1, 2]


def test_pixels_without_a_rate_have_no_noise(reference, image, case, caplog):
    layers, statistics = reference
    nothing = np.isnan(image["data_withsky"])
    assert nothing[DEAD].all()
    assert (image["dq"][nothing] & PIXEL["DO_NOT_USE"] != 0).all()
    assert not layers[:, nothing].any()
    assert np.isfinite(layers).all()
    for line in statistics:
        assert line["without_rate"] == nothing.sum()
        assert line["not_finite"] == 0
    made(case / "config.yaml", ["P", "R", "RS2"])
    assert "no finite noise" not in caplog.text


@pytest.fixture(scope="module")
def unflagged(calibrated, tmp_path_factory):
    """Image, layers and their statistics with a recipe that flags no pixel for its NaN, as the
    flat field would."""
    folder = tmp_path_factory.mktemp("unflagged") / "case"
    shutil.copytree(calibrated.config.parent, folder)
    own = folder / "own.yaml"
    own.write_text(OWN)
    config = load_config(folder / "config.yaml").replace(GRAPH=str(own))
    calibrate(config)
    block = config.raw["NOISE"] | {"LAYER": ["P", "O", "PS2", "Rz3"]}
    result = generate_noise(config.replace(NOISE=block))
    with (
        asdf.open(result.out, memmap=False, lazy_load=False) as noise,
        asdf.open(config.OUT, memmap=False, lazy_load=False) as file,
    ):
        names = ("data_withsky", "dq", "err", "var_poisson")
        image = {name: full(file["roman"][name]) for name in names}
        image["unused"] = full(file["processinfo"]["unused_differences"])[0] != 0
        return image, full(noise["noise"]), result.layers


def active(where):
    """Without the border."""
    out = np.zeros_like(where)
    out[4:-4, 4:-4] = where[4:-4, 4:-4]
    return out


def test_they_are_left_out_of_statistics_without_a_flag(unflagged):
    """Of the quartiles, the limits and the polynomial; which does not make noise of nothing."""
    image, layers, statistics = unflagged
    nothing = np.isnan(image["data_withsky"])
    flagged = image["dq"] & PIXEL["DO_NOT_USE"] != 0
    assert nothing[EVERY_OTHER].all()
    assert not flagged[EVERY_OTHER].any()
    assert not layers[:, nothing].any()
    usable = active(~nothing & ~flagged)
    for layer, line in zip(layers, statistics, strict=True):
        q25, middle, q75 = np.percentile(layer[usable].astype(float), [25, 50, 75])
        assert line["median"] == pytest.approx(middle, abs=1e-6)
        assert line["sigma"] == pytest.approx((q75 - q25) / 1.34896, rel=1e-5)


def test_the_light_has_the_variance_that_the_fit_states(unflagged):
    """On pixels whose ramp is whole and on those with a cosmic ray, within 6 sigma (2e-9) and 1 %.
    This recipe's variance is that of the light alone, without the dark current's."""
    image, layers, _ = unflagged
    # Far from zero, where a rate that is negative by chance has no Poisson noise.
    good = active(image["data_withsky"] > 4 * image["err"].astype(float))
    good &= image["dq"] & (PIXEL["DO_NOT_USE"] | PIXEL["SATURATED"]) == 0
    for place in (good & ~image["unused"], good & image["unused"]):
        variance = image["var_poisson"][place].astype(float)
        assert variance.size > 300
        for layer in layers[:2]:
            noise = layer[place].astype(float)
            some = noise != 0
            assert some.mean() > 0.95  # all but those without a Pearson distribution
            pull = noise[some] ** 2 / variance[some]
            assert abs(pull.mean() - 1) < 6 * pull.std() / pull.size**0.5 + 0.01


def test_read_noise_goes_through_the_fit(reference, image):
    """R and Ra: the core of their distribution is as wide as the read noise that the fit states,
    and the 1/f noise, which it does not know, on top."""
    layers, _ = reference
    good = active((image["dq"] == 0) & np.isfinite(image["data_withsky"]))
    err, poisson_variance = (image[name][good].astype(float) for name in ("err", "var_poisson"))
    stated = np.sqrt(np.median(err**2 - poisson_variance))
    for label in ("R", "RaC1"):
        q25, q75 = np.percentile(layers[LABELS.index(label)][good], [25, 75])
        assert 1 < (q75 - q25) / 1.34896 / stated < 1.25


OWN = """
steps: [dq_init, saturation, refpix, bias, dark_decay, wfi18_transient, linearity, dark, ipc,
        ramp_fit_likelihood: {ipc_noise: true, flag_nan: false}, mask,
        medsky, sky]
outputs: [noise_ratio, endslice]
"""


def test_outputs_may_name_what_is_kept_anyway(case):
    own = case / "own.yaml"
    own.write_text(OWN)
    calibrate(load_config(case / "config.yaml").replace(GRAPH=str(own)))
    with asdf.open(case / "l2.asdf", memmap=False, lazy_load=False) as file:
        roman, info = file["roman"], file["processinfo"]
        np.testing.assert_array_equal(roman["endslice"], info["endslice"])
        kept = np.array(info["noise_ratio"])
        assert kept.dtype == np.float32
        np.testing.assert_array_equal(roman["noise_ratio"], kept.astype(np.float16))


def test_files_without_anything_left_out_have_no_bits(tmp_path):
    own = tmp_path / "own.yaml"
    own.write_text(OWN.replace("flag_nan: false", "rejection_threshold: 50"))
    noise = {"LAYER": ["P", "O"], "TEMP": str(tmp_path), "SEED": 1, "OUT": "noise.asdf"}
    config = {"NOISE": noise, "GRAPH": str(own), "SLICEOUT": True}
    quiet = {"conditions": "plain", "cosmic_rays": 0, "stars": 0}
    simulation = simulate(tmp_path, side=SIDE, seed=3, config=config, **quiet)
    out = calibrate(simulation.config).out
    layout = read_layout(out)
    assert layout.array("processinfo", "unused_differences") is None
    assert layout.array("processinfo", "noise_ratio").shape == (SIDE - 8, SIDE - 8)
    layers, _ = made(simulation.config)
    assert (layers[:, 4:-4, 4:-4] != 0).mean() > 0.99


def test_files_of_the_other_fit_keep_nothing_more(case):
    calibrate(load_config(case / "config.yaml").replace(GRAPH="l1_to_l2"))
    with asdf.open(case / "l2.asdf", memmap=False) as file:
        assert not {"noise_ratio", "unused_differences"} & set(file["processinfo"])
        assert "excluded" in file["processinfo"]


@pytest.mark.parametrize(
    ("then", "now"), [("l1_to_l2", "l1_to_l2_likelihood"), ("l1_to_l2_likelihood", "l1_to_l2")]
)
def test_noise_only_refuses_an_image_of_the_other_fit(case, capsys, then, now):
    path = case / "config.yaml"
    settings = yaml.safe_load(path.read_text())
    calibrate(load_config(path).replace(GRAPH=then))
    for labels in (["P"], ["R"]):
        settings["NOISE"]["LAYER"] = labels
        path.write_text(yaml.safe_dump(settings | {"GRAPH": now}))
        assert main([str(path), "--quiet", "--noise-only"]) == 2
        error = capsys.readouterr().err.strip()
        assert len(error.splitlines()) == 1
        names = ["ramp_fit", "ramp_fit_likelihood"]
        made_by, wanted = names if then == "l1_to_l2" else names[::-1]
        told = (
            rf"was made with other steps or options \({made_by}[\w, ]* instead of {wanted}[\w, ]*\)"
        )
        assert re.search(told, error), error
        assert not (case / "noise.asdf").exists()


def test_the_image_must_say_how_it_was_fitted(case, capsys):
    path = case / "config.yaml"
    calibrate(load_config(path).replace(SLICEOUT=False))
    made(path, ["R"])  # needs no more than the image
    (case / "noise.asdf").unlink()
    assert main([str(path), "--quiet", "--noise-only"]) == 2
    error = capsys.readouterr().err.strip()
    assert error.endswith("has no noise_ratio, which P and O need; calibrate with SLICEOUT")
    assert not (case / "noise.asdf").exists()


def test_the_light_needs_a_fit_that_is_known(case):
    job = prepare(load_config(case / "config.yaml"), noise=True)
    other = [b for b in job.steps if b.name != "ramp_fit_likelihood"]
    without = type("Without", (), {"config": job.config, "params": lambda self, name: next(
        (b.params for b in other if b.name == name), None)})()  # fmt: skip
    layers = [layer for layer, _ in job.layers]
    wanted = "layer 'P': P and O need the step ramp_fit or ramp_fit_likelihood in the recipe"
    with pytest.raises(InputError, match=wanted):
        check_needs(without, read_layout(job.config.OUT), layers)
    check_needs(job, read_layout(job.config.OUT), layers)
