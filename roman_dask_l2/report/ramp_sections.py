"""Sections of an exposure's report on its ramps: ramps, reference pixels, jumps."""

from __future__ import annotations

import numpy as np

from . import plots
from .expected import options
from .facts import Facts
from .page import Page
from .replay import KINDS


def ramps_section(page: Page, facts: Facts) -> None:
    page.section("ramps", "Ramps")
    if facts.replay is None:
        page.text(f"Not shown: {facts.why_no_replay}.")
        return
    jump = (
        "A jump is flagged, and the fit does not use the difference that has it."
        if facts.replay.by_likelihood
        else "A jump is flagged, but not removed from the fit: the flag goes to the mask."
    )
    page.text(
        "Signal before the ramp fit, computed again from the Level-1 file by the same steps. The "
        f"line has the fitted slope, before the division by the flat. {jump} The dark current is "
        "subtracted; for a hot pixel the upper panel shows the signal that still contains it."
    )
    missing = [kind for kind in KINDS if kind not in {ramp.kind for ramp in facts.ramps}]
    if missing:
        page.text(f"This exposure has no such pixel: {', '.join(missing)}.")
    page.plots(
        (
            f"ramp_{ramp.kind.replace(' ', '_')}",
            plots.ramp(ramp, facts.l2.exposure),
            f"Ramp of a pixel: {ramp.kind}. Its position is that on the active array.",
        )
        for ramp in facts.ramps
    )


def reference_pixels_section(page: Page, facts: Facts) -> None:
    page.section("refpix", "Reference pixels")
    if facts.replay is None:
        page.text(
            "The corrections are not stored in the file, and cannot be computed again: "
            f"{facts.why_no_replay}."
        )
        return
    found = facts.replay.measured.get("refpix")
    if found is None:
        page.text("The recipe has no step refpix.")
        return
    rows, low, slope = found["rows"], found["low"], found["slope"]
    page.text(
        "What was subtracted from each resultant, computed again from the Level-1 file by the "
        f"step's own code. Row offsets have a standard deviation of {np.std(rows):.3g} DN"
        + ("." if rows.any() else ": without a valid reference output rows are not corrected.")
    )
    shown = [
        (
            "refpix_rows", plots.reference_rows(rows),
            "Offset that was subtracted from each row, from the reference output.",
        ),
        (
            "refpix_channels", plots.reference_channels(low, slope, facts.l2.exposure.side),
            "Line that was subtracted from each readout channel, from the border: above the "
            "mean dark, in its middle, and its change from the bottom to the top.",
        ),
    ]  # fmt: skip
    page.plots(shown if rows.any() else shown[1:])
    page.table(
        ["resultant", "rows, std (DN)", "channels, mean (DN)", "channels, std (DN)"],
        [
            [str(j), f"{rows[j].std():.3f}", f"{middle.mean():.3f}", f"{middle.std():.3f}"]
            for j, middle in enumerate(low + slope * facts.l2.exposure.side / 2)
        ],
    )


def jumps_section(page: Page, facts: Facts) -> None:
    page.section("jumps", "Jumps")
    if facts.jumps is None:
        page.text(
            "Only the pixels are known, not when they were hit (the file keeps no flags of "
            f"resultants), and they cannot be computed again: {facts.why_no_replay}."
        )
        return
    jumps = facts.jumps
    figure = plots.jump_times(jumps, facts.l2.exposure)
    caption = "Jumps between one resultant and the next, with Poisson errors."
    with page.beside():
        page.plots([("jump_times", figure, caption)])
        page.text(
            f"All ramps of {jumps.pixels} pixels, in bands of rows evenly spread over the image, "
            f"were computed again: {jumps.counts.sum()} jumps. Cosmic rays come at a constant "
            "rate; a step in the histogram means that faint ones are detected more or less often, "
            "or has another cause."
        )
        page.text(
            "In every pixel the flags are those of the file."
            if not jumps.differ
            else f"{jumps.differ} pixels have other flags than in the file"
            + (
                ", where flags were grown around large events."
                if options(facts.l2, "large_events").get("expand_large_events")
                else "."
            )
        )
        page.table(
            ["between resultants", "seconds", "jumps"],
            [
                [f"{j} and {j + 1}", f"{span:.2f}", str(n)]
                for j, (span, n) in enumerate(
                    zip(np.diff(facts.l2.exposure.tbar), jumps.counts, strict=True)
                )
            ],
        )
