"""Ramp fit with fixed weights, and jump detection."""

from __future__ import annotations

import numpy as np

from ..core.dq import GROUP, PIXEL
from ..core.exposure import Exposure
from ..core.float16 import round_to_float16
from ..core.jit import kernel
from ..core.step import Step, Tile
from .common import replace_bad, with_flag, with_reference_flags
from .ramp_flags import first_saturated, fold_flags
from .ramp_params import RampFitParams
from .ramp_subsets import EXCLUDING, refit, with_exclusions
from .ramp_weights import fit_tables, quality_tables

_JUMP = np.uint8(GROUP["JUMP_DET"])
_REFERENCE = np.uint32(PIXEL["REFERENCE_PIXEL"])


@kernel
def _fit_pixels(ramp, gain, dark_slope, ends, k, poisson, start, rate, var_poisson):
    """Slope and Poisson variance of every pixel.

    `rate` is the sum over resultants in their order, of differences to resultant 1 (the weights
    add up to zero, so any would do), without fused multiply-add: the last bit counts. All pixels
    of a row are fitted as full ramps first, which is vectorised, then the few that saturate are
    fitted again with their own weights.
    """
    n_res, ny, nx = ramp.shape
    for y in range(ny):
        slope, first = rate[y], ramp[1, y]
        for x in range(nx):
            slope[x] = 0
        for j in range(start, n_res):
            weight, s = k[n_res, j], ramp[j, y]
            for x in range(nx):
                slope[x] += weight * (s[x] - first[x])
        for x in range(nx):
            e = ends[y, x]
            if e < n_res:
                total = np.float32(0)
                for j in range(start, n_res):
                    # Not multiplied by zero: resultants after saturation may even be NaN.
                    if k[e, j] != 0:
                        total += k[e, j] * (ramp[j, y, x] - first[x])
                slope[x] = total
        for x in range(nx):
            g = min(max(np.float64(gain[y, x]), 1e-4), 1e4)
            v = max(np.float32((slope[x] + dark_slope[y, x]) / g), np.float32(0))
            var_poisson[y, x] = poisson[ends[y, x]] * v


@kernel
def _flag_jumps(
    ramp,
    gain,
    dark_slope,
    read_noise,
    active,
    ends,
    rate,
    n_pairs,
    pairs,
    dt,
    pair_a,
    pair_b,
    thresholds,
    groupdq,
):
    """Set JUMP_DET in `groupdq` on active pixels; see `fit_ramp`.

    Almost no difference is near the threshold, so a first test of whole rows, without square root
    or logarithm and two per cent too low, selects the pixels for the exact test.
    """
    n_res, _, nx = ramp.shape
    sa, sb, ia, ib, log_ratio = thresholds
    lowest = np.float32(0.98) * min(sa, sb) * abs(min(sa, sb))
    v, noise2 = np.empty(nx, np.float32), np.empty(nx, np.float32)
    total = np.empty(nx, np.float32)
    suspect = np.empty(nx, np.bool_)
    y0, y1, x0, x1 = active
    for y in range(y0, y1):
        slope = rate[y]
        for x in range(nx):
            g = min(max(np.float64(gain[y, x]), 1e-4), 1e4)
            total[x] = slope[x] + dark_slope[y, x]
            v[x] = max(np.float32(total[x] / g), np.float32(0))
            noise2[x] = read_noise[y, x] * read_noise[y, x]
            suspect[x] = ends[y, x] < n_res
        for p in range(n_pairs[n_res]):
            early, late = ramp[pairs[n_res, p, 0], y], ramp[pairs[n_res, p, 1], y]
            per_time = np.float32(1) / dt[n_res, p]
            a, b = pair_a[n_res, p], pair_b[n_res, p]
            for x in range(nx):
                d = (late[x] - early[x]) * per_time - slope[x]
                var = a * v[x] + b * noise2[x]
                suspect[x] |= (d > 0) & (d * d > lowest * var)
        for x in range(x0, x1):
            if not suspect[x]:
                continue
            e = ends[y, x]
            clipped = min(max(total[x], ia), ib)
            threshold = sa + (sb - sa) * np.float32(np.log(clipped / ia)) / log_ratio
            for p in range(n_pairs[e]):
                i = pairs[e, p, 0]
                d = (ramp[pairs[e, p, 1], y, x] - ramp[i, y, x]) / dt[e, p] - slope[x]
                var = pair_a[e, p] * v[x] + pair_b[e, p] * noise2[x]
                if d > 0 and d / np.sqrt(var) > threshold:
                    groupdq[i, y, x] |= _JUMP


