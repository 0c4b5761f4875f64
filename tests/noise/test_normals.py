"""Normals of read noise. Rates of false alarm are per run with new keys; with these all pass."""

import hashlib

import numpy as np
import pytest
from scipy import stats
from scipy.special import ndtri

from roman_dask_l2.noise.normals import COUNTERS, _invert, _philox, _table, fill

KEY = 0x0123456789ABCDEF_FEDCBA9876543210


def normals(key, shape):
    out = np.empty(shape, np.float32)
    fill(key, out.reshape(-1))
    return out


def words_of(key, first, n):
    words = np.empty((4, n), np.uint32)
    _philox(*(np.uint64(key >> s & 0xFFFFFFFF) for s in (0, 32, 64, 96)), first, words)
    return words


def inverted(words):
    out = np.empty(words.size, np.float32)
    _invert(words, _table(), np.empty(words.size, np.float32), out)
    return out


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


def test_inverse():
    """Within a rounding of float32 of the inverse normal distribution, all the way to its ends."""
    rng = np.random.default_rng(3)
    octaves = 2 ** np.linspace(0, 31, 100_000)
    m = np.concatenate([np.arange(5000), rng.integers(0, 2**31, 200_000), octaves - 1])
    m = np.append(m, [2**31 - 1, 2**30, 2**30 - 1]).astype(np.uint32)
    expected = -ndtri((m + 0.5) / 2**32)
    found = inverted(m)
    assert (np.abs(found - expected) < 1.2e-7 + 0.9e-7 * expected).all()
    np.testing.assert_array_equal(inverted(m | np.uint32(2**31)), -found)


def test_table_is_the_same_on_every_machine():
    digest = hashlib.sha256(_table().astype("<f4").tobytes()).hexdigest()
    assert digest == "962ec71047fbf1f37e3e882f969fa5bafcee7db41e423b6d423c7b8077eda5d2"


@pytest.mark.parametrize("n", [1, 4 * COUNTERS - 1, 4 * COUNTERS, 10 * COUNTERS + 3])
def test_order(n):
    """Number k COUNTERS + c of a block is word k of its counter c, however many are wanted."""
    blocks = [words_of(KEY, i * COUNTERS, COUNTERS).ravel() for i in range(3)]
    np.testing.assert_array_equal(normals(KEY, (n,)), inverted(np.concatenate(blocks))[:n])
    np.testing.assert_array_equal(normals(KEY, (n, 1))[:, 0], normals(KEY, (n,)))


def test_distribution():
    """Four million: counts of 400 equally likely cells (chi-square) and beyond 3, 4 and 4.5 sigma
    (binomial), each alarming at 1e-6."""
    draws = normals(KEY, (2000, 2000))
    cells = np.floor(stats.norm.cdf(draws.astype(float)) * 400).astype(int)
    assert stats.chisquare(np.bincount(cells.ravel(), minlength=400)).pvalue > 1e-6
    for limit in (3, 4, 4.5):
        for beyond in (draws > limit, draws < -limit):
            found = int(beyond.sum())
            assert stats.binomtest(found, draws.size, stats.norm.sf(limit)).pvalue > 1e-6


def test_neighbours_are_independent():
    """Of numbers up to 20 apart, of words of one counter, and of keys that differ in one bit: the
    mean of a million products within 6 sigma (2e-9 each)."""
    n = 1 << 20
    draws = normals(KEY, (n,)).astype(float)
    products = [draws[step:] * draws[:-step] for step in [*range(1, 21), COUNTERS, 4 * COUNTERS]]
    products += [draws * normals(KEY ^ 1 << bit, (n,)) for bit in (0, 31, 32, 63, 64, 95, 127)]
    for product in products:
        assert abs(product.mean()) < 6 / np.sqrt(product.size)
