"""Normals of read noise. Rates of false alarm are per run with new keys; with these all pass."""

import hashlib

import numpy as np
import pytest
from scipy import stats

from roman_dask_l2.noise.normals import COUNTERS, _pairs, _philox, fill

KEY = 0x0123456789ABCDEF_FEDCBA9876543210


def normals(key, shape):
    out = np.empty(shape, np.float32)
    fill(key, out.reshape(-1))
    return out


def words_of(key, first, n):
    words = np.empty((4, n), np.uint32)
    _philox(*(np.uint64(key >> s & 0xFFFFFFFF) for s in (0, 32, 64, 96)), first, words)
    return words


def paired(first, second):
    """The two normals of each two words."""
    out = np.empty((2, first.size), np.float32)
    _pairs(first, second, *out)
    return out


def of_blocks(n):
    """The first n normals, from the words of their blocks."""
    words = [words_of(KEY, i * COUNTERS, COUNTERS) for i in range(-(-n // (4 * COUNTERS)))]
    return np.concatenate([[*paired(*w[:2]), *paired(*w[2:])] for w in words]).ravel()[:n]


def plain_philox(key, counter):
    """Philox4x32-10 of Salmon et al. (2011) in Python's integers."""
    k = [key & 0xFFFFFFFF, key >> 32 & 0xFFFFFFFF]
    c = [counter, 0, key >> 64 & 0xFFFFFFFF, key >> 96]
    for _ in range(10):
        p, q = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [(q >> 32) ^ c[1] ^ k[0], q & 0xFFFFFFFF, (p >> 32) ^ c[3] ^ k[1], p & 0xFFFFFFFF]
        k = [(k[0] + 0x9E3779B9) & 0xFFFFFFFF, (k[1] + 0xBB67AE85) & 0xFFFFFFFF]
    return c


def test_known_words():
    """Counter and key of zero: the known answer of the authors' Random123."""
    assert plain_philox(0, 0) == [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]
    assert words_of(0, 0, 1)[:, 0].tolist() == plain_philox(0, 0)


def test_words():
    for first in (0, 77, 2**32 - 5):
        expected = [plain_philox(KEY, first + i) for i in range(5)]
        assert words_of(KEY, first, 5).T.tolist() == expected


def test_pairs():
    """Within the roundings of float32 of Box and Muller's formula, all the way to its ends."""
    rng = np.random.default_rng(3)
    octaves = 2 ** np.linspace(0, 31, 100_000)
    ends = np.arange(5000)
    m = np.concatenate([ends, rng.integers(0, 2**31, 200_000), octaves - 1, 2**31 - octaves])
    m = np.append(m, [2**31 - 1, 2**30, 2**30 - 1, *2**31 - 1 - ends]).astype(np.uint32)
    word = rng.integers(0, 2**32, m.size, dtype=np.uint32)
    word[: 2 * ends.size] = np.r_[ends, 2**31 - 1 - ends]  # both ends of the angle
    signed = (word.astype(np.int64) & 2**31 - 1 ^ 2**30) - 2**30
    phi = signed / 2**30 * np.pi / 2
    r = np.sqrt(-2 * np.log1p((m + 0.5) / 2**31 - 1)) * np.where(word >> 31, -1, 1)
    expected = r * [np.cos(phi), np.sin(phi)]
    found = paired(m, word)
    assert (np.abs(found - expected) < 4e-7 * np.abs(r)).all()
    np.testing.assert_array_equal(paired(m | np.uint32(2**31), word), found)
    np.testing.assert_array_equal(paired(m, word ^ np.uint32(2**31)), -found)


def test_the_same_on_every_machine():
    """No fused products, no function of a library of mathematics."""
    digest = hashlib.sha256(normals(KEY, (1 << 20,)).astype("<f4").tobytes()).hexdigest()
    assert digest == "d55ea9c0db0364cf374eee8ce8d5d4133b96bc0ff18f5a394811a9792e071985"


@pytest.mark.parametrize("n", [1, COUNTERS, 4 * COUNTERS - 1, 4 * COUNTERS, 10 * COUNTERS + 3])
def test_order(n):
    """Words 0 and 1 of counter c make numbers c and COUNTERS + c of a block, however many are
    wanted."""
    np.testing.assert_array_equal(normals(KEY, (n,)), of_blocks(n))
    np.testing.assert_array_equal(normals(KEY, (n, 1))[:, 0], normals(KEY, (n,)))


def test_distribution():
    """Four million: counts of 400 equally likely cells (chi-square) and beyond 3, 4 and 4.5 sigma
    (binomial), each alarming at 1e-6. So for the numbers themselves, and for the sum and the
    difference of the two of a pair."""
    alone = normals(KEY, (1000, 4, COUNTERS))
    half = np.sqrt(np.float32(0.5))
    pairs = (alone[:, ::2] + alone[:, 1::2]) * half, (alone[:, ::2] - alone[:, 1::2]) * half
    for draws in (alone, *pairs):
        _check_distribution(draws)


def _check_distribution(draws):
    cells = np.floor(stats.norm.cdf(draws.astype(float)) * 400).astype(int)
    assert stats.chisquare(np.bincount(cells.ravel(), minlength=400)).pvalue > 1e-6
    for limit in (3, 4, 4.5):
        for beyond in (draws > limit, draws < -limit):
            found = int(beyond.sum())
            assert stats.binomtest(found, draws.size, stats.norm.sf(limit)).pvalue > 1e-6


def test_neighbours_are_independent():
    """Of numbers up to 20 apart, of one counter, their squares, and of keys that differ in
    one bit: the mean of a million products within 6 sigma (2e-9 each)."""
    n = 1 << 20
    draws = normals(KEY, (n,)).astype(float)
    products = [draws[step:] * draws[:-step] for step in [*range(1, 21), COUNTERS, 4 * COUNTERS]]
    squares = (draws**2 - 1) / np.sqrt(2)
    products += [squares[step:] * squares[:-step] for step in (1, COUNTERS, 2 * COUNTERS)]
    products += [draws * normals(KEY ^ 1 << bit, (n,)) for bit in (0, 31, 32, 63, 64, 95, 127)]
    for product in products:
        assert abs(product.mean()) < 6 / np.sqrt(product.size)