@kernel
def _quality(ramp, read_noise, ends, whiten, uniform, start, rate, chisq, dumo):
    """chi-square per degree of freedom and uniform-minus-optimal slope of every pixel."""
    n_res, ny, nx = ramp.shape
    z = np.empty(nx, np.float32)
    for y in range(ny):
        first, chi, slope = ramp[start, y], chisq[y], dumo[y]
        for x in range(nx):
            chi[x] = 0
            slope[x] = 0
        for i in range(n_res - start):
            for x in range(nx):
                z[x] = 0
            for j in range(start + 1, n_res):
                weight, s = whiten[n_res, i, j], ramp[j, y]
                if weight != 0:
                    for x in range(nx):
                        z[x] += weight * (s[x] - first[x])
            for x in range(nx):
                chi[x] += z[x] * z[x]
        for j in range(start + 1, n_res):
            weight, s = uniform[n_res, j], ramp[j, y]
            for x in range(nx):
                slope[x] += weight * (s[x] - first[x])
        for x in range(nx):
            e = ends[y, x]
            if e < n_res:
                chi[x] = 0
                slope[x] = 0
                for i in range(n_res - start):
                    total = np.float32(0)
                    for j in range(start + 1, n_res):
                        if whiten[e, i, j] != 0:
                            total += whiten[e, i, j] * (ramp[j, y, x] - first[x])
                    chi[x] += total * total
                for j in range(start + 1, n_res):
                    if uniform[e, j] != 0:
                        slope[x] += uniform[e, j] * (ramp[j, y, x] - first[x])
            slope[x] -= rate[y, x]
            chi[x] /= read_noise[y, x] * read_noise[y, x]


@kernel
def _errors(read_noise, read, ends, var_poisson, var_rnoise, err):
    """Read-noise variance, and the root of the sum of both, in the order of NumPy's functions."""
    n_res = len(read) - 1
    for y in range(len(ends)):
        e, noise, total = ends[y], read_noise[y], err[y]
        for x in range(len(e)):
            total[x] = noise[x] * read[n_res]
        for x in range(len(e)):
            if e[x] < n_res:
                total[x] = noise[x] * read[e[x]]
        variance, light = var_rnoise[y], var_poisson[y]
        for x in range(len(e)):
            sigma = total[x]
            variance[x] = sigma * sigma
            poisson = np.sqrt(light[x])
            squares = np.float64(sigma) * sigma + np.float64(poisson) * poisson
            total[x] = np.float32(np.sqrt(squares))  # as hypotf does


