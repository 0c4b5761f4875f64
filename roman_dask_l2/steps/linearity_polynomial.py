"""Classical linearity by polynomials of the raw signal, applied to the reads of each resultant."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ..core.detector import CHANNEL_WIDTH
from ..core.dq import GROUP, PIXEL
from ..core.exposure import Exposure
from ..core.jit import kernel
from ..core.step import Params, Step, Tile
from .common import LARGEST
from .linearity_check import LARGEST_RISE, LEAST_RISE
from .polynomial_rows import (
    add_correction,
    any_saturated,
    horner,
    light,
    load,
    mean_of_reads,
    no_inverse,
    use_identity,
)
from .polynomial_segment import WIDTH, new_segment

_NO_LIN = np.uint32(PIXEL["NO_LIN_CORR"])
_DNU = np.uint8(GROUP["DO_NOT_USE"])
_SATURATED = np.uint8(GROUP["SATURATED"])
_CLIP = np.float32(1e6)
_TWO = np.float32(2)
_INFINITY = np.float32(np.inf)


class PolynomialParams(Params):
    """Parameters of `linearise_reads`."""

    per_read: bool = True
    """Apply the polynomial to single reads, which the inverse polynomial estimates; else to the
    mean of each resultant, for which no inverse is needed."""
    check_references: bool = True
    """Do not correct a pixel with an infinite or absurdly large coefficient, or with a linear term
    outside 0.1 to 10, nor take for the inverse what is none (off by more than 100 DN and 5 % at
    the pixel's own signal), and flag a result that is not finite (romancal uses any numbers)."""
    inverse_dq: bool = True
    """Do not use the inverse polynomial, and set NO_LIN_CORR, where the flags of its file say so
    (romancal ignores them)."""
    linearise_saturated: bool = True
    """Linearise saturated resultants as well (romancal leaves them raw, so that the ramp has a step
    there)."""


@kernel
def _linearise(
    ramp,
    groupdq,
    coeffs,
    inverse,
    unusable,
    reads,
    inl,
    place,
    limits,
    options,
    s,
    out,
    out_groupdq,
    out_dq,
):
    """Fill `out` (R, y, x), and add flags to `out_groupdq` (R, y, x) and `out_dq` (y, x).

    `unusable`: (2, y, x) of bool, pixels without linearity, without inverse. `reads`: (times,
    their ends for each resultant, means). `inl`: (table of each channel, readings, whether these
    rise in steps of 1). `place`: (column, channel width). `options`: (per_read, check, saturated).
    """
    ny, nx = ramp.shape[1:]
    column, width = place
    per_read, check, saturated = options
    for y in range(ny):
        x0 = 0
        while x0 < nx:
            channel = (column + x0) // width
            x1 = min((channel + 1) * width - column, nx)
            m = x1 - x0
            marked = unusable[0, y, x0 : x0 + m], unusable[1, y, x0 : x0 + m]
            for i in range(m):
                s.bad[0, i] = marked[0][i]
                s.bad[1, i] = per_read & marked[1][i]
            top = load(coeffs, y, x0, m, limits, s.bad, 0, s.single)
            for k in range(len(s.p) // WIDTH):
                _widen(s.single, s.p, np.uint64(k * WIDTH), m)
            tops = (top, load(inverse, y, x0, m, limits, s.bad, 1, s.q) if per_read else 1)
            finite = _segment(s, ramp, groupdq, y, x0, m, reads, inl, channel, options, tops)
            if not finite:
                # 0 times infinity: whether orders are left out must not depend on the neighbours.
                tops = (len(s.p) // WIDTH - 1, len(s.q) // WIDTH - 1)
                _segment(s, ramp, groupdq, y, x0, m, reads, inl, channel, options, tops)
            if saturated:
                _saturated(s, ramp, groupdq, y, x0, m, inl, channel, tops)
            _store(s, ramp, y, x0, m, check, out, out_groupdq, out_dq)
            x0 = x1


@kernel
def _segment(s, ramp, groupdq, y, x0, m, reads, inl, channel, options, tops):
    """The linear signal of a segment into `s.result`, saturated resultants raw; returns whether
    all are finite."""
    times, ends, means = reads
    per_read, check, saturated = options
    if per_read:
        light(s, ramp, groupdq, y, x0, m, means, not saturated, tops[0])
        used = len(times) > len(ramp)  # resultants of one read need no inverse
        if check and used and no_inverse(s, groupdq, y, x0, m, tops[1]):
            use_identity(s.q, s.bad, 1, m)
    finite = True
    result, total = s.result, s.total
    for j in range(len(ramp)):
        flags, signal = groupdq[j, y, x0 : x0 + m], ramp[j, y, x0 : x0 + m]
        some, every = any_saturated(flags, m)
        if every:
            for i in range(m):
                result[j, i] = signal[i]
            continue
        begin = ends[j - 1] if j else 0
        end = ends[j] if per_read else begin + 1
        mean_of_reads(s, ramp, j, y, x0, times, begin, end, tops, inl, channel, m)
        finite &= _round(total, result, j, m)
        if some:
            for i in range(m):
                if flags[i] & _SATURATED:
                    result[j, i] = signal[i]
    return finite


@kernel
def _round(total, result, j, m):
    """Row j of `result`; returns whether all are finite."""
    wrong = 0
    for i in range(m):
        result[j, i] = np.float32(total[i])
        wrong |= not abs(result[j, i]) < _INFINITY
    return wrong == 0


@kernel
def _saturated(s, ramp, groupdq, y, x0, m, inl, channel, tops):
    """Linearise the saturated resultants of a segment as they are, except where a polynomial is
    off by more than a factor of 2: they lie beyond what it was fitted to."""
    tables, values, unit = inl
    for j in range(len(ramp)):
        if not any_saturated(groupdq[j, y, x0 : x0 + m], m)[0]:
            continue
        for i in range(m):
            s.reads[i] = ramp[j, y, x0 + i]
        if len(values):
            buffers = s.place, s.part, s.below, s.above
            add_correction(s.reads, 0, tables, channel, values, unit, buffers, m)
        horner(s.p, tops[0], s.reads, 0, s.z, 0, m)
        for i in range(m):
            raw, value = ramp[j, y, x0 + i], np.float32(s.z[i])
            plausible = (value >= raw / _TWO) & (value <= raw * _TWO)
            if groupdq[j, y, x0 + i] & _SATURATED and plausible:
                s.result[j, i] = value


@kernel
def _widen(single, double, begin, m):
    for i in range(np.uint64(m)):
        double[begin + i] = single[begin + i]


@kernel
def _within(result, j, target, m):
    """Copy row j of `result`; returns whether nothing has to be clipped."""
    wrong = 0
    for i in range(m):
        target[i] = result[j, i]
        wrong |= not abs(result[j, i]) <= _CLIP
    return wrong == 0


@kernel
def _store(s, ramp, y, x0, m, check, out, out_groupdq, out_dq):
    """Results and flags of a segment."""
    bad, result, dq = s.bad, s.result, out_dq[y, x0 : x0 + m]
    for i in range(m):
        dq[i] |= _NO_LIN if bad[0, i] | bad[1, i] else np.uint32(0)
    for j in range(len(ramp)):
        if _within(result, j, out[j, y, x0 : x0 + m], m):
            continue
        for i in range(m):
            value = result[j, i]
            if check and not abs(value) < np.inf:
                raw = ramp[j, y, x0 + i]
                out[j, y, x0 + i] = raw if abs(raw) <= _CLIP else np.float32(0)
                out_dq[y, x0 + i] |= _NO_LIN
                out_groupdq[j, y, x0 + i] |= _DNU
            elif abs(value) > _CLIP:
                out[j, y, x0 + i] = _CLIP if value > 0 else -_CLIP
                out_groupdq[j, y, x0 + i] |= _DNU


def linearise_reads(
    ramp: np.ndarray,
    groupdq: np.ndarray,
    pixeldq: np.ndarray,
    coeffs: np.ndarray,
    linearity_dq: np.ndarray,
    inverse: np.ndarray,
    inverse_dq: np.ndarray | None = None,
    inl_table: np.ndarray | None = None,
    inl_value: np.ndarray | None = None,
    *,
    tile: Tile,
    exposure: Exposure,
    params: PolynomialParams,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Make the signal linear by a polynomial p for each pixel, read by read.

    A resultant is the mean of reads, and the polynomial of a mean is not the mean of polynomials.
    The straight line through the linearised first and last but one unsaturated resultants, F and
    E, says what each read r would be without noise, by the inverse polynomial q::

        u_r = q(F + (E - F) (r - m_0) / (m_e - m_0)),   m_j = mean of the reads of resultant j
        u_r += S_j - mean(u_r);  u_r += INL(u_r);  S_j = mean(p(u_r))

    For a resultant of one read that is ``p(S_j + INL(S_j))``.

    Parameters
    ----------
    ramp : ndarray (R, y, x) of float32
        Raw signal S, DN.
    groupdq : ndarray (R, y, x) of uint8
    pixeldq : ndarray (y, x) of uint32
    coeffs, inverse : ndarray (C, y, x) of float32
        Coefficients of p and q, ascending, DN^(1-k).
    linearity_dq : ndarray (y, x) of uint32
    inverse_dq : ndarray (y, x) of uint32, optional
    inl_table : ndarray (channels, V) of float64, optional
        Integral non-linearity of the converters, DN, that is added to what they read.
    inl_value : ndarray (V,), optional
        Readings that it is for, ascending, DN.

    Returns
    -------
    ramp : ndarray (R, y, x) of float32
        Linear DN, within +-10^6.
    groupdq : ndarray (R, y, x) of uint8
        With DO_NOT_USE where the result was clipped or is not finite.
    pixeldq : ndarray (y, x) of uint32
        With the linearity flags, and NO_LIN_CORR where a polynomial could not be used.
    """
    unusable = np.zeros((2, *pixeldq.shape), np.bool_)
    np.not_equal(linearity_dq & _NO_LIN, 0, out=unusable[0])
    unusable[1] = unusable[0]
    if inverse_dq is not None and params.per_read and params.inverse_dq:
        unusable[1] |= (inverse_dq & _NO_LIN) != 0
    check = params.check_references
    limits = (LARGEST, LEAST_RISE, LARGEST_RISE) if check else (np.inf, -np.inf, np.inf)
    n_reads = [len(reads) for reads in exposure.read_pattern]
    out, out_groupdq = np.empty_like(ramp), groupdq.copy()
    out_dq = pixeldq | linearity_dq
    _linearise(
        np.ascontiguousarray(ramp),
        groupdq,
        coeffs,
        inverse,
        unusable,
        _reads(exposure),
        _tables(inl_table, inl_value),
        (tile.window.x0, CHANNEL_WIDTH),
        tuple(np.float32(v) for v in limits),
        (params.per_read, check, params.linearise_saturated),
        new_segment(len(ramp), len(coeffs), len(inverse), max(n_reads)),
        out,
        out_groupdq,
        out_dq,
    )
    return out, out_groupdq, out_dq


def _reads(exposure: Exposure) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Reads after the middle of the first resultant, where in them each resultant ends, and the
    middle of each resultant."""
    pattern = exposure.read_pattern
    means = np.array([np.mean(reads) for reads in pattern])
    times = np.concatenate([np.array(reads, float) for reads in pattern]) - means[0]
    return times, np.cumsum([len(reads) for reads in pattern]), means


def _tables(
    table: np.ndarray | None, value: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, bool]:
    """The tables, the readings, and whether these rise in steps of 1; empty if there are none."""
    if table is None or value is None:
        table, value = np.empty((0, 0)), np.empty(0)
    readings = value.astype(np.float64)
    table = table.view()
    table.flags.writeable = False  # as a file gives it: one compiled variant
    return table, readings, bool((np.diff(readings) == 1).all())


def _references(params: PolynomialParams) -> Mapping[str, str]:
    names = {
        "coeffs": "linearity.coeffs",
        "linearity_dq": "linearity.dq",
        # What stands in for the inverse is not looked at.
        "inverse": "inverselinearity.coeffs" if params.per_read else "linearity.coeffs",
        "inl_table": "integralnonlinearity.table",
        "inl_value": "integralnonlinearity.value",
    }
    if params.per_read and params.inverse_dq:
        names["inverse_dq"] = "inverselinearity.dq"
    return names


step = Step(
    name="linearity_polynomial",
    kernel=linearise_reads,
    reads=("ramp", "groupdq", "pixeldq"),
    writes=("ramp", "groupdq", "pixeldq"),
    references=_references,
    params=PolynomialParams,
    sets={"groupdq": ("DO_NOT_USE",), "pixeldq": ("NO_LIN_CORR",)},
    cal_step="linearity",
)
