"""The transient in the first resultant of detector WFI18: fitted and removed, or masked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np

from ..core.detector import BORDER, Window
from ..core.dq import GROUP
from ..core.exposure import Exposure
from ..core.step import Params, Reduction, Step, Tile
from ..system.foreign import load

MASKED_ROWS = 1000
"""Rows of resultant 0 that are flagged where the transient cannot be removed."""
BAND = 32
"""Rows that are processed together (any number gives the same result)."""


class TransientParams(Params):
    """Parameters of `remove_transient`."""

    correct: bool = False
    """Fit the transient and subtract it."""
    mask_rows: bool = False
    """Flag the first 1000 rows instead."""
    swap_medians: bool = False
    """Compare ``S_4 - S_3`` at column x with the median of row x, as romancal 1.1 does, instead
    of with the median of the pixel's own row."""


_DEFAULT = TransientParams()


def bands(exposure: Exposure, params: TransientParams) -> list[Window]:
    """Bands of full active rows; none if nothing is fitted."""
    n = exposure.side
    if params.mask_rows or not params.correct or exposure.n_resultants < 5:
        return []
    return [Window(y, min(y + BAND, n - BORDER), 0, n) for y in range(BORDER, n - BORDER, BAND)]


Residuals = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Resultant 0 minus its extrapolation, ``S_4 - S_3`` and its median in each row: float64 and
float32 (rows, active), float32 (rows,)."""
Band = tuple[np.ndarray, np.ndarray | Residuals]
"""What is measured on a band of rows, see `row_residuals`."""


def row_residuals(
    ramp: np.ndarray,
    read_time: np.ndarray,
    *,
    tile: Tile,
    exposure: Exposure,
    params: TransientParams = _DEFAULT,
) -> Band:
    """Clipped row means of resultant 0 minus its extrapolation from resultants 1 and 2.

    Only pixels with little signal (``S_4 - S_3`` at most the row's median) count.

    Parameters
    ----------
    ramp : ndarray (R, rows, N) of float32
        DN.
    read_time : ndarray (rows, N) of float64
        s.

    Returns
    -------
    times : ndarray (rows,) of float64
        Mean read time of each row, s.
    means : ndarray (rows,) of float64
        DN. With `swap_medians` the `Residuals` instead: the medians of all rows must be there
        first.
    """
    times = read_time.mean(axis=1)
    t = exposure.tbar
    s = ramp[(slice(5), *tile.active)].astype(np.float64)
    expected = s[1] - (s[2] - s[1]) * (t[1] - t[0]) / (t[2] - t[1])
    step = s[4] - s[3]
    if params.swap_medians:
        narrow = step.astype(np.float32)
        return times, (s[0] - expected, narrow, np.median(narrow, axis=1))
    bright = step > np.median(step, axis=1, keepdims=True)
    return times, _clipped_means(s[0] - expected, bright)


def _clipped_means(values: np.ndarray, bright: np.ndarray) -> np.ndarray:
    """The mean that ``sigma_clipped_stats`` of astropy gives, without its median and scatter."""
    clip = load("astropy.stats").SigmaClip(sigma=3.0)
    dark = np.ma.MaskedArray(values, bright | ~np.isfinite(values))
    kept = clip(dark, axis=1, masked=False)
    counted = np.isfinite(kept)
    with np.errstate(invalid="ignore"):  # nothing is left of a row: NaN
        return np.asarray(np.where(counted, kept, 0.0).sum(axis=1) / counted.sum(axis=1))


def _swapped_means(partials: Sequence[Residuals]) -> np.ndarray:
    """Row means where column x is compared with the median of row x."""
    medians = np.concatenate([of_rows for _, _, of_rows in partials])
    return np.concatenate([_clipped_means(values, step > medians) for values, step, _ in partials])


def held(exposure: Exposure, params: TransientParams) -> float:
    """Bytes of all `Residuals`, where they are needed at once."""
    needed = params.swap_medians and bands(exposure, params)
    return 12.0 * exposure.side**2 if needed else 0.0


def transient(t: np.ndarray, a: float, b: float, ta: float, tb: float) -> np.ndarray:
    """``a exp(-t/ta) + b exp(-t/tb)``, DN at time t (s)."""
    return a * np.exp(-t / ta) + b * np.exp(-t / tb)


def fit_transient(
    partials: Sequence[Band], *, params: TransientParams = _DEFAULT
) -> Mapping[str, Any]:
    """Fit `transient` to the row means at the rows' mean read times.

    Parameters
    ----------
    partials : sequence of tuple
        What `row_residuals` returns for consecutive bands of active rows.

    Returns
    -------
    mapping
        ``fit``: the four parameters, or None where there is nothing to fit or the fit failed.
    """
    optimize = load("scipy.optimize")
    if not partials:
        return {"fit": None}
    t = np.concatenate([times for times, _ in partials])
    found = [measured for _, measured in partials]
    if params.swap_medians:
        rows = _swapped_means(cast("Sequence[Residuals]", found))
    else:
        rows = np.concatenate(cast("Sequence[np.ndarray]", found))
    good = np.isfinite(rows)
    early, late = (t[min(i, len(t) - 1)] for i in (300, 1000))
    if early == late:
        early = t[len(t) // 3]
    start = (1.1 * rows[0], -0.1 * rows[0], early, late)
    try:
        import warnings

        with warnings.catch_warnings():
            warnings.simplefilter("error", optimize.OptimizeWarning)
            fit, _ = optimize.curve_fit(transient, t[good], rows[good], p0=start)
    except (RuntimeError, optimize.OptimizeWarning, ValueError, FloatingPointError):
        return {"fit": None}
    return {"fit": tuple(fit) if np.isfinite(fit).all() and (fit[2:] > 0).all() else None}


def remove_transient(
    ramp: np.ndarray,
    groupdq: np.ndarray,
    read_time: np.ndarray,
    *,
    tile: Tile,
    measured: Mapping[str, Any],
) -> tuple[np.ndarray, np.ndarray]:
    """Subtract the fitted transient from resultant 0, or flag its first 1000 rows.

    Parameters
    ----------
    ramp : ndarray (R, y, x) of float32
        Raw signal, DN.
    groupdq : ndarray (R, y, x) of uint8
    read_time : ndarray (y, x) of float64
        s.

    Returns
    -------
    ramp, groupdq : ndarray
        DO_NOT_USE and WFI18_TRANSIENT on resultant 0 where the rows are masked.
    """
    if measured["fit"] is None:
        groupdq = groupdq.copy()
        rows = max(min(tile.window.y1, MASKED_ROWS) - tile.window.y0, 0)
        groupdq[0, :rows] |= np.uint8(GROUP["DO_NOT_USE"] | GROUP["WFI18_TRANSIENT"])
        return ramp, groupdq
    out = ramp.copy()
    act = tile.active
    out[(0, *act)] -= transient(read_time[act], *measured["fit"]).astype(np.float32)
    return out, groupdq


step = Step(
    name="wfi18_transient",
    kernel=remove_transient,
    reads=("ramp", "groupdq"),
    writes=("ramp", "groupdq"),
    references={"read_time": "detector.read_time"},
    params=TransientParams,
    settings={"correct": "correct_wfi18_transient", "mask_rows": "wfi18_mask_rows"},
    reduction=Reduction(
        windows=bands,
        partial=row_residuals,
        combine=fit_transient,
        reads=("ramp",),
        references={"read_time": "detector.read_time"},
        holds=held,
    ),
    when=lambda exposure, params, available: (
        exposure.detector == "WFI18" and (params.correct or params.mask_rows)
    ),
    sets={"groupdq": ("DO_NOT_USE", "WFI18_TRANSIENT")},
    cal_step="wfi18_transient",
    imports=("astropy.stats", "scipy.optimize"),
)
