"""The report of an exposure that the observatory's steps have calibrated, with noise layers."""

from __future__ import annotations

import asdf
import numpy as np
import pytest
import yaml
from configuring import elsewhere

from roman_dask_l2.cli.app import main
from roman_dask_l2.config.recipe import shipped
from roman_dask_l2.report import facts as reports
from roman_dask_l2.report import layers
from roman_dask_l2.report.image_scan import open_image

LABELS = ["RaC1", "P", "Prb2", "O"]
NO_PINK = {"U_PINK": 0.0, "C_PINK": 0.0, "RU_PINK": 0.0}


@pytest.fixture(scope="module")
def made(simulated, tmp_path_factory):
    """``made(recipe, **changes)``: folder of an image with its layers and its report."""

    def make(recipe, **changes):
        simulation = simulated(side=512, seed=4, references="observatory", noise=NO_PINK)
        folder = tmp_path_factory.mktemp("report")
        if changes:
            text = shipped()[recipe].read_text()
            options = yaml.safe_dump(changes, default_flow_style=True).strip()
            assert "  - ramp_fit_likelihood\n" in text
            text = text.replace(
                "  - ramp_fit_likelihood\n", f"  - ramp_fit_likelihood: {options}\n"
            )
            recipe = folder / "recipe.yaml"
            recipe.write_text(text)
        path = elsewhere(simulation, folder, LABELS, GRAPH=str(recipe))
        assert main([str(path), "--report", "--quiet"]) == 0
        return folder

    return make


@pytest.fixture(scope="module")
def usual(made, drawn):
    with drawn():
        return made("observatory")


@pytest.mark.slow
def test_page(usual, check_page):
    page = check_page(usual / "l2_report.html")
    for text in (
        "is uniform", "hold read noise twice", "layer RaC1: without reset noise",
        "No sky was subtracted", "channel by channel and frequency by frequency (refpix_irrc)",
        "but not the 1/f noise common to all channels",
        *(f"Noise layer {label}." for label in LABELS),
    ):  # fmt: skip
        assert text in page.text
    assert "inter-pixel capacitance is not corrected" not in page.text


def looked(folder):
    facts = reports.gather(open_image(folder / "l2.asdf"), folder / "noise.asdf")
    for one in facts.looked:
        yield one, layers.expect(one, facts.l2, facts.seen, facts.replay)


def test_quiet_pixels_are_chosen_about_the_sky(usual):
    """The sky is in the image, and no reason to take a pixel for a source."""
    facts = reports.gather(open_image(usual / "l2.asdf"), usual / "noise.asdf")
    with asdf.open(usual / "l2.asdf") as file:
        use = ~np.array(file["mask"])
    assert len(facts.seen.light) > 0.8 * use.sum() / 8
    assert np.median(facts.seen.light) == pytest.approx(facts.l2.info["medsky"], rel=0.02)


@pytest.mark.slow
def test_layers_lie_on_their_curves(made):
    """Where no jump is searched for. A frequency has some 1000 rows of a channel, so 3 % of
    scatter, all together 0.4 %."""
    for one, due in looked(made("observatory", rejection_threshold=1000.0)):
        _, power = one.spectrum()
        ratio = power / due.spectra["expected"]
        assert abs(ratio.mean() - 1) < 0.025, one.layer.label
        density = one.counts / one.counts.sum() / np.diff(layers.BINS * one.scale)
        middle = slice(40, 80)
        assert abs(density[middle].mean() / due.density[middle].mean() - 1) < 0.02


def test_core_lies_on_its_curve_with_jumps(usual):
    for one, due in looked(usual):
        density = one.counts / one.counts.sum() / np.diff(layers.BINS * one.scale)
        middle = slice(40, 80)
        assert abs(density[middle].mean() / due.density[middle].mean() - 1) < 0.03


@pytest.mark.slow
def test_common_noise_is_not_in_the_curve(simulated, tmp_path):
    """The correction takes it out of the layer, so that its spectrum is nearly white."""
    pink = {"C_PINK": 8.0, "U_PINK": 0.0, "RU_PINK": 0.1, "amp33": 1.0}
    plain = {"side": 512, "seed": 4, "conditions": "plain", "noise": pink}
    simulation = simulated(references="observatory", stars=0, cosmic_rays=0, **plain)
    survey = simulated(dark_decay=True, biascorr=False, **plain)
    path = elsewhere(simulation, tmp_path, ["R"])
    raw = yaml.safe_load(path.read_text())
    raw["CALDIR"].pop("readnoise")
    raw["CALDIR"] |= {key: str(survey.caldir[key]) for key in ("dark", "read")}
    path.write_text(yaml.safe_dump(raw))
    assert main([str(path), "--quiet"]) == 0
    ((one, due),) = looked(tmp_path)
    _, power = one.spectrum()
    # The noise of the reference output, and jumps that noise was taken for, add to it.
    assert 0.9 < np.mean(power[:8] / due.spectra["expected"][:8]) < 1.3
