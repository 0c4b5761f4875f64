"""A calibrated exposure compared with the simulation's truth.

The truth follows the convention of the reference files: with the survey's, uniform light has a rate
in proportion to the solid angle of each pixel, with the observatory's a uniform one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..core.detector import BORDER
from ..core.dq import MASK_GROWTH, PIXEL
from ..core.exposure import Exposure
from ..io.asdf_file import open_asdf
from ..io.layout import read_layout
from ..products.job import Job, prepare
from ..simulation.wcs import relative_area
from ..steps.ramp_params import RampFitParams
from ..steps.ramp_weights import Fit, fits

CHI_SQUARE = (1.0, 1.3)
"""Expected mean square of (rate - truth) / err on faint pixels.

It is more than 1 because `err` holds only what a pixel's ramp knows of. The simulated exposure adds
1/f noise (0.09: U_PINK and half of C_PINK, what the reference output leaves of it, over read and
Poisson noise); and an `err` that is estimated from the rate is small where the rate happens to be
low (0.03). Without 1/f noise see tests/test_truth.py.
"""
BIAS = 0.02
"""Largest median of rate - truth, DN/s: 5 times the 0.004 that 30 seeds gave.

1/f noise that the reference pixels see differently from the others shifts whole frames.
"""
FAINT = 1.0
"""True rate, DN/s, below which a pixel counts as away from stars; the sky has 0.4."""
SIGNIFICANT = 8.0
"""Cosmic rays are to be found from here up, see `jump_significance`."""

EXPECTED_FLAGS: dict[str, tuple[tuple[str, ...], ...]] = {
    "ad_floor": (("AD_FLOOR",),),
    "off_range": (("NO_LIN_CORR",),),
    "no_sat_check": (("NO_SAT_CHECK",),),
    "flat": (("NO_FLAT_FIELD",),),
    "gain": (("NO_GAIN_VALUE",),),
    "hot": (("HOT", "UNRELIABLE_DARK"),),
    "dead": (("DEAD",),),
    "masked": tuple((flag,) for flag in MASK_GROWTH),
    "dark_dq": (("WARM",), ("UNRELIABLE_DARK",)),
    "linearity_dq": (("NO_LIN_CORR",), ("REFERENCE_PIXEL",), ("NONLINEAR",)),
    "dropout": (("DROPOUT",),),
}
"""Condition of the simulator -> flags of its places, in turn."""
UNFLAGGED = {
    "ad_floor": ("ramp_fit_likelihood", "other_flags"),
    "dropout": ("ramp_fit_likelihood", "other_flags"),
    "gain": ("ramp_fit_likelihood", "check_gain"),
    "flat": ("flat_observatory", "check_references"),
}
"""Condition -> step and option without which pixels do not get its flags (romancal 1.1)."""


@dataclass(frozen=True)
class Check:
    """One comparison with the truth."""

    name: str
    measured: str
    expected: str
    ok: bool


@dataclass
class DemoReport:
    """What a demonstration wrote and found.

    Attributes
    ----------
    title : str
    files : dict of str to Path
        What it is -> where it is.
    checks : list of Check
    seconds : dict of str to float
        Wall time by stage.
    notes : list of str
    """

    title: str
    files: dict[str, Path] = field(default_factory=dict)
    checks: list[Check] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether all checks passed."""
        return all(check.ok for check in self.checks)

    def lines(self) -> list[str]:
        """The summary, for people."""
        rows = [("compared with the truth", "measured", "expected", "")]
        rows += [(c.name, c.measured, c.expected, "ok" if c.ok else "FAILED") for c in self.checks]
        widths = [max(len(row[i]) for row in rows) for i in range(4)]
        label = max(map(len, self.files), default=0)
        failed = sum(not check.ok for check in self.checks)
        return [
            self.title,
            "",
            *(f"  {what:<{label}}  {path}" for what, path in self.files.items()),
            "",
            *("  ".join(["", *map(str.ljust, row, widths)]).rstrip() for row in rows),
            "",
            *self.notes,
            ", ".join(f"{what} {seconds:.1f} s" for what, seconds in self.seconds.items()),
            f"{failed} of {len(self.checks)} checks FAILED" if failed else "all checks passed",
        ]


# -- the comparison ------------------------------------------------------------------------------


CONVENTIONS = {
    "survey": "the true rate of uniform light is as the solid angle of each pixel; sky included",
    "observatory": "the true rate of uniform light is uniform (rate / flat); no sky is subtracted",
}
"""Whose reference files describe the detector -> what the true rate means."""


LIGHT = {"survey": "solid angle", "observatory": "uniform"}
"""Whose reference files describe the detector -> what uniform light looks like in the truth; as
`roman_dask_l2.core.step.Step` has it for an image."""


def convention(truth: Path, l2: Path | None = None) -> str:
    """What the true rate in a file of the simulator means, and whether it has to be changed to be
    compared with an image; one sentence."""
    with open_asdf(truth) as file:
        references = file["truth"]["options"].get("references", "survey")
    said, wanted = CONVENTIONS[references], None if l2 is None else uniform_light(l2)
    if wanted is None or wanted == LIGHT[references]:
        return said
    how = "times" if wanted == "solid angle" else "over"
    return f"{said}; compared with the image {how} the solid angle of each pixel"


