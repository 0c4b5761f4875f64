"""What the likelihood fit needs to know of a read pattern."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np


class Tables(NamedTuple):
    """Covariance of the scaled differences ``d_i = (S_{i+1} - S_i) / delta_i``.

    In units of the squared read noise of one read, with u the ratio of Poisson to read noise (rate
    / (gain sigma^2), 1/s)::

        V_{i,i}   = u * light[i] + read[i]
        V_{i,i+1} = u * light_next[i] + read_next[i]

    (Brandt 2024, PASP 136, 045004, eqs. 8-13.)
    """

    per_time: np.ndarray
    """(n,) 1 / delta_i, 1/s, for n = R - 1 differences."""
    light: np.ndarray
    """(n,) 1/s"""
    light_next: np.ndarray
    """(n,) 1/s; the last is 0."""
    read: np.ndarray
    """(n,) 1/s^2"""
    read_next: np.ndarray
    """(n,) 1/s^2; the last is 0."""
    pairs: np.ndarray
    """(n,) of bool: whether differences i and i + 1 may be dropped together. They may if resultant
    i + 1, which they share, is the mean of several reads: only within it can there be a jump."""


@lru_cache(maxsize=8)
def difference_tables(read_pattern: tuple[tuple[int, ...], ...], frame_time: float) -> Tables:
    """The covariance of the differences of a read pattern.

    Parameters
    ----------
    read_pattern : tuple of tuple of int
        Frames averaged into each resultant.
    frame_time : float
        Seconds.
    """
    t, tau, n = np.array([_times(reads) for reads in read_pattern]).T
    t, tau = t * frame_time, tau * frame_time
    per_time = 1 / np.diff(t)
    both = np.append(per_time[:-1] * per_time[1:], 0)
    return Tables(
        per_time,
        (tau[:-1] + tau[1:] - 2 * t[:-1]) * per_time**2,
        (t[1:] - tau[1:]) * both,
        (1 / n[:-1] + 1 / n[1:]) * per_time**2,
        -both / n[1:],
        np.append(n[1:-1] > 1, False),
    )


def _times(reads: tuple[int, ...]) -> tuple[float, float, float]:
    """Mean frame, variance-weighted frame and number of reads of a resultant."""
    frames, n = np.array(reads, float), len(reads)
    k = np.arange(1, n + 1)
    return frames.mean(), ((2 * (n - k) + 1) * frames).sum() / n**2, n


@lru_cache(maxsize=16)
def sorting_network(n: int) -> np.ndarray:
    """Pairs (i, j), i < j, (k, 2) of int64: swapping each into order, one after another, sorts n
    values. (Batcher 1968, AFIPS 32, 307: merge exchange, as in Knuth, TAOCP 3, 5.2.2, M.)"""
    pairs = []
    top = 1 << max((n - 1).bit_length() - 1, 0)
    p = top if n > 1 else 0
    while p > 0:
        q, r, d = top, 0, p
        while True:
            pairs += [(i, i + d) for i in range(n - d) if i & p == r]
            if q == p:
                break
            d, q, r = q - p, q >> 1, p
        p >>= 1
    return np.array(pairs, np.int64).reshape(-1, 2)
