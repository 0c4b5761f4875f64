"""Ramp fit by maximum likelihood: optimal weights for every pixel's own rate, jumps taken out."""

from __future__ import annotations

import numpy as np

from ..core.dq import GROUP, PIXEL
from ..core.exposure import Exposure
from ..core.float16 import round_to_float16
from ..core.jit import kernel
from ..core.step import Step, Tile
from .common import replace_bad, with_flag, with_reference_flags
from .likelihood_params import LikelihoodParams
from .likelihood_pixel import moments, search, solve
from .likelihood_rows import (
    WIDTH,
    middle,
    moments_row,
    new_segment,
    solve_row,
    suspects,
)
from .likelihood_tables import difference_tables, sorting_network
from .ramp_fit import ipc_read_noise

_DNU = np.uint8(GROUP["DO_NOT_USE"])
_SAT = np.uint8(GROUP["SATURATED"])
_JUMP = np.uint8(GROUP["JUMP_DET"])
_REFERENCE = np.uint32(PIXEL["REFERENCE_PIXEL"])
_LARGEST = float(np.finfo(np.float16).max)
_QUIETEST = 0.01
"""DN. Read noise below it is no detector's: rounding to integers alone is 0.3."""
FEWEST = 4
"""Resultants that the fit needs."""


@kernel
def _load(s, ramp, groupdq, gain, read_noise, dark_slope, y, x0, m, start, per_time):
    """Differences and constants of the pixels from x0 on; `s.special` where not all differences
    from `start` on, and no others, can be used."""
    n = len(s.d)
    special = s.special
    for p in range(m):
        special[p] = False
    for i in range(n):
        a, b, d, c = ramp[i, y, x0:], ramp[i + 1, y, x0:], s.d[i], per_time[i]
        for p in range(m):
            d[p] = np.float64(b[p] - a[p]) * c
        for p in range(m):
            special[p] |= not abs(d[p]) < np.inf
        f, f2, usual = groupdq[i, y, x0:], groupdq[i + 1, y, x0:], i >= start
        for p in range(m):
            special[p] |= ((f[p] | f2[p]) == 0) != usual
    g, noise, dark = gain[y, x0:], read_noise[y, x0:], dark_slope[y, x0:]
    gains, scale, darks = s.gain, s.scale, s.dark
    for p in range(m):
        gains[p] = g[p]
        darks[p] = dark[p]
        scale[p] = np.float64(noise[p]) * noise[p]


@kernel
def _ratio(s, m):
    """`s.u` from `s.rate`."""
    u, rate, dark, gain, scale = s.u, s.rate, s.dark, s.gain, s.scale
    for p in range(m):
        u[p] = max(rate[p] + dark[p], 0.0) / (gain[p] * scale[p])


@kernel
def _store(s, y, x0, m, freedom, out):
    """Results of a segment."""
    rate, total, light, chi, scale = s.rate, s.total, s.light, s.chi, s.scale
    slope, sigma, poisson = out[0, y, x0:], out[1, y, x0:], out[2, y, x0:]
    for p in range(m):
        slope[p] = rate[p]
        sigma[p] = np.sqrt(scale[p] / total[p])
        poisson[p] = scale[p] * light[p]
    quality, ratio = out[3, y, x0:], out[4, y, x0:]
    u = s.u
    for p in range(m):
        quality[p] = chi[p] / (scale[p] * freedom)
        ratio[p] = u[p]


@kernel
def _uniform(s, weights, y, x0, m, out):
    """Uniform-weight slope minus the rate."""
    target, rate, total = out[5, y, x0:], s.rate, s.light
    for p in range(m):
        total[p] = -rate[p]
    for i in range(len(weights)):
        d, k = s.d[i], weights[i]
        if k != 0.0:
            for p in range(m):
                total[p] += k * d[p]
    for p in range(m):
        target[p] = total[p]


