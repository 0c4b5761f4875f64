"""Read noise. Rates of false alarm are those of a run with new seeds; with these seeds all pass."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from scipy import stats

from roman_dask_l2.core.detector import BORDER
from roman_dask_l2.noise.read_noise import (
    Border,
    PlaneNoise,
    base_plane,
    common_series,
    noisy_amp33,
    pink_series,
)
from roman_dask_l2.noise.streams import DrawKind, Streams
from roman_dask_l2.steps.refpix import row_weight

N = 256
STREAMS = Streams(11, "R", 0)


def border_of(plane):
    """The reference pixels of a plane (N, N)."""
    rows = np.concatenate([plane[:BORDER], plane[-BORDER:]])
    columns = np.concatenate([plane[:, :BORDER], plane[:, -BORDER:]], axis=1)
    return Border(rows.astype(np.float32), columns.astype(np.float32))


@pytest.fixture
def rng():
    return np.random.default_rng(5)


def unit(rng, side):
    return rng.standard_normal(256 * side, np.float32)


def pink(what, j, block, side):
    return pink_series(STREAMS.normals(what, j, block, (256 * side,)))


def plane(j=0, *, side=N, streams=STREAMS, **changes):
    """A noisy plane; without `changes` there is no noise at all."""
    given = {
        "base": np.full((side, side), 30_000, np.uint16),
        "dark": np.full((side, side), 6000, np.float32),
        "read_noise": np.zeros((side, side), np.float32),
        "reset_noise": np.zeros((side, side), np.float32),
        "c_pink": 0.0,
        "u_pink": 0.0,
        "n_reads": 1,
        "common": common_series(streams, j, side),
        "streams": streams,
        "resultant": j,
    }
    given |= changes
    given |= {name: border_of(given[name]) for name in ("dark", "reset_noise")}
    base, sigma = given.pop("base").copy(), given.pop("read_noise")
    PlaneNoise(**given).add(base, sigma)
    return base


def amp33(j=0, *, side=N, streams=STREAMS, **changes):
    """A noisy reference output; without `changes` there is no noise at all."""
    given = {
        "median": np.full((side, 128), 30_000, np.float32),
        "std": np.zeros((side, 128), np.float32),
        "m_pink": 0.0,
        "ru_pink": 0.0,
        "c_pink": 0.0,
        "n_reads": 1,
        "common": common_series(streams, j, side),
        "streams": streams,
        "resultant": j,
    }
    return noisy_amp33(**given | changes)


def border(side=N):
    """True on reference pixels."""
    mask = np.ones((side, side), bool)
    mask[4:-4, 4:-4] = False
    return mask


def readout_order(channel_block, channel):
    """Pixels of a channel (N, 128) one after the other as they are read: odd channels from the
    right to the left."""
    return (channel_block[:, ::-1] if channel % 2 else channel_block).ravel()


def expected_periodogram(side):
    """Mean of |DFT|^2 of the half period, from the series' autocovariance, leakage included."""
    length, m = 256 * side, 128 * side
    power = np.zeros(m + 1)
    power[1:] = 1 / np.arange(1, m + 1)
    power[1:-1] /= 2
    covariance = np.fft.irfft(power, n=length, norm="forward")[:m]
    tapered = (m - np.arange(m)) * covariance
    tapered[1:] += tapered[1:][::-1].copy()
    return np.fft.rfft(tapered).real


# ------------------------------------------------------------------------------- 1/f series


