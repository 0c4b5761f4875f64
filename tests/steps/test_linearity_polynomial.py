"""Linearity by polynomials: against a plain statement of its formula, bit by bit."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from roman_dask_l2.core.detector import Window
from roman_dask_l2.core.dq import GROUP, PIXEL
from roman_dask_l2.core.exposure import Exposure
from roman_dask_l2.core.step import Tile
from roman_dask_l2.steps.linearity_polynomial import PolynomialParams, linearise_reads, step

NO_LIN, SAT, DNU = PIXEL["NO_LIN_CORR"], GROUP["SATURATED"], GROUP["DO_NOT_USE"]
COMPATIBLE = {"check_references": False, "inverse_dq": False, "linearise_saturated": False}


def polynomials(rng, n, terms):
    coeffs = np.zeros((terms, n, n), np.float32)
    coeffs[0] = rng.normal(0, 3, (n, n))
    coeffs[1] = rng.normal(1, 0.01, (n, n))
    for k in range(2, terms):
        coeffs[k] = rng.normal(0, 0.03, (n, n)) * 6e4 ** (1 - k)
    return coeffs


def spoil(rng, coeffs):
    """Pixels with every kind of useless number, the border included."""
    n = coeffs.shape[1]
    for value, order in [(np.nan, 2), (np.nan, 0), (0, 1), (np.inf, 2), (-np.inf, 0), (3e7, 1),
                         (-1, 1), (1e-30, 1), (1e30, 2)]:  # fmt: skip
        coeffs[(order, *rng.integers(0, n, (2, 200)))] = value


@pytest.fixture(scope="module")
def made(exposure):
    rng = np.random.default_rng(23)
    n, n_res = exposure.side, exposure.n_resultants
    signal = rng.normal(5000, 50, (n, n)) + np.cumsum(rng.gamma(1, 900, (n_res, n, n)), axis=0)
    signal[rng.random(signal.shape) < 0.01] = rng.choice([-900.0, 0.0, 65535.0, 7e4])
    last = rng.integers(0, n_res + 1, (n, n))
    late = np.arange(n_res)[:, None, None] >= last
    groupdq = rng.choice(np.array([0, 0, 0, 1, 64], np.uint8), signal.shape)
    groupdq[late & (rng.random((n, n)) < 0.3)] |= SAT
    coeffs, inverse = polynomials(rng, n, 6), polynomials(rng, n, 5)
    coeffs[3:, :90] = 0  # orders that can be left out
    spoil(rng, coeffs)
    spoil(rng, inverse)
    flags = np.array([0] * 30 + [NO_LIN, PIXEL["NONLINEAR"]], np.uint32)
    return {
        "ramp": signal.astype(np.float32),
        "groupdq": groupdq,
        "pixeldq": rng.choice(np.array([0, 1], np.uint32), (n, n)),
        "coeffs": coeffs,
        "linearity_dq": rng.choice(flags, (n, n)),
        "inverse": inverse,
        "inverse_dq": rng.choice(flags, (n, n)),
        "inl_table": rng.normal(0, 2, (n // 128, 65536)),
        "inl_value": np.arange(65536).astype(np.uint16),
    }


def horner(coeffs, z):
    total = coeffs[-1]
    for c in coeffs[-2::-1]:
        total = total * z + c
    return total


def clean(coeffs, unusable, check):
    """Coefficients with the identity where they cannot be used, and where that is."""
    bad = unusable | np.isnan(coeffs).any(axis=0) | (coeffs[1] == 0)
    if check:
        bad |= (abs(coeffs) > 2**24).any(axis=0)
        bad |= (coeffs[1] < np.float32(0.1)) | (coeffs[1] > np.float32(10))
    identity = np.eye(len(coeffs), dtype=np.float32)[1][:, None, None]
    return np.where(bad, identity, coeffs), bad


@np.errstate(all="ignore")
def restated(a, pattern, params):
    """The step on the whole frame."""
    raw, saturated = a["ramp"], a["groupdq"] & SAT != 0
    marked = a["linearity_dq"] & NO_LIN != 0
    p, bad = clean(a["coeffs"], marked, params.check_references)
    out_dq = a["pixeldq"] | a["linearity_dq"]
    if params.per_read:
        ignored = a["inverse_dq"] & NO_LIN != 0 if params.inverse_dq else False
        q, bad_inverse = clean(a["inverse"], marked | ignored, params.check_references)
        bad_curve = bad.copy()
    p64 = p.astype(float)

    def corrected(u):
        if a.get("inl_table") is None:
            return u
        added = np.empty_like(u)
        for channel, table in enumerate(a["inl_table"]):
            cut = np.s_[:, 128 * channel : 128 * (channel + 1)]
            added[cut] = np.interp(u[cut], a["inl_value"].astype(float), table)
        return u + added

    means = np.array([np.mean(reads) for reads in pattern])
    if params.per_read:
        e = np.maximum((~saturated).sum(axis=0) - 1, 2) - 1
        ends = raw[0], np.take_along_axis(raw, e[None], 0)[0]
        full = saturated[0], np.take_along_axis(saturated, e[None], 0)[0]
        first, last = (
            np.where(full & ~np.bool_(params.linearise_saturated), s, horner(p, s))
            for s, full in zip(ends, full, strict=True)
        )
        rate = (last.astype(float) - first) / (means[e] - means[0])
        if params.check_references:
            for s, linear, over in zip(ends, (first, last), full, strict=True):
                back = horner(q.astype(float), linear.astype(float))
                near = abs(back - s) <= 100 + np.float32(0.05) * abs(s)
                bad_inverse |= ~near & ~over & ~bad_curve
        q, _ = clean(q, bad_inverse, False)
        bad |= bad_inverse
    out, out_group = np.empty_like(raw), a["groupdq"].copy()
    for j, reads in enumerate(pattern):
        signal = raw[j].astype(float)
        u = [signal]
        if params.per_read and len(reads) > 1:
            u = [horner(q.astype(float), first + rate * (r - means[0])) for r in reads]
            shift = signal - sum(u) / len(reads)
            u = [v + shift for v in u]
        linear = (sum(horner(p64, corrected(v)) for v in u) / len(u)).astype(np.float32)
        single = raw[j]
        if params.linearise_saturated:
            full_linear = horner(p64, corrected(signal)).astype(np.float32)
            plausible = (full_linear >= raw[j] / 2) & (full_linear <= raw[j] * 2)
            single = np.where(plausible, full_linear, raw[j])
        linear = np.where(saturated[j], single, linear)
        if params.check_references:
            lost = ~np.isfinite(linear)
            linear = np.where(lost, raw[j], linear)
            bad |= lost
            out_group[j][lost] |= DNU
        out_group[j][abs(linear) > 1e6] |= DNU
        out[j] = np.clip(linear, -1e6, 1e6)
    out_dq[bad] |= NO_LIN
    return {"ramp": out, "groupdq": out_group, "pixeldq": out_dq}


def compare(result, expected, window):
    for name, value in expected.items():
        cut = value[(..., *window.slices)]
        np.testing.assert_array_equal(result[name], cut, name, strict=True)


@pytest.mark.parametrize("options", [{}, COMPATIBLE, {"per_read": False}], ids=str)
def test_formula(options, made, exposure, run_step, window):
    params = PolynomialParams(**options)
    expected = restated(made, exposure.read_pattern, params)
    compare(run_step(step, exposure, window, made, params), expected, window)


@pytest.mark.parametrize("readings", [None, "sparse", "offset"])
def test_tables(readings, made, exposure, run_step):
    """None, with steps of any size, and with steps of 1 that begin elsewhere."""
    arrays, window = dict(made), Window(20, 50, 100, 256)
    if readings is None:
        del arrays["inl_table"], arrays["inl_value"]
    else:
        sparse = np.unique(np.round(np.linspace(0, 256, 700) ** 2)).astype(np.uint16)
        values = sparse if readings == "sparse" else np.arange(4000, 9000, dtype=np.uint16)
        arrays["inl_value"] = values
        arrays["inl_table"] = np.ascontiguousarray(made["inl_table"][:, : len(values)])
    expected = restated(arrays, exposure.read_pattern, PolynomialParams())
    compare(run_step(step, exposure, window, arrays), expected, window)


@pytest.mark.parametrize("tables", [True, False], ids=["tables", "no tables"])
@pytest.mark.parametrize("orders", [(10, 10), (10, 4), (5, 10)], ids=str)
def test_order_ten(orders, tables, made, exposure, run_step):
    """The usual order has loops of its own, for the polynomial and for its inverse."""
    rng, arrays, window = np.random.default_rng(7), dict(made), Window(20, 50, 100, 256)
    for name, order in zip(("coeffs", "inverse"), orders, strict=True):
        arrays[name] = polynomials(rng, exposure.side, order + 1)
        spoil(rng, arrays[name])
    if not tables:
        del arrays["inl_table"], arrays["inl_value"]
    expected = restated(arrays, exposure.read_pattern, PolynomialParams())
    compare(run_step(step, exposure, window, arrays), expected, window)


def one_pixel(ramp, coeffs, inverse=(0, 1), saturated=(), pattern=None, **options):
    """A pixel alone: linear signal, flags of resultants, flags."""
    ramp = np.array(ramp, np.float32).reshape(-1, 1, 1)
    groupdq = np.zeros(ramp.shape, np.uint8)
    groupdq[list(saturated)] = SAT
    pattern = pattern or tuple((i,) for i in range(1, len(ramp) + 1))
    none = np.zeros((1, 1), np.uint32)
    out, group, dq = linearise_reads(
        ramp, groupdq, none,
        np.array(coeffs, np.float32).reshape(-1, 1, 1), none,
        np.array(inverse, np.float32).reshape(-1, 1, 1),
        tile=Tile(Window(60, 61, 50, 51), 256),
        exposure=Exposure(256, pattern, 3.0),
        params=PolynomialParams(**options),
    )  # fmt: skip
    return out[:, 0, 0], group[:, 0, 0], int(dq[0, 0])


READS = ((1,), (2, 3), (4, 5, 6, 7), (8,), (9, 10))


def test_by_hand():
    """p = S + S^2/100: the first resultant 10 -> 11, the last but one 20 -> 24. Without curvature
    in q, the reads of (2, 3) lie half a step of (24 - 11) / 3 / 2 around 12: p of their mean, plus
    the square of that over 100."""
    pattern = ((1,), (2, 3), (4,), (5,))
    out, group, dq = one_pixel([10, 12, 20, 30], [0, 1, 0.01], pattern=pattern)
    half = (24 - 11) / 3 / 2
    np.testing.assert_allclose(out, [11, 12 + 1.44 + half**2 / 100, 24, 39], rtol=1e-6)
    assert dq == 0
    assert not group.any()


@given(st.floats(1e3, 1e4), st.floats(0, 2000), st.floats(-2e-6, 2e-6))
def test_a_steady_light_gives_a_straight_ramp(start, rate, bend):
    """Raw reads are the inverse of linear ones; the means of nonlinear reads are put right."""
    reads = start + rate * np.arange(1, 11)
    raw = (1 - np.sqrt(1 - 4 * bend * reads)) / (2 * bend) if abs(bend) > 1e-9 else reads
    if abs(bend) <= 1e-9:
        bend = 0.0
    z = np.linspace(0, 3.2e4, 400)  # the inverse of y = x - bend x^2, as a fitted polynomial
    y = z - bend * z**2
    fit = np.polynomial.Polynomial.fit(y, z, 8).convert().coef
    ramp = [np.mean(raw[np.array(r) - 1]) for r in READS]
    out, _, dq = one_pixel(ramp, [0, 1, -bend], np.resize(fit, 9), pattern=READS)
    expected = [start + rate * np.mean(r) for r in READS]
    np.testing.assert_allclose(out, expected, rtol=1e-5, atol=0.02)
    assert dq == 0


@given(st.lists(st.floats(0, 65535, width=32), min_size=5, max_size=5))
def test_identity(ramp):
    """It leaves a ramp as it is, but for the rounding of float64."""
    out, group, dq = one_pixel(ramp, [0, 1, 0, 0], pattern=READS)
    np.testing.assert_allclose(out, np.float32(ramp), rtol=1e-7, atol=1e-4)
    assert dq == 0
    assert not group.any()


@pytest.mark.parametrize("kept", [0, 1])
def test_saturated(kept):
    """None or one resultant that is not: the others stay raw, or are linearised one by one."""
    ramp, full = [1000, 2000, 3000, 4000, 5000], range(kept, 5)
    p = [0, 1, 1e-5]
    raw, _, _ = one_pixel(ramp, p, saturated=full, pattern=READS, linearise_saturated=False)
    np.testing.assert_array_equal(raw[kept:], ramp[kept:])
    linear, _, _ = one_pixel(ramp, p, saturated=full, pattern=READS)
    np.testing.assert_allclose(linear, np.polyval(p[::-1], ramp), rtol=1e-6)


def test_saturated_beyond_the_curve_stays_raw():
    out, group, dq = one_pixel([1000, 2000, 60000], [0, 1, 0, 1e-9], saturated=[2])
    assert out[2] == 60000
    assert (group[2], dq) == (SAT, 0)


@pytest.mark.parametrize("coeffs", [[0, np.nan, 0], [0, 0, 1e-5], [np.nan, 1, 0], [7]])
@pytest.mark.parametrize("options", [{}, COMPATIBLE], ids=["checked", "compatible"])
def test_no_curve(coeffs, options):
    """The signal stays raw and the pixel is flagged, whatever the options; also for a curve
    without a linear term."""
    out, _, dq = one_pixel([10, 12, 20, 30], coeffs, **options)
    np.testing.assert_array_equal(out, [10, 12, 20, 30])
    assert dq == NO_LIN


@pytest.mark.parametrize("coeffs", [[0, np.inf], [np.inf, 1], [0, -1], [0, 50], [0, 1, 1e30]])
def test_impossible_curve(coeffs):
    out, group, dq = one_pixel([10, 12, 20, 30], coeffs)
    np.testing.assert_array_equal(out, [10, 12, 20, 30])
    assert dq == NO_LIN
    assert not group.any()
    assert one_pixel([10, 12, 20, 30], coeffs, **COMPATIBLE)[2] == 0


@pytest.mark.parametrize("inverse", [[0, 1, -1], [0, 2], [500, 1], [0, 1, 0, 1e-6]])
def test_no_inverse(inverse):
    """What is not the inverse is not used, and flagged, where a resultant of several reads needs
    it; romancal uses it."""
    ramp, p = [1000, 1100, 1200, 1300, 1400], [0, 1, 1e-6]
    out, group, dq = one_pixel(ramp, p, inverse, pattern=READS)
    plain, _, _ = one_pixel(ramp, p, [0, 1], pattern=READS)
    np.testing.assert_array_equal(out, plain)
    assert dq == NO_LIN
    assert not group.any()
    _, _, dq = one_pixel(ramp, p, inverse, pattern=READS, **COMPATIBLE)
    assert dq == 0
    single = tuple((i,) for i in range(1, 6))
    assert one_pixel(ramp, p, inverse, pattern=single)[2] == 0
    assert one_pixel(ramp, p, inverse, saturated=range(5), pattern=READS)[2] == 0


def test_an_inverse_with_an_offset():
    """Which the shift to the measured mean takes out again."""
    ramp, p = [1000, 1100, 1200, 1300, 1400], [0, 1, 1e-6]
    out, _, dq = one_pixel(ramp, p, [90, 1], pattern=READS)
    np.testing.assert_allclose(out, one_pixel(ramp, p, [0, 1], pattern=READS)[0], rtol=1e-7)
    assert dq == 0


def test_clipped():
    out, group, dq = one_pixel([1, 1000, 2000, -1500], [0, 1, 1, 0.01], **COMPATIBLE)
    np.testing.assert_array_equal(out[1:], [1e6, 1e6, -1e6])
    np.testing.assert_array_equal(group, [0, DNU, DNU, DNU])
    assert dq == 0


def test_not_finite():
    """A number that is lost leaves a flag; as romancal has it, NaN without one."""
    out, group, dq = one_pixel([10, np.nan, 20, 30], [0, 1, 0.01])
    assert np.isfinite(out).all()
    np.testing.assert_array_equal(group, [0, DNU, 0, 0])
    assert dq == NO_LIN
    out, group, dq = one_pixel([10, np.nan, 20, 30], [0, 1, 0.01], **COMPATIBLE)
    assert np.isnan(out[1])
    assert dq == 0
    assert not group.any()