def uniform_light(l2: Path) -> str | None:
    """What a Level-2 file says that uniform light looks like in it; None if it does not say."""
    said: str | None = read_layout(l2).value("processinfo", "uniform_light", default=None)
    return said


def true_rate(facts: Mapping[str, Any], light: str | None) -> np.ndarray:
    """The true rate as an image has it in which uniform light looks like `light`, float32."""
    rate = np.asarray(facts["rate"], np.float32)
    own = LIGHT[facts.get("options", {}).get("references", "survey")]
    if light is None or light == own:
        return rate
    area = relative_area(rate.shape[0] + 2 * BORDER)
    return rate * area if light == "solid angle" else rate / area


def without_flags(job: Job) -> list[str]:
    """Conditions of the simulator that an option of the recipe leaves without flags."""
    return [
        condition
        for condition, (step, option) in UNFLAGGED.items()
        if not getattr(job.params(step), option, True)
    ]


def compare(config: Path, l2: Path, truth: Path) -> list[Check]:
    """Check an L2 file against the truth of its simulation.

    Parameters
    ----------
    config : Path
        Configuration of the run.
    l2, truth : Path

    Returns
    -------
    list of Check
    """
    job = prepare(config)
    # The significance of a jump is that for the usual weights, whichever fit looks for it.
    fit = fits(job.exposure, job.params("ramp_fit") or RampFitParams())[-1]
    inside = np.s_[BORDER:-BORDER, BORDER:-BORDER]
    gain, read = (job.inputs.sources[f"{key}.data"].read()[inside] for key in ("gain", "read"))
    with (
        open_asdf(l2, lazy_load=False) as image,
        open_asdf(truth, lazy_load=False) as true,
    ):
        dq, mask = np.asarray(image["roman"]["dq"]), np.array(image["mask"])
        name = "data_withsky" if "data_withsky" in image["roman"] else "data"
        rate = np.asarray(image["roman"][name])
        err = np.asarray(image["roman"]["err"]).astype(np.float32)
        facts = true["truth"]
        truth_here = true_rate(facts, uniform_light(l2))
        left_out = without_flags(job)
        for condition in left_out:  # nothing says that these rates are of no use
            y, x = np.reshape(facts["conditions"].get(condition, ()), (-1, 2)).T - BORDER
            mask[y, x] = True
        return [
            _valid(l2),
            *_rates(rate, err, mask, truth_here),
            _cosmic_rays(facts["cosmic_rays"], truth_here, gain, read, job.exposure, fit, dq),
            *_saturation(np.asarray(facts["saturated_at"])[inside], dq),
            _conditions(facts["conditions"], facts["guide_window"], dq, left_out),
        ]


def _valid(path: Path) -> Check:
    """The mission's own library takes the file for what it should be."""
    from roman_datamodels import datamodels

    try:
        with datamodels.open(path) as model:
            model.validate()
            found = type(model).__name__
    except Exception as error:  # whatever it dislikes, in its own words
        found = str(error).splitlines()[0][:60]
    return Check("file is valid", found, "ImageModel", found == "ImageModel")


def _rates(rate: np.ndarray, err: np.ndarray, mask: np.ndarray, truth: np.ndarray) -> list[Check]:
    """Is the rate right within its errors, away from stars and flags?"""
    use = ~mask & (truth < FAINT)
    difference = (rate - truth)[use]
    chi_square = float(np.mean((difference / err[use]) ** 2, dtype=np.float64))
    median = float(np.median(difference))
    low, high = CHI_SQUARE
    return [
        Check(
            "chi-square of rate - truth, with 1/f noise",
            f"{chi_square:.3f}",
            f"{low} .. {high}",
            low <= chi_square <= high,
        ),
        Check(
            "median of rate - truth, DN/s",
            f"{median:+.4f}",
            f"{-BIAS} .. {BIAS}",
            abs(median) <= BIAS,
        ),
    ]


