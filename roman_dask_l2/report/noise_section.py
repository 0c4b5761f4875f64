"""The section of an exposure's report on its noise layers."""

from __future__ import annotations

from pathlib import Path

from . import layers, plots
from .facts import Facts
from .image_scan import QUIET
from .page import Page


def noise_section(page: Page, facts: Facts) -> None:
    page.section("noise", "Noise layers")
    if facts.noise is None:
        page.text(f"None. {facts.why_no_noise}")
        return
    page.text(
        f"{Path(facts.noise.layout.path).name}. Distribution and spectrum are those of pixels that "
        f"are not masked and less than {QUIET:g} errors above the sky. Expected variances "
        f"are {layers.expectations()} (no dark current, which is not in these layers)"
        + ("" if facts.replay else ", with the median gain, as the gain file is not available")
        + ". The spectrum is that of single rows within readout channels; for R the solid curve "
        "includes 1/f noise and the correction of inter-pixel capacitance"
        + (
            ", but not the 1/f noise common to all channels, which refpix_irrc takes out"
            if facts.replay and layers.takes_out_common(facts.replay)
            else ""
        )
        + ". The column white noise of the table is what a typical pixel should have without 1/f "
        "noise; in brackets stands "
        "how many of the pixels without a draw are unmasked."
    )
    if (
        facts.replay
        and facts.replay.takes_out_jumps
        and any(one.layer.ramp == "own" for one in facts.looked)
    ):
        page.text(
            "Ramps of layers with Ra hold read noise twice, the exposure's and the layer's. The "
            "ramp fit takes jumps for what stands out of the noise of one, and drops differences "
            "in some pixels more: these have much noise, which is in the spectra but in no curve."
        )
    for formula, symbols in layers.formulas(facts.looked):
        page.formula(formula)
        page.text(symbols)
    expected = [layers.expect(one, facts.l2, facts.seen, facts.replay) for one in facts.looked]
    page.table(*layers.summary(facts.noise, expected))
    if len(facts.noise.layers) > len(facts.looked):
        page.text(f"Pictures of the first {len(facts.looked)} layers.")
    for i, (one, known) in enumerate(zip(facts.looked, expected, strict=True)):
        label = one.layer.label
        shown = [
            (
                f"layer{i}_image",
                plots.layer_image(label, one.cells, facts.seen.k),
                f"Noise layer {label}.",
            ),
            (
                f"layer{i}_histogram",
                plots.layer_histogram(
                    label, one.counts, layers.BINS * one.scale, known.density if known else None
                ),
                f"Distribution of layer {label}, and normal noise with the expected variances.",
            ),
        ]
        if one.weight:  # the smallest detectors have no channel without reference pixels
            frequency, power = one.spectrum()
            spectrum = plots.layer_spectrum(label, frequency, power, known.spectra if known else {})
            caption = f"Power spectrum of layer {label} along rows."
            shown.append((f"layer{i}_spectrum", spectrum, caption))
        page.plots(shown)
