"""Ramps drawn in memory whose rate is known, and how far a fit is from it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from roman_dask_l2.core.detector import BORDER, Window
from roman_dask_l2.core.dq import GROUP, PIXEL
from roman_dask_l2.core.exposure import Exposure
from roman_dask_l2.core.step import Tile
from roman_dask_l2.simulation.settings import GAIN, NOISE, READ_PATTERN
from roman_dask_l2.steps.likelihood_params import LikelihoodParams
from roman_dask_l2.steps.likelihood_tables import difference_tables
from roman_dask_l2.steps.ramp_fit import fit_ramp
from roman_dask_l2.steps.ramp_likelihood import fit_likelihood
from roman_dask_l2.steps.ramp_params import RampFitParams

SHAPE = (256, 1024)
"""Pixels that are drawn at once."""
READ = NOISE["read"]
EXPOSURE = Exposure(
    SHAPE[1] + 2 * BORDER, tuple(tuple(reads) for reads in READ_PATTERN), frame_time=3.04
)

Fit = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray, np.ndarray]]
"""Ramps (R, y, x) to rate, error and flags (y, x)."""


def draw(
    rng: np.random.Generator,
    exposure: Exposure,
    rate: float,
    shape: tuple[int, int],
    hits: tuple[np.ndarray, np.ndarray] | None = None,
) -> np.ndarray:
    """Ramps (R, y, x) float32, DN, of photons that come one by one, and reads with their noise.

    Parameters
    ----------
    rate : float
        DN/s.
    hits : tuple of ndarray (y, x)
        Frame whose read first shows a cosmic ray, and its charge in electrons.
    """
    last = exposure.read_pattern[-1][-1]
    resultant = {f: j for j, reads in enumerate(exposure.read_pattern) for f in reads}
    charge, total = np.zeros(shape), np.zeros((exposure.n_resultants, *shape))
    for frame in range(last + 1):
        charge += rng.poisson(rate * GAIN * exposure.frame_time, shape)
        if hits is not None:
            charge += np.where(hits[0] == frame, hits[1], 0)
        if frame in resultant:
            total[resultant[frame]] += charge
    for plane, n in zip(total, exposure.n_reads, strict=True):
        plane /= n * GAIN
        plane += rng.normal(0, READ / np.sqrt(n), shape)
    return total.astype(np.float32)


def fitter(kernel: Any, params: Any, exposure: Exposure) -> Fit:
    """A fit of ramps without flags, but for the first resultant's, which the pipeline sets."""
    first = np.zeros((exposure.n_resultants, *SHAPE), np.uint8)
    first[: exposure.start] = GROUP["DO_NOT_USE"]

    def fit(ramps: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        shape = ramps.shape[1:]
        window = Window(BORDER, BORDER + shape[0], BORDER, BORDER + shape[1])
        rate, err, _, _, _, dq, *_ = kernel(
            ramps,
            first[:, : shape[0], : shape[1]],
            np.zeros(shape, np.uint32),
            np.full(shape, GAIN, np.float32),
            np.full(shape, READ, np.float32),
            tile=Tile(window, exposure.side),
            exposure=exposure,
            params=params,
        )
        return rate.astype(float), err.astype(float), dq

    return fit


def fits(exposure: Exposure = EXPOSURE) -> dict[str, Fit]:
    """Both fits with their default options."""
    return {
        "likelihood": fitter(fit_likelihood, LikelihoodParams(), exposure),
        "fixed": fitter(fit_ramp, RampFitParams(), exposure),
    }


@dataclass
class Errors:
    """How far rates are from the truth, over all pixels, flagged as jumps or not."""

    pixels: int
    bias: float
    """Mean of rate - truth, in units of the scatter."""
    bias_error: float
    """What chance alone gives it: 1 / sqrt(pixels)."""
    scatter: float
    """Standard deviation of the rate, DN/s."""
    err: float
    """Root mean square of the errors that the fit states, DN/s."""
    pull: float
    """Mean of (rate - truth) / err."""
    chi_square: float
    """Mean square of (rate - truth) / err."""
    false_jumps: float
    """Part of the pixels with JUMP_DET."""
    seconds: float
    """CPU seconds of the fit for 16.8 million pixels."""

    @property
    def ratio(self) -> float:
        """Scatter over stated error."""
        return self.scatter / self.err


def measure_errors(
    fits: dict[str, Fit], rate: float, pixels: int, seed: int, exposure: Exposure = EXPOSURE
) -> dict[str, Errors]:
    """Fit the same ramps of this rate (DN/s) with each fit; `pixels` is rounded up to tiles."""
    rng = np.random.default_rng([seed, int(1000 * rate)])
    sums = {name: np.zeros(6) for name in fits}
    cpu = dict.fromkeys(fits, 0.0)
    tiles = -(-pixels // (SHAPE[0] * SHAPE[1]))
    for _ in range(tiles):
        ramps = draw(rng, exposure, rate, SHAPE)
        for name, fit in fits.items():
            began = time.process_time()
            found, err, dq = fit(ramps)
            cpu[name] += time.process_time() - began
            d = found - rate
            jump = dq & PIXEL["JUMP_DET"] != 0
            pull = d / err
            sums[name] += [v.mean() for v in (d, d * d, err * err, pull, pull * pull, jump)]
    n = tiles * SHAPE[0] * SHAPE[1]
    results = {}
    for name, total in sums.items():
        mean, square, variance, pull, chi_square, jumps = total / tiles
        scatter = np.sqrt(square - mean**2)
        results[name] = Errors(
            n,
            mean / scatter,
            n**-0.5,
            scatter,
            np.sqrt(variance),
            pull,
            chi_square,
            jumps,
            cpu[name] / n * 2**24,
        )
    return results


def significance(exposure: Exposure, rate: float, frame: int) -> float:
    """How many sigma a charge of 1 DN stands out that the read of `frame` is the first to show.

    Its square is the largest drop of chi-square that leaving out one difference of consecutive
    resultants brings in a ramp without noise, under the covariance of a pixel of this rate. A
    charge that arrives amid the reads of a resultant is spread over two differences.
    """
    tables = difference_tables(exposure.read_pattern, exposure.frame_time)
    u = rate / (GAIN * READ**2)
    shown = [np.mean(np.array(reads) >= frame) for reads in exposure.read_pattern]
    d = (np.diff(shown) * tables.per_time)[exposure.start :]
    near = (u * tables.light_next + tables.read_next)[exposure.start : -1]
    covariance = (
        np.diag((u * tables.light + tables.read)[exposure.start :])
        + np.diag(near, 1)
        + np.diag(near, -1)
    )
    inverse = np.linalg.inv(covariance)
    x, total = inverse.sum(axis=1), inverse.sum()
    r = inverse @ d - (x @ d) / total * x
    v = np.diag(inverse) - x * x / total
    return float(np.sqrt(np.max(r * r / v)) / READ)


@dataclass
class Hits:
    """What became of pixels that a cosmic ray hit, in one range of significance."""

    low: float
    high: float
    pixels: int
    flagged: float
    """Part with JUMP_DET."""
    within: float
    """Part whose rate is within 4 stated errors of the truth, flagged or not."""
    chi_square: float
    """Mean square of (rate - truth) / err."""
    err: float
    """Root mean square of the stated errors over that of a pixel that was not hit."""


EDGES = (2, 3, 4, 5, 6, 8, 10, 15, 25, 50, 100)


CHARGES = (10**2.0, 10**4.3)
"""Electrons that a cosmic ray leaves in a pixel in simulated exposures."""


def middle_frames(exposure: Exposure) -> range:
    """Frames whose reads are first to show a cosmic ray "in the middle of the ramp": after the
    first resultant that is used, up to the first read of the last one."""
    return range(exposure.read_pattern[exposure.start][-1] + 1, exposure.read_pattern[-1][0] + 1)


def measure_hits(
    fits: dict[str, Fit],
    rate: float,
    tiles: int,
    seed: int,
    edges: tuple[float, ...] = EDGES,
    electrons: tuple[float, float] | None = None,
    exposure: Exposure = EXPOSURE,
) -> dict[str, list[Hits]]:
    """One cosmic ray in every pixel, at any frame in the middle of the ramp.

    Its charge is logarithmically uniform between `electrons`, or, without them, so that its
    significance is, between the first and the last of `edges`.
    """
    rng = np.random.default_rng([seed, int(1000 * rate), 1 if electrons is None else 2])
    unit = {f: significance(exposure, rate, f) for f in middle_frames(exposure)}
    frames = np.array(list(unit))
    found: dict[str, list[list[np.ndarray]]] = {name: [] for name in fits}
    quiet = {name: np.sqrt(np.mean(fit(draw(rng, exposure, rate, SHAPE))[1] ** 2))
             for name, fit in fits.items()}  # fmt: skip
    size = []
    for _ in range(tiles):
        frame = rng.choice(frames, SHAPE)
        per_electron = np.vectorize(unit.get)(frame) / GAIN
        if electrons is None:
            charge = np.exp(rng.uniform(*np.log([edges[0], edges[-1]]), SHAPE)) / per_electron
        else:
            charge = np.exp(rng.uniform(*np.log(electrons), SHAPE))
        ramps = draw(rng, exposure, rate, SHAPE, (frame, charge))
        size.append((charge * per_electron).ravel())
        for name, fit in fits.items():
            slope, err, dq = fit(ramps)
            jump = dq & PIXEL["JUMP_DET"] != 0
            found[name].append([v.ravel() for v in ((slope - rate) / err, err, jump)])
    which = np.digitize(np.concatenate(size), edges) - 1
    results = {}
    for name, parts in found.items():
        pull, err, jump = (np.concatenate(part) for part in zip(*parts, strict=True))
        results[name] = []
        for i, (low, high) in enumerate(zip(edges[:-1], edges[1:], strict=True)):
            at = which == i
            results[name].append(
                Hits(
                    low,
                    high,
                    int(at.sum()),
                    jump[at].mean(),
                    np.mean(np.abs(pull[at]) < 4),
                    np.mean(pull[at] ** 2),
                    np.sqrt(np.mean(err[at] ** 2)) / quiet[name],
                )
            )
    return results
