"""Sections of an exposure's report on its image: rate, flags, errors, sky, footprint."""

from __future__ import annotations

import math

import numpy as np

from ..core.detector import BORDER, Window
from ..core.dq import PIXEL
from ..io.asdf_file import open_asdf
from ..products.quality import degrees_of_freedom
from ..steps.sky import sky_model
from ..system.foreign import quick_yaml
from . import expected, plots
from .blocks import kind_counts, percent, spread
from .facts import Facts, medsky
from .image_scan import L2, RATES, ZOOM
from .page import Page


def rate_section(page: Page, facts: Facts) -> None:
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


def flags_section(page: Page, facts: Facts) -> None:
    seen, pixels = facts.seen, facts.pixels
    counts = kind_counts(seen.flags, pixels)
    page.section("flags", "Flags")
    caption = "Where the flags are, by kind; each cell shows the first kind that fits."
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
            "A pixel may have several flags. The last column says how many pixels are masked for "
            "one that has this flag: 1 (itself), 5 (with its cardinal neighbours), 3 x 3 or 5 x 5."
        )


def errors_section(page: Page, facts: Facts) -> None:
    l2, seen = facts.l2, facts.seen
    page.section("errors", "Errors")
    curves, words = expected.errors(l2, seen, facts.replay)
    shown = [
        (
            "error_rate",
            plots.error(seen, curves[0] if curves else None, curves[1:], medsky(l2)),
            f"Unmasked pixels by rate and error; {seen.dim} with rates below "
            f"{10 ** RATES[0]:g} DN/s are not shown.",
        )
    ]
    degrees = degrees_of_freedom(l2.exposure)
    if seen.chisq.any() and degrees > 0 and expected.reduced(l2):
        shown.append(
            (
                "chi_square",
                plots.chi_square(seen.chisq, degrees),
                "Chi-square of the ramp fit of unmasked pixels, against the distribution that "
                "it has if the noise is what the weights of the fit assume.",
            )
        )
    if curves and facts.replay is not None and facts.replay.takes_out_jumps:
        page.formula("1/err<sup>2</sup> = <b>1</b><sup>T</sup> V<sup>-1</sup> <b>1</b>")
    elif curves:
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


def sky_section(page: Page, facts: Facts) -> None:
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
        f"DN/s. The residual has a robust standard deviation of {sigma:.2g} DN/s from cell to cell."
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
                "not removed.",
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


def footprint_section(page: Page, facts: Facts) -> None:
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