def fit_ramp(
    ramp: np.ndarray,
    groupdq: np.ndarray,
    pixeldq: np.ndarray,
    gain: np.ndarray,
    read_noise: np.ndarray,
    dark_slope: np.ndarray | None = None,
    ipc: np.ndarray | None = None,
    read_dq: np.ndarray | None = None,
    *,
    tile: Tile,
    exposure: Exposure,
    params: RampFitParams,
) -> tuple[np.ndarray, ...]:
    """Fit the slope of every pixel and its errors, find jumps, and fold the resultants' flags.

    Parameters
    ----------
    ramp : ndarray (R, y, x) of float32
        Linear DN.
    groupdq : ndarray (R, y, x) of uint8
    pixeldq : ndarray (y, x) of uint32
    gain : ndarray (y, x) of float32 or float64
        e/DN.
    read_noise : ndarray (y, x) of float32
        Standard deviation sigma of one read, DN.
    dark_slope : ndarray (y, x) of float32, optional
        Dark current that was subtracted from the ramp, DN/s. Its shot noise is still in the ramp,
        so it is included in the errors and the jump test.
    ipc : ndarray (3, 3, y, x) of float32, optional
        Kernel by which the ramp was corrected. To first order the correction multiplies
        uncorrelated noise by one over the share that a pixel keeps, so sigma is divided by it.
    read_dq : ndarray (y, x) of uint32, optional

    Returns
    -------
    rate : ndarray (y, x) of float32
        DN/s. Pixels that saturate at resultant e with at least `truncated_min` used resultants
        before it have the slope between the first used resultant and e - 1.
    err, var_poisson, var_rnoise : ndarray (y, x) of float32
        DN/s and its square. ``var_rnoise = sigma^2 sum K_j^2 / N_j``; ``var_poisson`` is
        ``sum K_j^2 tau_j + 2 sum_{i<j} K_i K_j tbar_i`` times
        v = max((rate + dark_slope) / gain, 0).
    groupdq : ndarray (R, y, x) of uint8
        With JUMP_DET (Sharma & Casertano 2024, PASP 136, 054504): a resultant i whose difference
        to resultant i + 1 or i + 2 exceeds the slope by more than the threshold.
    dq : ndarray (y, x) of uint32
        UNRELIABLE_ERROR where the read noise is not finite or not positive (`sigma_read` stands
        in).
    endslice : ndarray (y, x) of int16
        e - 1 of the last transition into saturation, else -1.
    chisq, dumo : ndarray (y, x) of float32
    """
    shape = ramp.shape[1:]
    gain, _ = replace_bad(gain, 1.0)
    read_noise, bad_noise = replace_bad(read_noise, params.sigma_read, params.check_references)
    if ipc is not None:
        read_noise = ipc_read_noise(read_noise, ipc, tile)
    if dark_slope is None:
        dark_slope = np.zeros((1, 1), np.float32)
    dark_slope = np.broadcast_to(replace_bad(dark_slope, 0.0)[0], shape)
    start = exposure.start
    ends = np.empty(shape, np.int16)
    seen = first_saturated(groupdq, start, ends)
    groupdq = groupdq.copy()
    # Nearly all pixels use all resultants, up to a common end. Those that do not are fitted again.
    common, where = ends, None
    if params.exclude and seen & EXCLUDING:
        where = with_exclusions(groupdq, ends, start)
        common = np.where(where, np.int16(0), ends)  # the full weights, and no jump test
    found = _fit_common(
        ramp,
        groupdq,
        gain,
        dark_slope,
        read_noise,
        common,
        tile=tile,
        exposure=exposure,
        params=params,
    )
    dq = np.empty(shape, np.uint32)
    endslice = np.empty(shape, np.int16)
    pixeldq = with_reference_flags(pixeldq, read_dq, tile.active)
    pixeldq = with_flag(pixeldq, bad_noise, PIXEL["UNRELIABLE_ERROR"], tile.active)
    if where is not None and where.any():
        too_few = refit(
            ramp,
            groupdq,
            where,
            (ends, gain, dark_slope, read_noise),
            found,
            u=params.noise_ratio,
            truncated_min=params.truncated_min,
            thresholds=params.thresholds,
            active=_active(tile),
            exposure=exposure,
        )
        too_few &= pixeldq & _REFERENCE == 0
        pixeldq = with_flag(pixeldq, too_few, PIXEL["DO_NOT_USE"])
        if not params.quality:
            for values in found[4:]:
                values.fill(0)
    fold_flags(groupdq, pixeldq, ends, start, dq, endslice)
    rate, var_poisson, var_rnoise, err, chisq, dumo = found
    if params.half_precision_errors:
        err, var_poisson = round_to_float16(err), round_to_float16(np.sqrt(var_poisson) ** 2)
        var_rnoise = np.clip(err**2 - var_poisson, 0, None)
    return rate, err, var_poisson, var_rnoise, groupdq, dq, endslice, chisq, dumo


def _active(tile: Tile) -> tuple[int, int, int, int]:
    """First and last row and column of the active pixels, the last not included."""
    rows, columns = tile.active
    return rows.start, rows.stop, columns.start, columns.stop


