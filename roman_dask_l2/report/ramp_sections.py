"""Sections of an exposure's report on its ramps: ramps, reference pixels, jumps."""

from __future__ import annotations

import numpy as np

from ..core.dq import GROUP
from . import plots
from .expected import mask_growth
from .facts import Facts
from .page import Page
from .replay import KINDS, Ramp

LINES = {
    False: (
        "The line has the fitted slope, before the division by the flat. A jump is flagged, but "
        "not removed from the fit: the flag goes to the mask."
    ),
    True: (
        "The fit is one of the differences between resultants, and the lines have the fitted "
        "slope, before the division by the flat: one line for each part of the ramp in which every "
        "difference is used. A difference that a cosmic ray has raised is taken out (dashed), so "
        "that the lines before and after it are parallel: the rate is that of the other "
        "differences, and its error is larger because they are fewer."
    ),
}
"""What the lines of ramps are, by whether the fit takes jumps out."""
MARKS = (
    " One cosmic ray has {n} marks here: the signal is compared with that of the next resultant "
    "and of the next but one, so the same charge shows from each resultant that it follows by one "
    "or two, and amid the reads of a long resultant on both sides of it."
)
"""Why a ramp has several marks, if jumps are flagged with fixed weights."""
USABLE = {
    False: " Such a pixel stays usable.",
    True: " The recipe masks such a pixel nevertheless, since its table has JUMP_DET.",
}
"""What becomes of a pixel whose jump is taken out, by whether JUMP_DET is masked."""


def ramps_section(page: Page, facts: Facts) -> None:
    page.section("ramps", "Ramps")
    if facts.replay is None:
        page.text(f"Not shown: {facts.why_no_replay}.")
        return
    taken_out = facts.replay.takes_out_jumps
    usable = USABLE["JUMP_DET" in mask_growth(facts.l2)] if taken_out else ""
    page.text(
        "Signal before the ramp fit, computed again from the Level-1 file by the same steps. "
        f"{LINES[taken_out]}{usable} The dark current is subtracted; for a "
        "hot pixel the upper panel shows the signal that still contains it."
    )
    missing = [kind for kind in KINDS if kind not in {ramp.kind for ramp in facts.ramps}]
    if missing:
        page.text(f"This exposure has no such pixel: {', '.join(missing)}.")
    page.plots(
        (
            f"ramp_{ramp.kind.replace(' ', '_')}",
            plots.ramp(ramp, facts.l2.exposure),
            f"Ramp of a pixel: {ramp.kind}. Its position is that on the active array."
            + _what_was_used(ramp),
        )
        for ramp in facts.ramps
    )


def _what_was_used(ramp: Ramp) -> str:
    """How much of a ramp the fit used, where that differs from pixel to pixel; and why one cosmic
    ray has several marks, where it has."""
    if ramp.unused is None or ramp.dropped is None:
        marks = int(np.count_nonzero(ramp.flags & GROUP["JUMP_DET"]))
        return MARKS.format(n=marks) if marks > 1 else ""
    n, used, jumps = ramp.unused.size, int((~ramp.unused).sum()), int(ramp.dropped.sum())
    words = f" {used} of {n} differences are used"
    return words + (f", {jumps} taken out as a jump." if jumps else ".")


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
        page.text(
            "The recipe corrects channel by channel and frequency by frequency (refpix_irrc): what "
            "it subtracts is another image for each resultant, and is not shown."
            if any(bound.name == "refpix_irrc" for bound in facts.replay.steps)
            else "The recipe has no step refpix."
        )
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
            else f"{jumps.differ} pixels have other flags than in the file."
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
