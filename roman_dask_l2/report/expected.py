"""What errors and chi-square of an image should be, from its read pattern and reference files."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..core.dq import MASK_GROWTH
from ..core.exposure import Exposure
from ..products.quality import expected_chi_square
from ..steps.likelihood_pixel import solve
from ..steps.likelihood_tables import difference_tables
from ..steps.ramp_params import RampFitParams
from ..steps.ramp_weights import make_fit, two_point_weights
from .image_scan import L2, RATES, ImageScan
from .replay import Replay


def options(l2: L2, step: str) -> dict[str, Any]:
    """Options of a step, as the image records them; empty if it is not in the recipe."""
    steps = l2.info.get("provenance", {}).get("recipe", {}).get("steps", [])
    return next((dict(entry[step]) for entry in steps if step in entry), {})


def has_step(l2: L2, step: str) -> bool:
    """Whether a step is in the recipe that an image was made with."""
    steps = l2.info.get("provenance", {}).get("recipe", {}).get("steps", [])
    return any(step in entry for entry in steps)


def reduced(l2: L2) -> bool:
    """Whether chi-square in the file is per degree of freedom."""
    return options(l2, "ramp_fit_likelihood").get("chisq", "reduced") == "reduced"


def mask_growth(l2: L2) -> Mapping[str, int]:
    """Flag -> how many pixels are masked for one that has it."""
    used = options(l2, "mask").get("growth")
    if used is not None:
        return {str(flag): int(pixels) for flag, pixels in used}
    settings = l2.info.get("provenance", {}).get("settings", {})
    return settings.get("MASK", MASK_GROWTH)


def kept_share(replay: Replay) -> float:
    """Median share of its charge that a pixel keeps, if the errors take it into account; else 1."""
    corrected = any(b.name == "ipc" for b in replay.steps)
    counted = any(getattr(b.params, "ipc_noise", False) for b in replay.steps)
    return (replay.median("ipc4d.data", 1, 1) or 1.0) if corrected and counted else 1.0


def read_noise(l2: L2, seen: ImageScan, replay: Replay | None) -> tuple[float | None, str]:
    """Read noise of a typical pixel after the correction of inter-pixel capacitance, DN, and where
    that value comes from; None if the file does not say."""
    sigma = None if replay is None else replay.median("read.data")
    if replay is not None and sigma:
        share = kept_share(replay)
        return sigma / share, (
            f"medians of the reference files: read noise σ = {sigma:.3g} DN, share of the charge "
            f"that a pixel keeps κ = {share:.4f}"
        )
    weights, exposure = l2.numbers("weights"), l2.exposure
    if not seen.read_variance.size or not weights.size:
        return None, ""
    full = make_fit(exposure, weights, exposure.n_resultants)
    noise = math.sqrt(float(np.median(seen.read_variance))) / full.read
    return noise, (
        f"the read noise reference is not available, σ/κ = {noise:.3g} DN is taken from the median "
        "of err² - var_poisson"
    )


def errors(l2: L2, seen: ImageScan, replay: Replay | None) -> tuple[list[np.ndarray], str]:
    """Curves (rates, errors) of a full ramp and of shortened ones, and what they come from; no
    curve if nothing is known."""
    weights, exposure = l2.numbers("weights"), l2.exposure
    likelihood = replay is not None and replay.takes_out_jumps
    if not weights.size and not likelihood:
        return [], "The recipe has another ramp fit: no curve can be predicted."
    noise, source = read_noise(l2, seen, replay)
    if noise is None:
        return [], "The file has no var_poisson: no curve can be predicted."
    gain = l2.info.get("medgain") or math.nan
    if likelihood:
        words = (
            "V is the covariance of the differences of resultants for a pixel's own rate; "
            f"{source}, gain g = {gain:.3g} e/DN. Dashed: ramps that saturation has shortened. "
            "Pixels above the lines have lost differences to cosmic rays or flags."
        )
        return _likelihood_errors(exposure, noise, gain), words
    words = (
        f"K, N, τ, t̄ are the weights, reads and times of the resultants; {source}, gain g = "
        f"{gain:.3g} e/DN. Dashed: ramps that saturation has shortened."
    )
    rates = np.geomspace(10 ** RATES[0], 10 ** RATES[-1], 200)
    least = options(l2, "ramp_fit").get("truncated_min", 2)
    ends = range(exposure.start + least, exposure.n_resultants)
    full = make_fit(exposure, weights, exposure.n_resultants)
    fits = [full, *(make_fit(exposure, two_point_weights(exposure, n), n) for n in ends)]
    curves = [
        np.array([rates, np.sqrt((noise * fit.read) ** 2 + fit.poisson * rates / gain)])
        for fit in fits
    ]
    return curves, words


def _likelihood_errors(exposure: Exposure, noise: float, gain: float) -> list[np.ndarray]:
    """Curves (rates, errors) of the likelihood fit, of a full ramp and of shortened ones."""
    tables = difference_tables(exposure.read_pattern, exposure.frame_time)
    n = exposure.n_resultants - 1
    rates = np.geomspace(10 ** RATES[0], 10 ** RATES[-1], 200)
    work, d = [np.empty(n) for _ in range(4)], np.zeros(n)
    curves = []
    for end in (n, *range(exposure.start + 1, n)):
        used = (np.arange(n) >= exposure.start) & (np.arange(n) < end)
        totals = [solve(used, d, rate / (gain * noise**2), tables, *work)[0] for rate in rates]
        curves.append(np.array([rates, noise / np.sqrt(totals)]))
    return curves


def chi_square(l2: L2, seen: ImageScan, replay: Replay | None) -> float:
    """Reduced chi-square of ramps whose only noise is that of reading and of the background's
    light; 1 where that is not known."""
    known, noise = options(l2, "ramp_fit"), read_noise(l2, seen, replay)[0]
    sky, gain = (float(l2.info.get(key) or math.nan) for key in ("medsky", "medgain"))
    if not known or noise is None or not math.isfinite(sky + gain + noise):
        return 1.0
    params = RampFitParams(**known)
    return expected_chi_square(l2.exposure, params, max(sky, 0.0), gain, noise)