@kernel
def _fit_one(s, p, used, work, options, tables, uniform, y, x, groupdq, unused, out):
    """Fit pixel p of a segment by itself; returns whether a jump left fewer than two differences.

    `options`: (start_all, after, reduced, dumo_all, limits, most)."""
    start_all, after, reduced, dumo_all, limits, most = options
    d, before, x_, z, w, o = work
    n = len(used)
    n_used, n_start, finite = 0, 0, True
    for i in range(n):
        d[i] = s.d[i, p]
        used[i] = (groupdq[i, y, x] | groupdq[i + 1, y, x]) == 0
        if not np.abs(d[i]) < np.inf:
            if start_all:
                finite = False
            else:
                used[i] = False
        if used[i] or start_all:
            z[n_start] = d[i]
            n_start += 1
        n_used += used[i]
    gain, scale, dark = s.gain[p], s.scale[p], s.dark[p]
    ambiguous = False
    rate = total = chi = light = u = dumo = np.nan
    if n_used > 0 and finite:
        assumed = max(_median(z, n_start) + dark, 0.0) / (gain * scale)
        for i in range(n):
            before[i] = used[i]
        rate = search(used, d, assumed, scale, limits, most, tables, x_, z, w, o)
        left = 0
        for i in range(n):
            left += used[i]
            if before[i] and not used[i]:
                groupdq[i + after, y, x] |= _JUMP
        ambiguous = left < 2 and left < n_used
        n_used = left
        u = np.float64(np.float32(max(rate + dark, 0.0) / (gain * scale)))
        total, right = solve(used, d, u, tables, x_, z, w, o)
        rate = right / total
        chi, light = moments(used, d, u, total, rate, x_, tables)
        if dumo_all:
            dumo = -rate
            for i in range(n):
                dumo += uniform[i] * d[i]
        else:
            flat_total, flat_right = solve(used, d, 0.0, tables, x_, z, w, o)
            dumo = flat_right / flat_total - rate
    if reduced:
        chi = chi / (n_used - 1) if n_used > 1 else chi * 0.0
    for i in range(n):
        unused[i, y, x] = not used[i]
    out[0, y, x] = rate
    # A gain below zero can give a variance below zero.
    out[1, y, x] = np.sqrt(scale / total) if total > 0 else np.nan
    out[2, y, x] = scale * light
    out[3, y, x] = chi / scale
    out[4, y, x] = u
    out[5, y, x] = dumo
    return ambiguous


