"""Measures of an exposure's quality: background, masked pixels, jumps, chi-square, noise layers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..core.detector import Window
from ..core.dq import PIXEL
from ..core.exposure import Exposure
from ..errors import InputError
from ..io.arrays import FileArray
from ..io.layout import Layout, read_layout

if TYPE_CHECKING:
    from ..steps.ramp_params import RampFitParams

BAND = 256
"""Rows that are read at a time."""
HALVES = 1 << 16
"""Bit patterns of a float16."""


def measure(path: Path, noise: Path | None = None) -> dict[str, Any]:
    """Measures by which the exposures of a campaign are compared.

    Parameters
    ----------
    path : Path
        An L2 file of this program.
    noise : Path, optional
        Its noise file.

    Returns
    -------
    dict
        ``detector`` and ``optical_element``; ``sky``, the mode of the background, DN/s;
        ``masked``, the fraction of pixels in the combined mask; ``jumps``, pixels flagged JUMP_DET
        over all pixels and over the time that the ramp fit spans, 1/s; ``chi_square``, see
        `reduced_chi_square`. None if the file does not have it. And what `headers` gives.

    Raises
    ------
    InputError
        If it cannot be read, or is not an L2 file of this program.
    """
    layout = read_layout(path)
    dq, mask = (found(layout, *key) for key in (("roman", "dq"), ("mask",)))
    chisq = layout.array("roman", "chisq")
    exposure = exposure_of(layout)
    jumps = masked = 0
    counts = np.zeros(HALVES, np.int64)
    ny, nx = dq.shape
    for y in range(0, ny, BAND):
        rows = Window(y, min(y + BAND, ny), 0, nx)
        jumps += int(np.count_nonzero(dq.read(rows) & PIXEL["JUMP_DET"]))
        bad = mask.read(rows)
        masked += int(np.count_nonzero(bad))
        if chisq is not None:
            counts += count_halves(chisq.read(rows), ~bad)
    spanned = float(exposure.tbar[-1] - exposure.tbar[exposure.start])
    instrument = layout.value("roman", "meta", "instrument", default={})
    return {
        "detector": instrument.get("detector"),
        "optical_element": instrument.get("optical_element"),
        "sky": _number(layout.value("processinfo", "medsky")),
        "masked": masked / (ny * nx),
        "jumps": jumps / (ny * nx) / spanned,
        "chi_square": reduced_chi_square(counts, degrees_of_freedom(exposure)),
        "start": start_of(layout),
        "layers": {} if noise is None else layer_sigmas(noise),
    }


def headers(path: Path, noise: Path | None = None) -> dict[str, Any]:
    """The part of `measure` that needs no pixel.

    Returns
    -------
    dict
        ``start``, when the exposure began (ISO 8601, UTC), or None; ``layers``, the standard
        deviation of each noise layer, DN/s, by label.

    Raises
    ------
    InputError
        If a file cannot be read.
    """
    layers = {} if noise is None else layer_sigmas(noise)
    return {"start": start_of(read_layout(path)), "layers": layers}


def start_of(layout: Layout) -> str | None:
    """When the exposure of an L2 file began (ISO 8601, UTC); None if it does not say."""
    text = str(layout.value("roman", "meta", "exposure", "start_time", default=""))
    try:
        found = datetime.fromisoformat(text.strip())
    except ValueError:
        return None
    found = found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)
    return found.isoformat()


def layer_sigmas(path: Path) -> dict[str, float | None]:
    """Standard deviation of each layer of a noise file, DN/s, by label; None if it has none.

    Raises
    ------
    InputError
        If the file cannot be read.
    """
    lines = read_layout(path).value("statistics", default=[])
    known = [line for line in lines if isinstance(line, Mapping) and "label" in line]
    return {str(line["label"]): _number(line.get("sigma")) for line in known}


def found(layout: Layout, *key: str) -> FileArray:
    """An array of an L2 file.

    Raises
    ------
    InputError
        If the file does not have it.
    """
    array = layout.array(*key)
    if array is None:
        name = ".".join(key)
        raise InputError(f"{layout.path}: no {name}, expected an L2 file of roman-dask-l2")
    return array


def exposure_of(layout: Layout) -> Exposure:
    """Read pattern and times from an L2 file.

    Raises
    ------
    InputError
        If the file does not have them.
    """
    info = layout.value("processinfo", default={})
    instrument = layout.value("roman", "meta", "instrument", default={})
    try:
        return Exposure(
            side=found(layout, "roman", "data").shape[-1] + 2 * int(info["meta"]["nborder"]),
            read_pattern=tuple(tuple(int(f) for f in r) for r in info["meta"]["read_pattern"]),
            frame_time=float(info["meta"]["frame_time"]),
            detector=str(instrument["detector"]),
            optical_element=str(instrument["optical_element"]),
            exclude_first=bool(info["exclude_first"]),
        )
    except (KeyError, TypeError) as error:
        raise InputError(
            f"{layout.path}: processinfo has no {error}, expected an L2 file of roman-dask-l2"
        ) from None


def degrees_of_freedom(exposure: Exposure) -> int:
    """Degrees of freedom of the fit of a full ramp: resultants used, minus slope and intercept."""
    return exposure.n_resultants - exposure.start - 2


def count_halves(values: np.ndarray, use: np.ndarray) -> np.ndarray:
    """How often each float16 occurs among the positive ones of ``values[use]``.

    Positive floats have the order of their bit patterns, so this is a histogram without any loss.
    """
    bits = values.view(np.uint16)[use]
    counts = np.bincount(bits, minlength=HALVES)
    counts[0] = 0
    counts[np.float16(np.inf).view(np.uint16) :] = 0  # infinite, not a number, negative
    return counts


def reduced_chi_square(counts: np.ndarray, degrees: int) -> float | None:
    """Median of the ramps' chi-square over its expected value.

    The median of a chi-square with nu degrees of freedom over nu is
    ``2 P^-1(nu/2, 1/2) / nu``, with P the regularised incomplete gamma function. Unlike the mean
    it is not affected by cosmic rays and bright stars.

    Parameters
    ----------
    counts : ndarray (65536,) of int
        From `count_halves`, of chi-square per degree of freedom.
    degrees : int
        nu.

    Returns
    -------
    float or None
        1 for ramps whose noise is that assumed by the weights of the fit; None if there are none.
    """
    total = int(counts.sum())
    if total == 0 or degrees < 1:
        return None
    middle = int(np.searchsorted(np.cumsum(counts), (total + 1) // 2))
    return float(np.array(middle, np.uint16).view(np.float16)) / expected_median(degrees)


def expected_chi_square(
    exposure: Exposure, params: RampFitParams, rate: float, gain: float, read_noise: float
) -> float:
    """`reduced_chi_square` of ramps whose rate differs from that assumed by the fit's weights.

    The residuals of the fit are whitened with the covariance C that the weights assume. Their own
    covariance M = T C' T^T, T the operator that whitens, is that of the actual rate.
    Their sum of squares is nearly tr M times a chi-square over nu' degrees of freedom, with the
    same variance for nu' = (tr M)^2 / tr M^2 (Satterthwaite 1946).

    Parameters
    ----------
    exposure : Exposure
    params : RampFitParams
        Of the fit.
    rate : float
        Of a typical pixel, DN/s.
    gain : float
        e/DN.
    read_noise : float
        Of one read, DN.
    """
    from ..steps.ramp_weights import quality_tables, scaled_covariance

    whiten = quality_tables(exposure, params)[0][exposure.n_resultants, :, exposure.start :]
    whiten = whiten.astype(float)
    own = whiten @ scaled_covariance(exposure, rate / (gain * read_noise**2)) @ whiten.T
    total = float(np.trace(own))
    equivalent = total**2 / float(np.sum(own * own))
    return total * expected_median(equivalent) / expected_median(degrees_of_freedom(exposure))


def expected_median(degrees: float) -> float:
    """Median of a chi-square distribution over its degrees of freedom."""
    from scipy.special import gammaincinv

    return float(2 * gammaincinv(degrees / 2, 0.5) / degrees)


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None
