"""The report of one exposure: an HTML page about its L2 file, and the files around it."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..config.model import Config
from ..io.atomic import check_target
from ..products.noise_layers import matters, no_draw, unusable
from .blocks import percent
from .expected import has_step
from .facts import Facts, gather, medsky
from .image_scan import L2, open_image
from .image_sections import (
    errors_section,
    flags_section,
    footprint_section,
    rate_section,
    sky_section,
)
from .noise_section import noise_section
from .page import Page
from .panels import figure_class
from .pixel_section import Places, look_at_pixels, pixel_section
from .ramp_sections import jumps_section, ramps_section, reference_pixels_section
from .run_sections import configuration_section, provenance_section, timings_section

log = logging.getLogger(__name__)

MANY_MASKED = 0.1
"""Fraction of masked pixels that is worth a warning."""

CHI_SQUARE = (0.8, 1.4)
"""Range of the reduced chi-square that needs no warning, in units of the value that read noise and
the light of the background give."""

LIGHT = {"uniform": "is uniform", "solid angle": "is as the solid angle"}
"""What a file says of uniform light, as the key number has it."""

SECTIONS = (
    rate_section,
    flags_section,
    errors_section,
    sky_section,
    ramps_section,
    reference_pixels_section,
    jumps_section,
    noise_section,
    footprint_section,
    timings_section,
    configuration_section,
    provenance_section,
)
"""The sections of the page, in this order, below the warnings."""


def report_path(path: str | os.PathLike) -> Path:
    """Where the report on a file goes by default: beside it, ``NAME_report.html``."""
    path = Path(path)
    return path.with_name(f"{path.stem}_report.html")


def exposure_report(
    l2_path: str | os.PathLike,
    out: str | os.PathLike | None = None,
    *,
    png: str | os.PathLike | None = None,
    noise: str | os.PathLike | None = None,
    logged: Sequence[str] = (),
    pixels: Places = (),
    config: Config | None = None,
) -> Path:
    """Write a report on an L2 file: one HTML file with everything in it.

    Ramps, reference-pixel corrections and jump times are computed again from the L1 file, if it
    and the reference files are where they were (or beside the L2 file) and have not changed.

    Parameters
    ----------
    l2_path : path
    out : path, optional
        Default: beside the L2 file, ``NAME_report.html``.
    png : path, optional
        Folder for each picture as PNG; made if need be.
    noise : path, optional
        Noise file; default: the one that the configuration in the L2 file names, if it is there.
    logged : sequence of str
        Warnings of the run, to be shown.
    pixels : sequence of (int, int)
        Columns and rows of the active array, from 0: pixels that get a section each, with what each
        step does to them. It needs the Level 1 file and all reference files.
    config : Config, optional
        For `pixels`, the configuration by which the image was made. Default: that in the L2 file,
        with paths relative to the folder in which it was made.

    Returns
    -------
    Path
        The report.

    Raises
    ------
    InputError
        If matplotlib is not installed, or a file cannot be read or written or is not what it
        should be.
    """
    figure_class()
    l2 = open_image(Path(l2_path))
    target = report_path(l2.path) if out is None else Path(out)
    check_target(target)
    looked = look_at_pixels(l2, pixels, config)
    facts = gather(l2, None if noise is None else Path(noise))
    page = Page(l2.path.name, _subtitle(l2))
    page.cards(_key_numbers(facts))
    warnings = list(dict.fromkeys([*logged, *_warnings(facts)]))
    page.section("warnings", "Warnings")
    if warnings:
        page.bullets(warnings, "warnings")
    else:
        page.text("None.")
    for pixel in looked:
        pixel_section(page, pixel)
    for write in SECTIONS:
        write(page, facts)
    page.write(target, None if png is None else Path(png))
    log.debug("wrote %s", target)
    return target


def _subtitle(l2: L2) -> str:
    exposure, meta = l2.exposure, l2.meta
    seconds = exposure.frame_time * (exposure.read_pattern[-1][-1])
    start = str(meta.get("exposure", {}).get("start_time", "")).replace("T", " ")
    parts = [
        exposure.detector,
        exposure.optical_element,
        f"{l2.side} x {l2.side} pixels",
        f"{exposure.n_resultants} resultants, {seconds:.1f} s",
        *([f"begun {start}"] if start else []),
    ]
    return ", ".join(parts)


def _number(value: float | None, form: str) -> str:
    return "-" if value is None or not math.isfinite(value) else format(value, form)


def _key_numbers(facts: Facts) -> list[tuple[str, str]]:
    seen, stages = facts.seen, facts.l2.info.get("timings", {}).get("stages", {})
    spent = None if facts.noise is None else facts.noise.seconds
    light = facts.l2.info.get("uniform_light")
    return [
        ("background", f"{_number(medsky(facts.l2), '.4g')} DN/s"),
        *([("uniform light", LIGHT[light])] if light in LIGHT else []),
        ("masked", percent(seen.masked / facts.pixels)),
        ("hit by a cosmic ray", percent(seen.count("JUMP_DET") / facts.pixels)),
        ("saturated", percent(seen.count("SATURATED") / facts.pixels)),
        ("reduced chi-square", _number(facts.chi_square, ".3f")),
        ("calibrated in", f"{sum(stages.values()):.1f} s" if stages else "-"),
        *([("noise layers made in", f"{spent:.1f} s")] if spent is not None else []),
    ]


def _warnings(facts: Facts) -> list[str]:
    """What people should know before they use the image."""
    l2, seen, found = facts.l2, facts.seen, []
    files = l2.info.get("provenance", {}).get("files", {})
    if "ipc4d" not in files and has_step(l2, "ipc"):
        found.append("No CALDIR.ipc4d was given: inter-pixel capacitance is not corrected.")
    if "mask" not in files:
        found.append("No CALDIR.mask was given: bad pixels are not known.")
    if seen.unusable:
        found.append(f"{seen.unusable} pixels have a rate that is not finite.")
    if seen.unsure:
        found.append(f"{seen.unsure} pixels have an error that is not finite.")
    for flag in ("DO_NOT_USE", "SATURATED"):
        if seen.count(flag) == facts.pixels:
            found.append(f"All pixels are flagged {flag}: there is no image.")
    if seen.masked > MANY_MASKED * facts.pixels:
        found.append(f"{percent(seen.masked / facts.pixels)} of the pixels are masked.")
    if not math.isfinite(medsky(l2)):
        found.append("No background could be found: too few unmasked pixels.")
    found += _strange_chi_square(facts, files)
    if facts.jumps is not None and facts.jumps.differ:
        found.append(
            f"Computed again, {facts.jumps.differ} of {facts.jumps.pixels} pixels have other flags "
            "than in the file: the program or its libraries have changed since."
        )
    if facts.strange_noise:
        found.append(f"The noise file is not shown: {facts.why_no_noise}")
    if facts.noise is not None:
        # In the words of the log, so that a warning of the run does not appear twice.
        found += [no_draw(line) for line in facts.noise.statistics if matters(line)]
        found += [text for line in facts.noise.statistics for text in unusable(line)]
    found += [
        f"Layer {one.layer.label}: {one.unusable} pixels are not finite; they are left out."
        for one in facts.looked
        if one.unusable
    ]
    return found


def _strange_chi_square(facts: Facts, files: Mapping[str, Any]) -> list[str]:
    chi, due = facts.chi_square, facts.expected_chi_square
    low, high = (due * limit for limit in CHI_SQUARE)
    if chi is None or low <= chi <= high:
        return []
    likely = "the read noise reference or the linearity may not fit this exposure"
    if "biascorr" not in files:
        likely = f"no CALDIR.biascorr was given, which may be the reason; else {likely}"
    return [
        f"The reduced chi-square of the ramps is {chi:.2f}, expected {low:.2f} to {high:.2f}: "
        f"{likely}."
    ]