def test_series_is_the_formula(rng):
    """Some of its values by direct summation of the sines and cosines."""
    side, state = N, rng.bit_generator.state
    series = pink_series(unit(rng, side)).ravel()
    rng.bit_generator.state = state
    length = 2 * 128 * side
    c, s = rng.standard_normal(length, np.float32).astype(float).reshape(2, -1)
    c, s = np.roll(c, -1), np.roll(s, -1)  # the last mode comes first
    k = np.arange(1, length // 2 + 1)
    n = np.r_[0, 1, 2, 777, length // 4, length // 2 - 1]
    phase = 2 * np.pi * (n[:, np.newaxis] * k % length) / length
    expected = (k**-0.5 * (c * np.cos(phase) + s * np.sin(phase))).sum(axis=1)
    # The mean of the block is not summed directly: it drops out of the differences.
    np.testing.assert_allclose(series[n] - series[0], expected - expected[0], atol=2e-5)
    assert abs(series.mean(dtype=float)) < 1e-6


@pytest.mark.parametrize("side", [256, 384, 1408])
def test_series_of_any_side(side, rng):
    series = pink_series(unit(rng, side))
    assert series.shape == (side, 128)
    assert series.dtype == np.float32
    assert series.flags.c_contiguous
    assert np.isfinite(series).all()


def test_same_stream_same_bits():
    streams = Streams(1, "R", 0)
    for what in (DrawKind.PINK_COMMON, DrawKind.PINK_CHANNEL):
        first, again = (pink_series(streams.normals(what, 3, 1, (2**16,))) for _ in range(2))
        np.testing.assert_array_equal(first, again)


def test_power_spectrum_is_one_over_f():
    """Over 4.8 decades: 60 blocks of 1024 x 128 values against the exact mean periodogram.

    In each of 30 logarithmic bins the mean ratio of n modes is Gamma(n) / n: within its quantiles
    of 1e-7 on either side (false alarm of the test 6e-6). The mean periodogram itself, leakage
    included, is 1/f of unit variance per unit ln f.
    """
    side, blocks = 1024, 60
    m = 128 * side
    rng = np.random.default_rng(21)
    expected = expected_periodogram(side)
    ratio = np.zeros(m // 2 - 1)
    for _ in range(blocks):
        spectrum = np.fft.rfft(pink_series(unit(rng, side)).ravel().astype(float))
        ratio += np.abs(spectrum[1:-1]) ** 2 / expected[1:-1]
    edges = np.unique(np.geomspace(1, m // 2, 31).astype(int))
    counts = np.diff(edges)
    means = np.add.reduceat(ratio, edges[:-1] - 1) / blocks / counts
    assert edges[-1] / edges[0] > 1e4
    n = blocks * counts
    assert (means > stats.gamma.ppf(1e-7, n) / n).all()
    assert (means < stats.gamma.isf(1e-7, n) / n).all()

    modes = np.arange(1, m // 2)
    variance_per_ln_f = 2 * expected[1:-1] / m**2 * modes
    assert (np.abs(variance_per_ln_f[4:] - 1) < 0.1).all()
    assert (np.abs(variance_per_ln_f[100:] - 1) < 0.01)[: m // 4].all()


# ------------------------------------------------------------- white and reset noise of pixels


@pytest.fixture(scope="module")
def many():
    """200 resultants of 9 reads with white and reset noise, and their references."""
    rng = np.random.default_rng(6)
    sigma = rng.uniform(6, 60, (N, N)).astype(np.float32)
    reset = rng.uniform(10, 100, (N, N)).astype(np.float32)
    base = rng.integers(20_000, 40_000, (N, N)).astype(np.uint16)
    dark = rng.uniform(5000, 7000, (N, N)).astype(np.float32)
    common = np.zeros((N, 128), np.float32)
    planes = [
        plane(j, base=base, dark=dark, read_noise=sigma, reset_noise=reset, n_reads=9,
              common=common)
        for j in range(200)
    ]  # fmt: skip
    return np.array(planes, np.float32), base, dark, sigma, reset


def test_white_noise_of_every_pixel(many):
    """Variance sigma^2 / N_j (+ 1/12 of rounding), about each pixel's mean.

    K - 1 times the ratio is chi-square of K - 1 degrees of freedom: all 65536 within quantiles of
    1e-12 (false alarm 1e-7), their mean within 5 sigma of 1 (6e-7).
    """
    planes, _, _, sigma, _ = many
    k = len(planes)
    ratio = planes.var(axis=0, ddof=1, dtype=float) / (sigma.astype(float) ** 2 / 9 + 1 / 12)
    assert (ratio > stats.chi2.ppf(1e-12, k - 1) / (k - 1)).all()
    assert (ratio < stats.chi2.isf(1e-12, k - 1) / (k - 1)).all()
    for part in (border(), ~border()):
        assert abs(ratio[part].mean() - 1) < 5 * np.sqrt(2 / (k * part.sum()))


def test_mean_of_active_pixels(many):
    """Unbiased, though rounded: every pixel within 6.5 sigma (false alarm 5e-6), all within 5."""
    planes, base, _, sigma, _ = many
    z = (planes.mean(axis=0, dtype=float) - base) / (sigma / 3 / np.sqrt(len(planes)))
    z = z[~border()]
    assert np.abs(z).max() < 6.5
    assert abs(z.mean()) < 5 / np.sqrt(z.size)


def test_white_noise_is_no_other_pixels(many):
    """Correlation of both channels, each as it is and reversed, of six resultants; and of each with
    itself one row, one column and half a channel further on: all within 6 sigma (false alarm
    6e-7)."""
    planes, base, _, sigma, _ = many
    z = (planes[:6].astype(float) - base)[:, 4:-4] / (sigma[4:-4] / 3)
    parts = np.array([p for image in z for p in (image[:, 4:124], image[:, 132:252])])
    n = parts[0].size
    flat = parts.reshape(len(parts), n)
    reversed_ = parts[:, :, ::-1].reshape(len(parts), n)
    pairs = ~np.eye(len(parts), dtype=bool)
    assert np.abs(flat @ flat.T / np.sqrt(n))[pairs].max() < 6
    assert np.abs(flat @ reversed_.T / np.sqrt(n))[pairs].max() < 6
    for dy, dx in ((1, 0), (0, 1), (0, 60), (64, 0)):
        shifted = np.roll(parts, (dy, dx), axis=(1, 2)).reshape(len(parts), n)
        assert np.abs((flat * shifted).sum(axis=1) / np.sqrt(n)).max() < 6


def test_reset_noise_of_reference_pixels(many):
    """Mean over resultants minus dark: variance reset^2 plus what is left of the white noise, on
    4032 pixels; within 5 sigma (false alarm 6e-7). None on active pixels, see above."""
    planes, _, dark, sigma, reset = many
    rest = sigma.astype(float) ** 2 / 9 / len(planes)
    z = (planes.mean(axis=0, dtype=float) - dark) / np.sqrt(reset.astype(float) ** 2 + rest)
    z = z[border()]
    assert z.size == 4032
    assert abs((z**2).mean() - 1) < 5 * np.sqrt(2 / z.size)
    assert abs(z.mean()) < 5 / np.sqrt(z.size)


def test_reset_noise_is_one_draw_for_all_resultants():
    reset = np.full((N, N), 50, np.float32)
    first, second = (plane(j, reset_noise=reset) for j in (0, 5))
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(plane(n_reads=16, reset_noise=reset), first)
    values = first[border()].astype(float)
    assert (first[~border()] == 30_000).all()
    # No draw serves two pixels: of 4032 values about 3590 +- 20 are different.
    reset[:] = 5000
    spread = plane(reset_noise=reset, dark=np.full((N, N), 30_000, np.float32))[border()]
    assert len(np.unique(spread)) > 3400
    assert abs(values.mean() - 6000) < 5 * 50 / np.sqrt(values.size)


# ---------------------------------------------------------------------- 1/f noise of the pixels


@pytest.mark.parametrize("side", [256, 384])
def test_pink_part_of_each_channel(side):
    """To the rounding: the common series and the channel's own, reversed in odd channels, on
    active and reference pixels alike, over sqrt(N_j)."""
    j, c, u = 3, 200.0, 300.0
    common = common_series(STREAMS, j, side)
    np.testing.assert_array_equal(common, pink(DrawKind.PINK_COMMON, j, 0, side))
    flat = np.full((side, side), 30_000, np.float32)
    made = plane(j, side=side, c_pink=c, u_pink=u, n_reads=4, common=common, dark=flat)
    for channel in range(side // 128):
        own = pink(DrawKind.PINK_CHANNEL, j, channel, side)
        expected = 30_000 + (c * common.astype(float) + u * own) / 2
        block = made[:, 128 * channel : 128 * (channel + 1)]
        if channel % 2:
            expected = expected[:, ::-1]
        assert np.abs(block - expected).max() < 0.51


def test_common_and_own_pink_noise_through_cross_spectra():
    """Of 40 resultants: C^2 + U^2 in a channel, C^2 between two, M C^2 between a channel and the
    reference output, M^2 C^2 + RU^2 in that; and the weight of refpix is the best one.

    The mean of Re(X_a X_b*) over its expectation on n modes has the variance (S_a S_b + S_ab^2) /
    (2 n). Neighbouring modes leak into each other, so 8 sigma are allowed for about 6 (2e-8).
    """
    side, count, n_reads = 384, 40, 4
    c, u, m, ru = 160.0, 120.0, 0.7, 90.0
    expected = expected_periodogram(side)[1:-1]
    flat = np.full((side, side), 30_000, np.float32)
    sums = np.zeros((4, 4))
    for j in range(count):
        common = common_series(STREAMS, j, side)
        image = plane(j, side=side, c_pink=c, u_pink=u, n_reads=n_reads, common=common, dark=flat)
        reference = amp33(
            j, side=side, m_pink=m, ru_pink=ru, c_pink=c, n_reads=n_reads, common=common
        )
        blocks = [(image[:, 128 * i : 128 * (i + 1)], i) for i in range(3)] + [(reference, 0)]
        series = np.array([readout_order(block, i) for block, i in blocks], float)
        modes = np.fft.rfft(series)[:, 1:-1] / np.sqrt(expected)
        sums += (modes @ modes.conj().T).real / modes.shape[1]
    measured = sums / count * n_reads
    theory = np.full((4, 4), c**2) + np.diag([u**2] * 4)
    theory[3, :3] = theory[:3, 3] = m * c**2
    theory[3, 3] = m**2 * c**2 + ru**2
    own = np.diag(theory)
    sigma = np.sqrt((np.outer(own, own) + theory**2) / (2 * count * expected.size))
    np.fill_diagonal(sigma, own / np.sqrt(count * expected.size))
    assert (np.abs(measured - theory) < 8 * sigma).all()
    weight = row_weight(c, m, ru, np.zeros(1))
    assert abs(measured[0, 3] / measured[3, 3] - weight) < 8 * sigma[0, 3] / own[3]


def test_odd_channels_are_read_backwards():
    """Common noise of neighbours is the same only after the reversal of the odd one."""
    made = plane(c_pink=300.0, dark=np.full((N, N), 30_000, np.float32))
    left, right = made[:, :128], made[:, 128:]
    np.testing.assert_array_equal(left, right[:, ::-1])
    assert (left != right).mean() > 0.9


def test_resultants_and_layers_have_their_own_noise():
    """Independent 1/f noise: correlation of whitened series within 6 sigma (false alarm 1e-8)."""
    weight = np.sqrt(expected_periodogram(N)[1:-1])
    flat = np.full((N, N), 30_000, np.float32)
    made = [
        plane(j, c_pink=200.0, u_pink=100.0, dark=flat, streams=streams)
        for j, streams in [
            (0, STREAMS), (1, STREAMS), (0, Streams(11, "R", 1)),
            (0, Streams(11, "RC1", 0)), (0, Streams(12, "R", 0)),
        ]
    ]  # fmt: skip
    modes = np.array([np.fft.rfft(image[:, :128].ravel())[1:-1] / weight for image in made])
    modes /= np.sqrt((np.abs(modes) ** 2).mean(axis=1, keepdims=True))
    correlation = (modes @ modes.conj().T).real / modes.shape[1]
    off = correlation[~np.eye(len(made), dtype=bool)]
    assert np.abs(off).max() < 6 / np.sqrt(2 * modes.shape[1])


# --------------------------------------------------------------------------- reference output


def test_white_noise_of_the_reference_output():
    """Variance std^2 / N_j (+ 1/12) of every pixel within quantiles of 1e-12, and every mean within
    6.5 sigma (false alarm 7e-8 and 3e-6)."""
    std = np.random.default_rng(8).uniform(6, 60, (N, 128)).astype(np.float32)
    common = np.zeros((N, 128), np.float32)
    planes = np.array([amp33(j, std=std, n_reads=4, common=common) for j in range(200)], float)
    k = len(planes)
    ratio = planes.var(axis=0, ddof=1) / (std.astype(float) ** 2 / 4 + 1 / 12)
    assert (ratio > stats.chi2.ppf(1e-12, k - 1) / (k - 1)).all()
    assert (ratio < stats.chi2.isf(1e-12, k - 1) / (k - 1)).all()
    z = (planes.mean(axis=0) - 30_000) / (std / 2 / np.sqrt(k))
    assert np.abs(z).max() < 6.5


def test_pink_part_of_the_reference_output():
    """To the rounding; it is not reversed, and its own noise is no channel's."""
    j, m, c, ru = 2, 0.5, 400.0, 250.0
    common = common_series(STREAMS, j, N)
    own = pink(DrawKind.AMP33_PINK, j, 0, N)
    made = amp33(j, m_pink=m, c_pink=c, ru_pink=ru, n_reads=16, common=common)
    assert made.shape == (N, 128)
    assert made.dtype == np.uint16
    expected = 30_000 + (m * c * common.astype(float) + ru * own) / 4
    assert np.abs(made - expected).max() < 0.51


# ------------------------------------------------------------------- rounding, clipping, bad input


def test_without_noise_the_base_comes_back(rng):
    base = rng.integers(0, 65536, (N, N)).astype(np.uint16)
    base[10, 10:12] = 0, 65535
    dark = rng.uniform(0, 65535, (N, N)).astype(np.float32)
    dark[0, :6] = 10.5, 11.5, -3, 65535.4, 65536, 1e9
    made = plane(base=base, dark=dark)
    assert made.dtype == np.uint16
    np.testing.assert_array_equal(made[~border()], base[~border()])
    np.testing.assert_array_equal(made[border()], np.clip(np.rint(dark), 0, 65535)[border()])
    np.testing.assert_array_equal(made[0, :6], [10, 12, 0, 65535, 65535, 65535])


@pytest.mark.parametrize(("level", "edge"), [(0, 0), (65535, 65535)])
@pytest.mark.parametrize("kind", [{"read_noise": np.full((N, N), 9, np.float32)}, {"c_pink": 9.0}])
def test_values_are_clipped_not_wrapped(level, edge, kind):
    base = np.full((N, N), level, np.uint16)
    made = plane(base=base, dark=base.astype(np.float32), **kind).astype(float)
    assert np.abs(made - level).max() < 300
    share = (made == edge).mean()
    assert 0.35 < share < 0.65
    reference = amp33(median=np.full((N, 128), level), std=np.full((N, 128), 9.0)).astype(float)
    assert np.abs(reference - level).max() < 100
    assert 0.35 < (reference == edge).mean() < 0.65


def test_white_noise_is_clipped_before_the_pink_noise():
    """A full pixel with white noise above it stays full and then loses the 1/f noise alone."""
    white = {"read_noise": np.full((N, N), 5, np.float32)}
    base = np.full((N, N), 65535, np.uint16)
    step = np.full((N, 128), -1000, np.float32)
    before = plane(base=base, **white).astype(int)
    after = plane(base=base, common=step, c_pink=1.0, **white).astype(int)
    np.testing.assert_array_equal(after[~border()], before[~border()] - 1000)


def test_base_is_cut_off():
    dark = np.full((N, N), 6000.9, np.float32)
    dark[8, 8:14] = np.nan, np.inf, -np.inf, -5.5, 7e4, 65535.9
    cut = base_plane(dark)
    assert cut.dtype == np.uint16
    np.testing.assert_array_equal(cut[8, 7:15], [6000, 0, 0, 0, 0, 65535, 65535, 6000])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_bad_reference_values_count_as_zero(bad):
    names = ("dark", "read_noise", "reset_noise")
    good = {name: np.full((N, N), 20, np.float32) for name in names}
    broken = {name: array.copy() for name, array in good.items()}
    zeroed = {name: array.copy() for name, array in good.items()}
    places = (np.s_[0, 5], np.s_[100, 2], np.s_[255, 255], np.s_[80, 80], np.s_[4, 4])
    for name in names:
        for at in places:
            broken[name][at], zeroed[name][at] = bad, 0
    np.testing.assert_array_equal(plane(u_pink=3.0, **broken), plane(u_pink=3.0, **zeroed))
    assert (plane(**broken)[places[0]], plane(**broken)[places[3]]) == (0, 30_000)

    median, std = np.full((N, 128), 500.0), np.full((N, 128), 5.0)
    broken33, zeroed33 = ((median.copy(), std.copy()) for _ in range(2))
    broken33[0][3, 3] = broken33[1][3, 3] = broken33[1][7, 7] = bad
    zeroed33[0][3, 3] = zeroed33[1][3, 3] = zeroed33[1][7, 7] = 0
    made = [amp33(median=a, std=b, ru_pink=3.0) for a, b in (broken33, zeroed33)]
    np.testing.assert_array_equal(*made)


def test_bad_amplitudes_count_as_zero():
    np.testing.assert_array_equal(plane(c_pink=np.nan, u_pink=np.inf), plane())
    np.testing.assert_array_equal(amp33(m_pink=np.nan, ru_pink=np.inf, c_pink=1.0), amp33())


def test_arrays_of_other_kinds(rng):
    """float64, big-endian and read-only references give the same bits; they are not changed."""
    arrays = {
        "dark": rng.uniform(5000, 6000, (N, N)).astype(np.float32),
        "read_noise": rng.uniform(3, 6, (N, N)).astype(np.float32),
        "reset_noise": rng.uniform(3, 6, (N, N)).astype(np.float32),
    }
    amplitudes = {"c_pink": 2.0, "u_pink": 3.0}
    first = plane(**arrays, **amplitudes)
    for dtype in (">f4", "<f8", ">f8"):
        same = {name: array.astype(dtype) for name, array in arrays.items()}
        np.testing.assert_array_equal(plane(**same, **amplitudes), first)
    common = common_series(STREAMS, 0, N)
    inputs = [*arrays.values(), common]
    before = [array.copy() for array in inputs]
    for array in inputs:
        array.flags.writeable = False
    again = plane(common=common, **arrays, **amplitudes)
    np.testing.assert_array_equal(again, first)
    for array, old in zip(inputs, before, strict=True):
        np.testing.assert_array_equal(array, old)


@pytest.mark.parametrize("widths", [(128, 128, 128), (256, 128), (128, 256)])
def test_strips_are_the_frame(rng, widths):
    """Channels can be worked on in any groups, and in any order."""
    side = sum(widths)
    reset, dark = (rng.uniform(3, 6, (side, side)).astype(np.float32) for _ in range(2))
    sigma = rng.uniform(3, 6, (side, side)).astype(np.float32)
    base = rng.integers(20_000, 40_000, (side, side)).astype(np.uint16)
    common = common_series(STREAMS, 0, side)
    noise = PlaneNoise(border_of(dark), border_of(reset), 2.0, 3.0, 4, common, STREAMS, 0)
    whole, parts = base.copy(), np.empty_like(base)
    noise.add(whole, sigma)
    for left, right in reversed([*pairwise(np.cumsum([0, *widths]).tolist())]):
        strip = base[:, left:right].copy()
        noise.add(strip, sigma[:, left:right].copy(), left)
        parts[:, left:right] = strip
    np.testing.assert_array_equal(parts, whole)
    assert not np.array_equal(whole, base)