def jump_significance(
    rays: Mapping[str, Any],
    rate: np.ndarray,
    gain: np.ndarray,
    read: np.ndarray,
    exposure: Exposure,
    fit: Fit,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """How clearly cosmic rays stand out in the ramps of the pixels that they hit.

    Parameters
    ----------
    rays : mapping
        ``y``, ``x`` (full frame), ``frame`` (whose read first shows it), ``electrons``.
    rate, gain, read : ndarray (N-8, N-8)
        True rate (DN/s), gain (e/DN), read noise (DN).
    exposure : Exposure
    fit : Fit
        Of the whole ramp.

    Returns
    -------
    y, x : ndarray of int
        Pixels of the active array that are hit, each once.
    significance : ndarray
        What the hits add to the mean of D, the difference of two neighbouring resultants over
        their distance minus the fitted slope, over the standard deviation that the pipeline's jump
        detection ascribes to D; for the neighbours where this is largest. A hit amid the reads of a
        resultant is spread over two differences, and less significant.
    first : ndarray of int
        The earlier one of these neighbours.
    """
    y, x, frame = (np.asarray(rays[key]) for key in ("y", "x", "frame"))
    active = rate.shape
    pixels, which = np.unique(
        np.ravel_multi_index((y - BORDER, x - BORDER), active), return_inverse=True
    )
    reads = [np.array(r)[:, None] for r in exposure.read_pattern]
    shown = np.array([np.mean(r >= frame, axis=0) for r in reads])  # fraction of the reads
    gains = gain.ravel()[pixels]
    added = np.zeros((pixels.size, exposure.n_resultants))  # DN, in each resultant
    np.add.at(added, which, shown.T * (np.asarray(rays["electrons"]) / gains[which])[:, None])
    slope = added @ fit.k.astype(float)
    v = np.maximum(rate.ravel()[pixels] + slope, 0) / gains
    best, first = np.full(pixels.size, -np.inf), np.zeros(pixels.size, np.int64)
    for (i, j), dt, a, b in zip(fit.pairs, fit.pair_dt, fit.pair_a, fit.pair_b, strict=True):
        if j == i + 1:
            d = (added[:, j] - added[:, i]) / dt - slope
            significance = d / np.sqrt(a * v + b * read.ravel()[pixels] ** 2)
            first[significance > best] = i
            best = np.maximum(best, significance)
    ys, xs = np.unravel_index(pixels, active)
    return ys, xs, best, first


def _cosmic_rays(
    rays: Mapping[str, Any],
    rate: np.ndarray,
    gain: np.ndarray,
    read: np.ndarray,
    exposure: Exposure,
    fit: Fit,
    dq: np.ndarray,
) -> Check:
    """Are the cosmic rays found, in pixels that have nothing else wrong?"""
    y, x, significance, _ = jump_significance(rays, rate, gain, read, exposure, fit)
    others = np.uint32(~PIXEL["JUMP_DET"] & 0xFFFFFFFF)
    hit = (significance > SIGNIFICANT) & (dq[y, x] & others == 0)
    n, found = np.count_nonzero(hit), np.count_nonzero(dq[y, x][hit] & PIXEL["JUMP_DET"])
    return Check(
        f"pixels hit by a cosmic ray above {SIGNIFICANT:g} sigma that are found",
        f"{found} of {n}",
        ">= 99 %",
        bool(found >= 0.99 * n),
    )


def _saturation(saturated_at: np.ndarray, dq: np.ndarray) -> list[Check]:
    """Are the saturated pixels flagged, and no others but those around them?"""
    # The first resultant, which no fit uses, is not looked at: what is saturated there stays so.
    true = (saturated_at >= 0) & (dq & PIXEL["NO_SAT_CHECK"] == 0)
    flagged = dq & PIXEL["SATURATED"] != 0
    n, found = np.count_nonzero(true), np.count_nonzero(true & flagged)
    near = np.zeros_like(true)
    for y, x in zip(*np.nonzero(true), strict=True):
        near[max(y - 2, 0) : y + 3, max(x - 2, 0) : x + 3] = True
    stray = np.count_nonzero(flagged & ~near)
    return [
        Check("saturated pixels that are flagged", f"{found} of {n}", "all", found == n),
        Check("flagged far from saturated ones", str(stray), "0", stray == 0),
    ]


def _conditions(
    places: Mapping[str, Any],
    guide_window: list[int] | None,
    dq: np.ndarray,
    left_out: Sequence[str],
) -> Check:
    """Has every defect that was put in the flags that it should have? But for conditions that are
    `left_out`, to which the recipe gives none."""
    found = n = 0
    failed = set()
    places = {name: where for name, where in places.items() if name not in left_out}
    for condition, y, x, flags in _expected_flags(places):
        bits = sum(PIXEL[flag] for flag in flags)
        right = dq[y, x] & bits == bits
        n, found = n + 1, found + int(right)
        if not right:
            failed.add(condition)
    if guide_window is not None:
        x0, x1, y0, y1 = (v - BORDER for v in guide_window)
        columns, window = dq[:, x0:x1], dq[y0:y1, x0:x1]
        right = bool(np.all(columns & PIXEL["GW_AFFECTED_DATA"]))
        right = right and bool(np.all(window & PIXEL["DO_NOT_USE"]))
        n, found = n + 1, found + int(right)
        if not right:
            failed.add("guide_window")
    missing = f" (wrong: {', '.join(sorted(failed))})" if failed else ""
    but = f" (not by this recipe: {', '.join(left_out)})" if left_out else ""
    return Check(f"defects that are flagged{but}", f"{found} of {n}{missing}", "all", not failed)


def _expected_flags(places: Mapping[str, Any]) -> Iterator[tuple[str, int, int, tuple[str, ...]]]:
    """(condition, y, x, flags) of every place that has flags of its own."""
    for condition, flags in EXPECTED_FLAGS.items():
        where = np.asarray(places.get(condition, ())).tolist()
        if condition == "off_range":  # the last two stay dark, and may so stay in range
            where = where[:-2]
        for i, (y, x) in enumerate(where):
            yield condition, y - BORDER, x - BORDER, flags[i % len(flags)]
