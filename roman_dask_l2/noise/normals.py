"""Unit normals by the hundred million: a vectorised counter-based generator and Box-Muller pairs.

Words come from Philox4x32-10 (Salmon et al. 2011, SC'11, doi:10.1145/2063384.2063405), whose rounds
need only 32-bit products, so that many counters are processed at once. Two words of 32 bits become
two normals, ``r cos(phi)`` and ``r sin(phi)`` (Box & Muller 1958, doi:10.1214/aoms/1177706645).
With m the lower 31 bits of the first word, ``r = sqrt(-2 ln((m + 1/2) / 2^31))``; the lower 31 bits
of the second, as a number with a sign, are the angle phi from -pi/2 to pi/2, and its upper bit is
the sign of both. Logarithm, sine and cosine are polynomials with errors below the rounding of
float32, made of products and sums only, so that the bits are the same on every machine.

Nothing is looked up in a table, so a processor works on as many numbers at a time as its vectors
hold, with AVX2 as well, which gathers slowly: a normal takes a sixth of the time of NumPy's
ziggurat. Normals beyond 6.66, a fraction of 3e-11, do not occur with 31 bits.
"""

from __future__ import annotations

import numpy as np

from ..core.jit import kernel

COUNTERS = 1024
"""Counters of a block; each gives four words. Words 0 and 1 of counter c make numbers c and
COUNTERS + c of their block, words 2 and 3 numbers 2 COUNTERS + c and 3 COUNTERS + c: blocks stay in
the processor's cache."""


def fill(key: int, out: np.ndarray, sigma: np.ndarray | None = None) -> None:
    """Fill an array with the first normals of a stream.

    Parameters
    ----------
    key : int
        128 bits: the lower 64 are Philox's key, the upper 64 the upper half of its counter.
    out : ndarray (n,) of float32
        Filled with numbers of mean 0 and variance 1; at most 2^34 of them.
    sigma : ndarray (n,) of float32, optional
        What each is multiplied by, while it is in the cache.
    """
    a, b, c, d = (np.uint64(key >> shift & 0xFFFFFFFF) for shift in (0, 32, 64, 96))
    _fill(a, b, c, d, out, np.empty(0, np.float32) if sigma is None else sigma)


@kernel
def _philox(key0, key1, upper0, upper1, first, words):
    """Words (4, n) of n counters from `first` on. All integers are uint64 with 32 bits used."""
    low, half = np.uint64(0xFFFFFFFF), np.uint64(32)
    a, b, c, d = words[0], words[1], words[2], words[3]
    for i in range(a.size):
        c0, c1, c2, c3 = np.uint64(first + i) & low, np.uint64(0), upper0, upper1
        k0, k1 = key0, key1
        for _ in range(10):
            p, q = np.uint64(0xD2511F53) * c0, np.uint64(0xCD9E8D57) * c2
            c0, c1 = (q >> half) ^ c1 ^ k0, q & low
            c2, c3 = (p >> half) ^ c3 ^ k1, p & low
            k0, k1 = (k0 + np.uint64(0x9E3779B9)) & low, (k1 + np.uint64(0xBB67AE85)) & low
        a[i], b[i], c[i], d[i] = np.uint32(c0), np.uint32(c1), np.uint32(c2), np.uint32(c3)


@kernel
def _pairs(first, second, x, y):
    """Two normals of each two words: `first` and `second` (n,) uint32, `x` and `y` (n,) float32."""
    f = np.float32
    exponents, low = x.view(np.int32), np.int32(0x7FFFFF)
    for i in range(x.size):
        x[i] = f(np.int32(first[i] & np.uint32(0x7FFFFFFF))) + f(0.5)
    # -2 ln(x / 2^31): x is 2^(k + 31) (1 + t), 1 + t from sqrt(1/2) to sqrt(2). In y, before the
    # angle: x's bits are read.
    for i in range(x.size):
        bits = exponents[i] + np.int32(0x3F800000 - 0x3F3504F3)
        k = (bits >> np.int32(23)) - np.int32(127 + 31)
        y[i] = f(k)
        exponents[i] = (bits & low) + np.int32(0x3F3504F3)
    for i in range(x.size):
        # Near m = 2^31 not from x, which is rounded.
        t = f(np.int32(~first[i] & np.uint32(0x7FFFFFFF))) * f(-(2.0**-31)) - f(2.0**-32)
        t = t if y[i] == 0 else x[i] - f(1)
        s = f(-0.17919625341892242) * t + f(0.28964298963546753)
        s = s * t + f(-0.29834794998168945)
        s = s * t + f(0.33087489008903503)
        s = s * t + f(-0.39916831254959106)
        s = s * t + f(0.5000588893890381)
        s = s * t + f(-0.6666831970214844)
        s = s * t + f(0.9999995827674866)
        s = s * t + f(-2.0)
        r = np.sqrt(y[i] * f(-2 * 0.6931471805599453) + t * s)
        # The upper bit of the second word is the sign, in the place of the sign of r.
        word = np.int32(second[i])
        u = f(np.int32(word << np.int32(1)) >> np.int32(1)) * f(2.0**-30)
        r = -r if word < 0 else r
        q = u * u
        c = f(-2.3824917661841027e-05) * q + f(0.0009177248575724661)
        c = c * q + f(-0.02086268924176693)
        c = c * q + f(0.2536693215370178)
        c = c * q + f(-1.2337005138397217)
        c = c * q + f(1.0)
        s = f(0.00015167852689046413) * q + f(-0.004674157593399286)
        s = s * q + f(0.07968992739915848)
        s = s * q + f(-0.6459637880325317)
        s = s * q + f(1.5707963705062866)
        x[i] = r * c
        y[i] = r * (s * u)


@kernel
def _fill(key0, key1, upper0, upper1, out, sigma):
    words = np.empty((4, COUNTERS), np.uint32)
    last = np.empty(words.size, np.float32)
    for start in range(0, out.size, words.size):
        _philox(key0, key1, upper0, upper1, start // 4, words)
        left = out.size - start
        block = out[start : start + words.size] if left >= words.size else last
        for k in range(0, 4, 2):
            x = block[k * COUNTERS : (k + 1) * COUNTERS]
            y = block[(k + 1) * COUNTERS : (k + 2) * COUNTERS]
            _pairs(words[k], words[k + 1], x, y)
        if left < words.size:
            out[start:] = last[:left]
        if sigma.size:
            part, factor = out[start : start + words.size], sigma[start : start + words.size]
            for i in range(part.size):
                part[i] *= factor[i]