@kernel
def _median(values, n):
    """The median of the first n values, which are sorted; NaN if one of them is."""
    for i in range(1, n):
        v, k = values[i], i
        while k > 0 and values[k - 1] > v:
            values[k] = values[k - 1]
            k -= 1
        values[k] = v
    middle = (values[(n - 1) // 2] + values[n // 2]) / 2
    for i in range(n):
        if np.isnan(values[i]):
            middle = np.nan
    return middle


@kernel
def _fit(
    ramp,
    groupdq,
    gain,
    read_noise,
    dark_slope,
    start,
    options,
    tables,
    network,
    uniform,
    s,
    unused,
    ambiguous,
    out,
):
    """Fit every pixel of a tile. `groupdq` gets JUMP_DET, `unused` the differences that were not
    used, `out` rate, error, Poisson variance, chi-square, ratio of noises and dumo."""
    start_all, _, reduced, _, limits, _ = options
    n, ny, nx = len(s.d), ramp.shape[1], ramp.shape[2]
    used = np.empty(n, np.bool_)
    work = (np.empty(n), np.empty(n), np.empty(n), np.empty(n), np.empty(n), np.empty(n))
    first = 0 if start_all else start
    freedom = max(n - start - 1, 1) if reduced else 1
    for i in range(start):
        for y in range(ny):
            row = unused[i, y]
            for x in range(nx):
                row[x] = 1
    for y in range(ny):
        for x0 in range(0, nx, WIDTH):
            m = min(WIDTH, nx - x0)
            _load(s, ramp, groupdq, gain, read_noise, dark_slope, y, x0, m, start, tables.per_time)
            middle(s, first, network, m)
            _ratio(s, m)
            solve_row(s, start, tables, m)
            suspects(s, start, tables, limits, m)
            _ratio(s, m)
            u = s.u
            for p in range(m):
                u[p] = np.float64(np.float32(u[p]))
            solve_row(s, start, tables, m)
            moments_row(s, start, tables, m)
            _store(s, y, x0, m, freedom, out)
            _uniform(s, uniform, y, x0, m, out)
            for p in range(m):
                if s.special[p]:
                    ambiguous[y, x0 + p] = _fit_one(
                        s, p, used, work, options, tables, uniform, y, x0 + p, groupdq, unused, out
                    )


@kernel
def _fold(groupdq, pixeldq, every, dq, endslice):
    """Fold resultant flags into `dq` except on reference pixels; `every`: not only DO_NOT_USE,
    SATURATED and JUMP_DET. `endslice` as that of `fit_ramp`."""
    n_res, ny, nx = groupdq.shape
    wanted = np.uint8(0xFF) if every else _SAT | _JUMP
    seen, good = np.empty(nx, np.uint8), np.empty(nx, np.int16)
    for y in range(ny):
        last, before, folded = endslice[y], pixeldq[y], dq[y]
        for x in range(nx):
            last[x] = -1
            seen[x] = 0
            good[x] = 0
        for j in range(n_res):
            f = groupdq[j, y]
            for x in range(nx):
                good[x] += np.int16((f[x] & (_DNU | _SAT)) == 0)
                # What is flagged after saturation tells nothing about the pixel.
                seen[x] |= _SAT if f[x] & _SAT else f[x]
            if j + 1 < n_res:
                following, index = groupdq[j + 1, y], np.int16(j)
                for x in range(nx):
                    last[x] = index if following[x] & ~f[x] & _SAT else last[x]
        for x in range(nx):
            flags = np.uint32(seen[x] & wanted & ~_DNU)
            flags |= np.uint32(_DNU) if good[x] < 2 else np.uint32(0)
            folded[x] = before[x] | (np.uint32(0) if before[x] & _REFERENCE else flags)


def fit_likelihood(
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
    params: LikelihoodParams,
) -> tuple[np.ndarray, ...]:
    """Fit the slope of every pixel by maximum likelihood, and take jumps out of its ramp.

    The differences of consecutive resultants, over time, have a covariance V that is tridiagonal
    and depends on the rate (`likelihood_tables.Tables`). A difference is used if neither of its
    resultants has any flag. The search for jumps assumes the median difference: while leaving out
    one difference improves chi-square by more than the square of the threshold, or two in a row by
    as improbable an amount, what improves it most is dropped. The rate that is left decides V for
    the final fit::

        rate = 1' V^-1 d / 1' V^-1 1,   err^2 = 1 / 1' V^-1 1

    Sources: Brandt 2024, PASP 136, 045004 (fit) and 045005 (jumps).

    Parameters
    ----------
    ramp : ndarray (R, y, x) of float32
        Linear DN.
    groupdq : ndarray (R, y, x) of uint8
    pixeldq : ndarray (y, x) of uint32
    gain : ndarray (y, x) of float32 or float64
        e/DN.
    read_noise : ndarray (y, x) of float32
        Standard deviation of one read (of a difference of two, by option), DN.
    dark_slope : ndarray (y, x) of float32, optional
        Dark current that was subtracted from the ramp, DN/s: its shot noise is still there.
    ipc : ndarray (3, 3, y, x) of float32, optional
        Kernel by which the ramp was corrected; see `fit_ramp`.
    read_dq : ndarray (y, x) of uint32, optional

    Returns
    -------
    rate : ndarray (y, x) of float32
        DN/s; NaN where no difference can be used.
    err, var_poisson, var_rnoise : ndarray (y, x) of float32
        DN/s and its square.
    groupdq : ndarray (R, y, x) of uint8
        With JUMP_DET on the resultant after (by option: before) each difference that was dropped.
    dq : ndarray (y, x) of uint32
    endslice : ndarray (y, x) of int16
        Last resultant before saturation, -1 if none.
    chisq, dumo : ndarray (y, x) of float32
        dumo is the slope with the weights of a fit without light, minus the rate, DN/s.
    unused : ndarray (R, y, x) of uint8
        1 where the difference to the next resultant is not used (the last plane is 0).
    noise_ratio : ndarray (y, x) of float32
        Ratio of Poisson to read noise, rate / (gain sigma^2), that the weights are made for, 1/s.
    """
    shape, start, n = ramp.shape[1:], exposure.start, exposure.n_resultants - 1
    gain, bad_gain = _usable_gain(gain, params)
    noise, bad_noise = _single_read_noise(read_noise, params)
    if ipc is not None:
        noise = ipc_read_noise(noise, ipc, tile)
    if dark_slope is None:
        dark_slope = np.zeros((1, 1), np.float32)
    dark_slope = np.broadcast_to(replace_bad(dark_slope, 0.0)[0], shape)
    tables = difference_tables(exposure.read_pattern, exposure.frame_time)
    everything = params.dumo == "all"
    first = 0 if params.start_rate == "all" else start
    groupdq = groupdq.copy()
    unused = np.zeros(ramp.shape, np.uint8)
    ambiguous = np.zeros(shape, np.bool_)
    out = np.empty((6, *shape), np.float32)
    _fit(
        ramp,
        groupdq,
        gain,
        noise,
        dark_slope,
        start,
        (
            params.start_rate == "all",
            int(params.flag_resultant == "after"),
            params.chisq == "reduced",
            everything,
            params.limits,
            params.most,
        ),
        tables,
        sorting_network(n - first),
        uniform_weights(exposure, 0 if everything else start),
        new_segment(n),
        unused,
        ambiguous,
        out,
    )
    rate, err, var_poisson, chisq, noise_ratio, dumo = out
    var_rnoise = np.maximum(err**2 - var_poisson, 0)
    active = tile.active
    pixeldq = with_reference_flags(pixeldq, read_dq, active)
    pixeldq = with_flag(pixeldq, bad_noise, PIXEL["UNRELIABLE_ERROR"], active)
    pixeldq = with_flag(pixeldq, bad_gain, PIXEL["NO_GAIN_VALUE"], active)
    if params.clip_errors:
        beyond = (err > _LARGEST) | (var_poisson > _LARGEST)
        if beyond.any():
            pixeldq = with_flag(pixeldq, beyond, PIXEL["UNRELIABLE_ERROR"], active)
            err, var_poisson = np.minimum(err, _LARGEST), np.minimum(var_poisson, _LARGEST)
    if params.flag_nan:
        pixeldq = with_flag(pixeldq, np.isnan(rate), PIXEL["DO_NOT_USE"], active)
    if params.flag_ambiguous:
        pixeldq = with_flag(pixeldq, ambiguous, PIXEL["DO_NOT_USE"], active)
    dq, endslice = np.empty(shape, np.uint32), np.empty(shape, np.int16)
    _fold(groupdq, pixeldq, params.other_flags, dq, endslice)
    if params.half_precision_errors:
        err, var_poisson = round_to_float16(err), round_to_float16(var_poisson)
        dumo = round_to_float16(dumo)
        var_rnoise = np.clip(err**2 - var_poisson, 0, None)
    return (
        rate,
        err,
        var_poisson,
        var_rnoise,
        groupdq,
        dq,
        endslice,
        chisq,
        dumo,
        unused,
        noise_ratio,
    )


def _usable_gain(
    given: np.ndarray, params: LikelihoodParams
) -> tuple[np.ndarray, np.ndarray | None]:
    """The gain to fit with, and where it stands in for one without sense; None: nothing is
    checked, and no rate comes of a gain of 0 or one that is not finite."""
    gain, _ = replace_bad(given, 1.0)
    if not params.check_gain:
        return np.where((given == 0) | ~np.isfinite(given), gain.dtype.type(np.nan), given), None
    bad = ~((given >= 1e-4) & (given <= 1e4))  # no amplifier's
    return np.where(bad, gain.dtype.type(1), gain), bad


def _single_read_noise(
    read_noise: np.ndarray, params: LikelihoodParams
) -> tuple[np.ndarray, np.ndarray | None]:
    """Noise of one read, DN, and where `sigma_read` stands in for it; None if nowhere."""
    usable = read_noise
    if params.check_references:  # what is next to nothing makes every deviation an outlier
        usable = np.where(read_noise < _QUIETEST, read_noise.dtype.type(0), read_noise)
    noise, bad = replace_bad(usable, params.sigma_read, params.check_references)
    if params.read_noise_of == "difference":
        single = noise / np.float32(np.sqrt(2))
        noise = single if bad is None else np.where(bad, noise, single)
    return noise, bad


def uniform_weights(exposure: Exposure, first: int) -> np.ndarray:
    """Weights (n,) of the differences from `first` on in a fit without light."""
    n = exposure.n_resultants - 1
    tables = difference_tables(exposure.read_pattern, exposure.frame_time)
    used, x = np.arange(n) >= first, np.empty(n)
    total, _ = solve(used, np.zeros(n), 0.0, tables, x, np.empty(n), np.empty(n), np.empty(n))
    return x / total


def _enough(exposure: Exposure, params: LikelihoodParams) -> str:
    """Why this exposure cannot be fitted; empty if it can."""
    if exposure.n_resultants >= FEWEST:
        return ""
    return f"{exposure.n_resultants} resultants, expected at least {FEWEST} for the likelihood fit"


def _references(params: LikelihoodParams) -> dict[str, str]:
    references = {"gain": "gain.data", "read_noise": "read.data"}
    references |= {"dark_slope": "dark.dark_slope"} if params.dark_noise else {}
    references |= {"read_dq": "read.dq"} if params.reference_dq else {}
    return references | ({"ipc": "ipc4d.data"} if params.ipc_noise else {})


step = Step(
    name="ramp_fit_likelihood",
    kernel=fit_likelihood,
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
        "unused",
        "noise_ratio",
    ),
    references=_references,
    params=LikelihoodParams,
    settings={
        "rejection_threshold": "REJECTION_THRESHOLD",
        "sigma_read": "RAMP_OPT_PARS.sigma_read",
    },
    check=_enough,
    sets={
        "groupdq": ("JUMP_DET",),
        "dq": (
            "DO_NOT_USE",
            "SATURATED",
            "JUMP_DET",
            "DROPOUT",
            "AD_FLOOR",
            "OUTLIER",
            "UNRELIABLE_ERROR",
            "NO_GAIN_VALUE",
        ),
    },
    cal_step="ramp_fit",
)