def _fit_common(
    ramp: np.ndarray,
    groupdq: np.ndarray,
    gain: np.ndarray,
    dark_slope: np.ndarray,
    read_noise: np.ndarray,
    ends: np.ndarray,
    *,
    tile: Tile,
    exposure: Exposure,
    params: RampFitParams,
) -> tuple[np.ndarray, ...]:
    """Fit pixels that use all resultants before `ends`; sets JUMP_DET in `groupdq`.

    Returns rate, var_poisson, var_rnoise, err, chisq and dumo, (y, x) of float32.
    """
    shape, start = ramp.shape[1:], exposure.start
    k, read, poisson, n_pairs, pairs, pair_dt, pair_a, pair_b = fit_tables(exposure, params)
    rate, var_poisson = np.empty(shape, np.float32), np.empty(shape, np.float32)
    _fit_pixels(ramp, gain, dark_slope, ends, k, poisson, start, rate, var_poisson)
    var_rnoise, err = np.empty(shape, np.float32), np.empty(shape, np.float32)
    _errors(read_noise, read, ends, var_poisson, var_rnoise, err)
    _flag_jumps(
        ramp,
        gain,
        dark_slope,
        read_noise,
        _active(tile),
        ends,
        rate,
        n_pairs,
        pairs,
        pair_dt,
        pair_a,
        pair_b,
        params.thresholds,
        groupdq,
    )
    chisq, dumo = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    if params.quality:
        whiten, uniform = quality_tables(exposure, params)
        _quality(ramp, read_noise, ends, whiten, uniform, start, rate, chisq, dumo)
    return rate, var_poisson, var_rnoise, err, chisq, dumo


def ipc_read_noise(read_noise: np.ndarray, ipc: np.ndarray, tile: Tile) -> np.ndarray:
    """Read noise after the correction of inter-pixel capacitance.

    Parameters
    ----------
    read_noise : ndarray (y, x) of float32
        DN.
    ipc : ndarray (3, 3, y, x) of float32
        Kernel of the correction.
    tile : Tile

    Returns
    -------
    ndarray (y, x) of float32
        DN: on active pixels divided by the share of charge that a pixel keeps.
    """
    share = ipc[1, 1][tile.active]
    out = read_noise.copy()
    out[tile.active] /= np.where((share > 0.1) & (share < 10), share, np.float32(1))
    return out


def _references(params: RampFitParams) -> dict[str, str]:
    references = {"gain": "gain.data", "read_noise": "read.data"}
    references |= {"dark_slope": "dark.dark_slope"} if params.dark_noise else {}
    references |= {"read_dq": "read.dq"} if params.reference_dq else {}
    return references | ({"ipc": "ipc4d.data"} if params.ipc_noise else {})


step = Step(
    name="ramp_fit",
    kernel=fit_ramp,
    reads=("ramp", "groupdq", "pixeldq"),
    writes=(
        "rate",
        "err",
        "var_poisson",
        "var_rnoise",
        "groupdq",
        "dq",
        "endslice",
        "chisq",
        "dumo",
    ),
    references=_references,
    params=RampFitParams,
    settings={
        "slope": "RAMP_OPT_PARS.slope",
        "gain": "RAMP_OPT_PARS.gain",
        "sigma_read": "RAMP_OPT_PARS.sigma_read",
        "threshold_a": "JUMP_DETECT_PARS.SthreshA",
        "threshold_b": "JUMP_DETECT_PARS.SthreshB",
        "rate_a": "JUMP_DETECT_PARS.IthreshA",
        "rate_b": "JUMP_DETECT_PARS.IthreshB",
    },
    sets={
        "groupdq": ("JUMP_DET",),
        # All but the last are folded in from the resultants. What is WFI18_TRANSIENT there has
        # the bit of OUTLIER here.
        "dq": (
            "DO_NOT_USE",
            "SATURATED",
            "JUMP_DET",
            "DROPOUT",
            "AD_FLOOR",
            "OUTLIER",
            "UNRELIABLE_ERROR",
        ),
    },
    cal_step="ramp_fit",
)
