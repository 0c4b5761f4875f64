"""The report of one exposure: an HTML page about its L2 file, and the files around it."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from ..core.detector import BORDER, Window
from ..core.dq import PIXEL
from ..errors import InputError
from ..io.asdf_file import open_asdf
from ..io.atomic import check_target
from ..products.noise_layers import no_draw, unusable
from ..products.quality import degrees_of_freedom, reduced_chi_square
from ..steps.sky import sky_model
from ..system.versions import __version__
from . import expected, layers, plots
from .blocks import kind_counts, percent, spread
from .image_scan import L2, QUIET, RATES, ZOOM, Survey, open_image, survey
from .page import Page
from .panels import figure_class
from .replay import KINDS, Jumps, Ramp, Replay, find_jumps, open_replay, show_ramps

log = logging.getLogger(__name__)

MANY_MASKED = 0.1
"""Fraction of masked pixels that is worth a warning."""
CHI_SQUARE = (0.8, 1.4)
"""Where the reduced chi-square is no reason for a warning, in units of what read noise and the
light of the background make."""

STAGES = ("open", "tiles", "sky", "copy")
"""In their order; the file has them sorted by name."""


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
    facts = _look(l2, None if noise is None else Path(noise))
    page = Page(l2.path.name, _subtitle(l2))
    page.cards(_key_numbers(facts))
    warnings = list(dict.fromkeys([*logged, *_warnings(facts)]))
    page.section("warnings", "Warnings")
    if warnings:
        page.bullets(warnings, "warnings")
    else:
        page.text("None.")
    for write in (
        _rate, _flags, _errors, _sky, _ramps, _reference_pixels, _jumps, _noise, _footprint,
        _timings, _configuration, _provenance,
    ):  # fmt: skip
        write(page, facts)
    page.write(target, None if png is None else Path(png))
    log.info("wrote %s", target)
    return target


@dataclass
class _Facts:
    """All that a report is written from; `why_not` says why there is no replay or noise."""

    l2: L2
    seen: Survey
    replay: Replay | None
    ramps: list[Ramp]
    jumps: Jumps | None
    noise: layers.NoiseFile | None
    looked: list[layers.Seen]
    why_no_replay: str
    why_no_noise: str
    strange_noise: bool

    @property
    def chi_square(self) -> float | None:
        return reduced_chi_square(self.seen.chisq, degrees_of_freedom(self.l2.exposure))

    @property
    def expected_chi_square(self) -> float:
        return expected.chi_square(self.l2, self.seen, self.replay)

    @property
    def pixels(self) -> int:
        return self.l2.side**2


def _look(l2: L2, given: Path | None) -> _Facts:
    """Look at the image and the files around it."""
    noise, strange, why_no_noise = None, False, "The configuration has no NOISE block."
    path = given or layers.find_noise(l2)
    if path is not None and given is None and not os.path.exists(path):
        why_no_noise = f"{path} is not there."
    elif path is not None:
        try:
            noise = layers.open_noise(path, l2)
        except InputError as error:
            if given is not None:
                raise
            why_no_noise, strange = error.problems[0], True
    seen = survey(l2)
    looked = layers.look(noise, l2, seen) if noise is not None else []
    replay, ramps, jumps, why_no_replay = None, [], None, ""
    try:
        replay = open_replay(l2)
        ramps, jumps = show_ramps(replay, seen.candidates), find_jumps(replay, l2)
    except InputError as error:
        why_no_replay = error.problems[0]
    return _Facts(
        l2, seen, replay, ramps, jumps, noise, looked, why_no_replay, why_no_noise, strange
    )


# -- the top -------------------------------------------------------------------------------------


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


def _key_numbers(facts: _Facts) -> list[tuple[str, str]]:
    seen, stages = facts.seen, facts.l2.info.get("timings", {}).get("stages", {})
    spent = None if facts.noise is None else facts.noise.seconds
    return [
        ("background", f"{_number(_medsky(facts.l2), '.4g')} DN/s"),
        ("masked", percent(seen.masked / facts.pixels)),
        ("hit by a cosmic ray", percent(seen.count("JUMP_DET") / facts.pixels)),
        ("saturated", percent(seen.count("SATURATED") / facts.pixels)),
        ("reduced chi-square", _number(facts.chi_square, ".3f")),
        ("calibrated in", f"{sum(stages.values()):.1f} s" if stages else "-"),
        *([("noise layers made in", f"{spent:.1f} s")] if spent is not None else []),
    ]


def _medsky(l2: L2) -> float:
    value = l2.info.get("medsky")
    return float(value) if isinstance(value, int | float) else math.nan


def _warnings(facts: _Facts) -> list[str]:
    """What people should know before they use the image."""
    l2, seen, found = facts.l2, facts.seen, []
    files = l2.info.get("provenance", {}).get("files", {})
    if "ipc4d" not in files:
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
    if not math.isfinite(_medsky(l2)):
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
        # In the words of the log, so that a warning of the run does not stand there twice.
        found += [no_draw(line) for line in facts.noise.statistics if line["inadmissible"]]
        found += [text for line in facts.noise.statistics for text in unusable(line)]
    found += [
        f"Layer {one.layer.label}: {one.unusable} pixels are not finite; they are left out."
        for one in facts.looked
        if one.unusable
    ]
    return found


def _strange_chi_square(facts: _Facts, files: Mapping[str, Any]) -> list[str]:
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


# -- the sections --------------------------------------------------------------------------------


def _rate(page: Page, facts: _Facts) -> None:
    l2, seen = facts.l2, facts.seen
    size = min(ZOOM, l2.side)
    y, x = seen.zoom
    part = Window(y, y + size, x, x + size)
    image = l2.array("roman", "data_withsky") or l2.array("roman", "data")
    mask = l2.array("mask")
    assert image is not None
    assert mask is not None
    page.section("rate", "Rate")
    page.plots(
        [
            ("rate", plots.rate(seen), "Rate with sky, DN/s; masked pixels are left out."),
            (
                "rate_zoom",
                plots.zoom(image.read(part), mask.read(part), seen.zoom),
                "The part around the brightest block, pixel by pixel.",
            ),
        ]
    )


def _flags(page: Page, facts: _Facts) -> None:
    seen, pixels = facts.seen, facts.pixels
    counts = kind_counts(seen.flags, pixels)
    page.section("flags", "Flags")
    caption = "Where flags are; by kind, the first that fits."
    rows, growth = [], expected.mask_growth(facts.l2)
    for name in PIXEL:
        n = seen.count(name)
        if n:
            grown = growth.get(name)
            rows.append([name, str(n), percent(n / pixels), str(grown or "-")])
    rows.append(["combined mask", str(seen.masked), percent(seen.masked / pixels), "-"])
    with page.beside():
        page.plots([("flags", plots.flags(seen, counts, pixels), caption)])
        page.table(["flag", "pixels", "part", "masks"], rows)
        page.text(
            "A pixel may have several flags. The last column says how many pixels one with this "
            "flag masks: itself, 5 with its cardinal neighbours, 3 x 3 or 5 x 5."
        )


def _errors(page: Page, facts: _Facts) -> None:
    l2, seen = facts.l2, facts.seen
    page.section("errors", "Errors")
    curves, words = expected.errors(l2, seen, facts.replay)
    shown = [
        (
            "error_rate",
            plots.error(seen, curves[0] if curves else None, curves[1:], _medsky(l2)),
            f"Unmasked pixels by rate and error; {seen.dim} with rates below "
            f"{10 ** RATES[0]:g} DN/s are not shown.",
        )
    ]
    degrees = degrees_of_freedom(l2.exposure)
    if seen.chisq.any() and degrees > 0:
        shown.append(
            (
                "chi_square",
                plots.chi_square(seen.chisq, degrees),
                "Chi-square of the ramp fit of unmasked pixels, against the distribution that "
                "it has if the noise is what the weights of the fit assume.",
            )
        )
    if curves:
        page.formula(
            "err<sup>2</sup> = (σ/κ)<sup>2</sup> Σ K<sub>j</sub><sup>2</sup>/N<sub>j</sub> + "
            "(max(rate, 0)/g) (Σ K<sub>j</sub><sup>2</sup> τ<sub>j</sub> + "
            "2 Σ<sub>i&lt;j</sub> K<sub>i</sub> K<sub>j</sub> t̄<sub>i</sub>)"
        )
    page.text(words)
    page.plots(shown)
    if facts.chi_square is not None:
        page.text(
            f"Reduced chi-square {facts.chi_square:.3f}: the median of the pixels over the median "
            f"of the distribution with {degrees} degrees of freedom. Read noise and the light of "
            f"the background alone would make {facts.expected_chi_square:.3f}; 1/f noise, rounding "
            "and the noise of the reference pixels add to that."
        )


def _sky(page: Page, facts: _Facts) -> None:
    l2, seen = facts.l2, facts.seen
    page.section("sky", "Sky")
    order = int(l2.info.get("skyorder", -1))
    coefs = l2.numbers("skycoefs")
    if order < 0 or not coefs.size:
        page.text(
            "No sky was subtracted (the configuration has no SKYORDER). The picture shows the "
            "medians of the image."
        )
        middle = float(np.nanmedian(seen.sky)) if np.isfinite(seen.sky).any() else 0.0
        figure = plots.sky_residual(seen.sky, seen.edges, "Sky, medians of cells", middle)
        page.plots([("sky", figure, "Median of the unmasked pixels of each cell.")])
        return
    step = max(l2.side // 256, 1)
    model = _model(l2, coefs, order, step)
    _, sigma = spread(seen.residual)
    page.text(
        f"A polynomial of order {order} was subtracted: {model.min():.4g} to {model.max():.4g} "
        f"DN/s. What is left has a robust standard deviation of {sigma:.2g} DN/s from cell to cell."
    )
    page.plots(
        [
            (
                "sky_model",
                plots.sky_model(model, step, order),
                "The sky model that was subtracted.",
            ),
            (
                "sky_residual",
                plots.sky_residual(seen.residual, seen.edges, "Sky residual, medians of cells", 0),
                "Median of the unmasked pixels of each cell after the subtraction; sources are "
                "not taken out.",
            ),
        ]
    )
    terms = [f"{c:.5g}" for c in coefs]
    page.pre("Coefficients (DN/s)", ", ".join(terms))


def _model(l2: L2, coefs: np.ndarray, order: int, step: int) -> np.ndarray:
    """The sky model on every `step`-th pixel."""
    side = l2.exposure.side
    rows = [
        sky_model(coefs, order, Window(y, y + 1, BORDER, side - BORDER), side)[0, ::step]
        for y in range(BORDER, side - BORDER, step)
    ]
    return np.array(rows)


def _ramps(page: Page, facts: _Facts) -> None:
    page.section("ramps", "Ramps")
    if facts.replay is None:
        page.text(f"Not shown: {facts.why_no_replay}.")
        return
    page.text(
        "Signal before the ramp fit, computed again from the Level-1 file by the same steps. The "
        "line has the fitted slope, which the flat has not yet divided. A jump is flagged, not "
        "taken out of the fit: the flag goes to the mask. Of a hot pixel the dark current is gone; "
        "the upper panel shows the signal with it."
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


def _reference_pixels(page: Page, facts: _Facts) -> None:
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


def _jumps(page: Page, facts: _Facts) -> None:
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
            "rate; a step of the histogram is a change in how well faint ones are seen, or "
            "something else."
        )
        page.text(
            "Flags are those of the file in every pixel."
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


def _noise(page: Page, facts: _Facts) -> None:
    page.section("noise", "Noise layers")
    if facts.noise is None:
        page.text(f"None. {facts.why_no_noise}")
        return
    page.text(
        f"{Path(facts.noise.layout.path).name}. Distribution and spectrum are those of pixels that "
        f"are not masked and less than {QUIET:g} errors above the sky. Expected "
        f"variances are {layers.expectations()} (no dark current, which is not in these layers); "
        + ("" if facts.replay else "the gain file is not at hand, so with the median gain; ")
        + "the spectrum is that of single rows within readout channels; for R, 1/f noise and the "
        "correction of inter-pixel capacitance are in the solid curve. The column white noise of "
        "the table has what a typical pixel should have without 1/f noise."
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


def _footprint(page: Page, facts: _Facts) -> None:
    page.section("footprint", "Footprint")
    sky = _sky_positions(facts.l2)
    if sky is None:
        page.text("The file has no world coordinates.")
        return
    ra, dec, centre = sky
    east, north = _tangent(ra, dec, *centre)
    corners = np.array([[east[i], north[i]] for i in (0, 16, 32, 48)]).T
    figure = plots.footprint(np.array([east, north]), corners, centre)
    n = facts.l2.side - 1
    places = (("0, 0", 0), (f"{n}, 0", 16), (f"{n}, {n}", 32), (f"0, {n}", 48))
    rows = [[name, f"{ra[i] % 360:.6f}", f"{dec[i]:+.6f}"] for name, i in places]
    rows.append(["centre", f"{centre[0] % 360:.6f}", f"{centre[1]:+.6f}"])
    with page.beside():
        page.plots(
            [("footprint", figure, "Edge of the active array on the sky, east to the left.")]
        )
        page.table(["pixel (x, y)", "RA (deg)", "Dec (deg)"], rows)


def _sky_positions(l2: L2) -> tuple[np.ndarray, np.ndarray, tuple[float, float]] | None:
    """ICRS positions (deg) of 65 points along the edge of the active array, and of its centre."""
    if l2.meta.get("wcs") is None:
        return None
    from ..io.l2 import quick_yaml

    with quick_yaml(), open_asdf(l2.path) as file:
        wcs = file["roman"]["meta"]["wcs"]
    n = l2.side - 1.0
    up, down = np.linspace(0, n, 17)[:-1], np.linspace(n, 0, 17)[:-1]
    x = np.concatenate([up, np.full(16, n), down, np.zeros(16), [0, n / 2]])
    y = np.concatenate([np.zeros(16), up, np.full(16, n), down, [0, n / 2]])
    ra, dec = (np.asarray(v, float) for v in wcs(x, y, with_bounding_box=False))
    return ra[:-1], dec[:-1], (float(ra[-1]), float(dec[-1]))


def _tangent(
    ra: np.ndarray, dec: np.ndarray, ra0: float, dec0: float
) -> tuple[np.ndarray, np.ndarray]:
    """Gnomonic projection about (ra0, dec0), arcmin to the east and to the north."""
    a, d, d0 = np.radians(ra - ra0), np.radians(dec), math.radians(dec0)
    depth = math.sin(d0) * np.sin(d) + math.cos(d0) * np.cos(d) * np.cos(a)
    east = np.cos(d) * np.sin(a) / depth
    north = (math.cos(d0) * np.sin(d) - math.sin(d0) * np.cos(d) * np.cos(a)) / depth
    return np.degrees(east) * 60, np.degrees(north) * 60


def _timings(page: Page, facts: _Facts) -> None:
    page.section("timings", "Timings")
    timings = facts.l2.info.get("timings", {})
    stages, steps = timings.get("stages", {}), timings.get("steps", {})
    if not stages:
        page.text("The file does not tell.")
        return
    tile = timings.get("tile") or ["?", "?"]
    spent = None if facts.noise is None else facts.noise.seconds
    page.text(
        f"Tiles of {tile[0]} x {tile[1]} pixels. Starting the program and writing the end of the "
        "file are not in these times"
        + (", nor are noise layers." if spent is None else f"; noise layers took {spent:.1f} s.")
    )
    stages = {name: stages[name] for name in (*STAGES, *stages) if name in stages}
    shown = [
        (
            "stages",
            plots.bars("Wall time by stage", stages, "wall time (s)", "stage"),
            "Wall time, s.",
        )
    ]
    if steps:
        ordered = dict(sorted(steps.items(), key=lambda item: -item[1]))
        shown.append(
            (
                "steps",
                plots.bars("Processor time by step", ordered, "processor time (s)", "step"),
                "Processor time, s, all threads together; store is what it took to write.",
            )
        )  # fmt: skip
    page.plots(shown)


def _configuration(page: Page, facts: _Facts) -> None:
    page.section("configuration", "Configuration")
    info = facts.l2.info
    page.pre("Configuration, as it was given", _yaml(dict(info.get("config", {}))))
    page.pre("Steps and their options", str(info.get("log", "")))


def _provenance(page: Page, facts: _Facts) -> None:
    page.section("provenance", "Provenance")
    made = facts.l2.info.get("provenance", {})
    page.text(f"Fingerprint {made.get('fingerprint', '-')}.")
    page.table(
        ["input", "file", "MB", "content (SHA-256)"],
        [
            [key, str(file["path"]), f"{file['size'] / 1e6:.1f}", f"{file['content'][:12]}.."]
            for key, file in made.get("files", {}).items()
        ],
    )
    page.table(["package", "version"], [[k, str(v)] for k, v in made.get("versions", {}).items()])
    page.text(f"Report by roman-dask-l2 {__version__}.")


def _yaml(value: Any) -> str:
    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True)
