"""Poisson noise of the charge that collects in the ramp, carried through the ramp fit (layer P).

Charge that arrives in frame s is seen by every later read, so it enters the slope with a weight
``T_s = sum_j K_j * (fraction of resultant j's reads at or after s)`` and the noise of a pixel is
``sum_s T_s (n_s - lambda) / g`` with independent counts n_s ~ Poisson(lambda).
`poisson_noise` draws from this distribution, without approximation, but more than ten times faster
than by drawing every n_s (which the tests do, to compare), because:

* Counts add up: Poisson(a) + Poisson(b) = Poisson(a + b). So lambda can be cut into a rate that
  stands on a grid, whose counts come from precomputed tables, and a small rest.
* Within a resultant the weights fall linearly, ``T = top - drop * position``. So only the number of
  electrons in its frames and the sum of their positions matter. Given the number, electrons fall on
  the frames independently (a Poisson process is uniform given its count): the sum comes from a
  table for that number.
* The few electrons of the rest are put on frames one by one. They are thinned (Lewis &
  Shedler 1979) from those of the whole grid step, so that their number comes from a table, too.

Tables are drawn from by the alias method (Walker 1977, ACM Trans. Math. Softw. 3, 253; set up as in
Vose 1991, IEEE Trans. Softw. Eng. 17, 972). "Without approximation" means to float64: tables leave
out tails below 1e-24.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from ..core.detector import Window
from ..core.exposure import Exposure
from ..core.jit import kernel
from .difference_weights import frame_limits
from .difference_weights import frame_weights as own_frame_weights

_PIECE = 16
"""Most frames that one pair of draws (number, sum of positions) stands for: bounds the tables."""
_TOP_COUNT = 128.0
"""Expected electrons in such a piece at the highest rate of the grid."""
_STEPS = 96.0
"""The grid of rates is ``(i / _STEPS)^2`` e/frame, steps of about ``sqrt(lambda) / 48``."""
_MOST_ROUNDS = 24.0
"""Rates above the grid are drawn in rounds; more of them than this cost more than single frames."""
_LARGEST = 1e15
"""e/frame; more is implausible, and counts would overflow."""
_TAIL = 1e-24
_TERMS = 1 << 20
"""Most products of weights and frames that are in memory at a time."""
_OWN_TERMS = 1 << 17
"""Most weights of frames, of pixels with their own, that are in memory at a time: 1 MB."""


def frame_weights(exposure: Exposure, k: np.ndarray) -> np.ndarray:
    """Weight of the charge of every frame in the slope.

    Parameters
    ----------
    exposure : Exposure
    k : ndarray (..., R) of float
        Weights of the resultants, 1/s.

    Returns
    -------
    ndarray (..., F) of float64
        T_s of frames s = 0 .. last used one, 1/s: the slope changes by T_s for one more DN in
        frame s. The slope is ``sum K_j (S_j - S_start)``, so charge that all used resultants see
        cancels exactly, also where K, rounded to float32, does not add up to zero.
    """
    start = exposure.start
    seen = _seen(exposure.read_pattern)
    change = seen[start:] - seen[start]
    rows = np.asarray(k, np.float64)[..., start:].reshape(-1, len(change))
    out = np.empty((len(rows), change.shape[1]))
    some = max(_TERMS // change.size, 1)
    for i in range(0, len(rows), some):
        # not a matrix product, whose last bit depends on the machine
        out[i : i + some] = (rows[i : i + some, :, None] * change).sum(axis=-2)
    return out.reshape(*np.shape(k)[:-1], -1)


@lru_cache(maxsize=8)
def _seen(pattern: tuple[tuple[int, ...], ...]) -> np.ndarray:
    """Fraction of each resultant's reads (R) that come at or after each frame (F)."""
    frames = np.arange(pattern[-1][-1] + 1)
    return np.array([(np.array(reads)[:, None] >= frames).mean(axis=0) for reads in pattern])


def poisson_noise(
    rng: np.random.Generator,
    level: np.ndarray,
    gain: np.ndarray,
    ends: np.ndarray,
    weights: np.ndarray,
    exposure: Exposure,
) -> np.ndarray:
    """One realisation of the Poisson noise of the slope of every pixel of a block.

    The result depends on the state of `rng` and on the arguments alone, so a caller who wants it
    independent of tiles has to cut the detector into blocks in a fixed way.

    Parameters
    ----------
    rng : numpy.random.Generator
    level : ndarray (y, x) of float
        Expected signal, DN/s. Negative: none. Not finite: the pixel gets no noise.
    gain : ndarray (y, x) of float
        e/DN, clipped to 1e-4 .. 1e4; 1 where it is not finite.
    ends : ndarray (y, x) of int
        The ramp ends before this resultant, R for a full ramp; more: a further row of `weights`.
    weights : ndarray (R + 1 or more, R) of float
        K for every value of `ends`, 1/s: ``Fit.k`` of `roman_dask_l2.steps.ramp_weights.fits`, and
        further rows of `own_weights`.
    exposure : Exposure

    Returns
    -------
    ndarray (y, x) of float32
        DN/s, of mean zero.
    """
    noise = np.empty(np.shape(level), np.float32)
    PoissonNoise(level, gain, ends, weights, exposure).draw(rng, whole(noise), noise)
    return noise


class PoissonNoise:
    """`poisson_noise` of several blocks, for all of which what does not depend on chance is worked
    out once.

    Parameters
    ----------
    level, gain, ends, weights, exposure
        As for `poisson_noise`, on an array that holds the blocks.

    Raises
    ------
    ValueError
        If `ends` has a row that `weights` lacks.
    """

    def __init__(
        self,
        level: np.ndarray,
        gain: np.ndarray,
        ends: np.ndarray,
        weights: np.ndarray,
        exposure: Exposure,
    ) -> None:
        self._charge, self._gain = _expected(level, gain, exposure.frame_time)
        self._ends = np.ascontiguousarray(ends, np.int64)
        check_rows(self._ends, weights)
        self._tables = tables = _tables(exposure.read_pattern, exposure.start)
        by_frame = frame_weights(exposure, weights)
        top = np.ascontiguousarray(by_frame[:, tables.zeroth])
        self._weights = by_frame, top, np.ascontiguousarray(top - by_frame[:, tables.first])

    def draw(self, rng: np.random.Generator, place: Window, noise: np.ndarray) -> None:
        """Write the noise of one block, which is at `place` in the arrays, DN/s."""
        arrays = self._charge, self._gain, self._ends
        words = _words(rng, self._charge, place, self._tables)
        _draw(rng, words, 0, place, *arrays, *self._weights, self._tables, noise)


def whole(image: np.ndarray) -> Window:
    """All pixels of an array (y, x)."""
    return Window(0, image.shape[0], 0, image.shape[1])


def check_rows(ends: np.ndarray, weights: np.ndarray) -> None:
    """Raise `ValueError` unless there are weights for all `ends`."""
    if ends.min(initial=0) < 0 or ends.max(initial=0) >= len(weights):
        raise ValueError(f"ends outside 0..{len(weights) - 1}")


def own_poisson_noise(
    rng: np.random.Generator,
    level: np.ndarray,
    gain: np.ndarray,
    coefficients: np.ndarray,
    exposure: Exposure,
) -> np.ndarray:
    """`poisson_noise` with weights of its own for every pixel.

    Parameters
    ----------
    rng, level, gain, exposure
        As for `poisson_noise`.
    coefficients : ndarray (R - 1, y, x) of float64
        Of the differences of resultants in each pixel's rate, 1/s, from `difference_coefficients`.

    Returns
    -------
    ndarray (y, x) of float32
        DN/s, of mean zero; 0 where all coefficients are.
    """
    charge, g = _expected(level, gain, exposure.frame_time)
    tables, limits = _tables(exposure.read_pattern, exposure.start), frame_limits(exposure)
    noise = np.empty(charge.shape, np.float32)
    words, used = _words(rng, charge, whole(charge), tables), 0
    ny, nx = charge.shape
    n_frames = exposure.read_pattern[-1][-1] + 1
    some = max(_OWN_TERMS // (nx * n_frames), 1)
    for y in range(0, ny, some):
        rows = np.s_[y : y + some]
        each = np.arange(noise[rows].size).reshape(-1, nx)
        by_frame = np.empty((n_frames, each.size))
        its = coefficients[:, rows].reshape(-1, each.size)
        own_frame_weights(np.ascontiguousarray(its), limits, by_frame)
        top = by_frame[tables.zeroth]
        drop = top - by_frame[tables.first]
        block, pieces = (charge[rows], g[rows], each), (by_frame.T, top.T, drop.T)
        out = noise[rows]
        used = _draw(rng, words, used, whole(out), *block, *pieces, tables, out)
    return noise


def _words(
    rng: np.random.Generator, charge: np.ndarray, place: Window, tables: _Tables
) -> np.ndarray:
    """Enough words of 16 bits for all draws of a block from tables."""
    per_round = len(tables.sums) + np.count_nonzero(tables.sums >= 0)
    n_words = per_round * _rounds(charge, place, tables.rates) + math.prod(place.shape)
    # Four draws from each 64-bit number, in the same order on any machine.
    words = rng.integers(0, 2**64, (n_words + 3) // 4, np.uint64).astype("<u8", copy=False)
    return words.view("<u2")


def _expected(
    level: np.ndarray, gain: np.ndarray, frame_time: float
) -> tuple[np.ndarray, np.ndarray]:
    """Electrons per frame and usable gain, float64; no charge where there is no usable level."""
    g = np.clip(np.where(np.isfinite(gain), gain, 1.0), 1e-4, 1e4).astype(np.float64)
    charge = np.maximum(level * g * frame_time, 0)
    return np.where(charge < _LARGEST, charge, 0.0), g  # NaN compares false


class _Tables(NamedTuple):
    """Alias tables of one read pattern.

    A row of the tables draws from a distribution with a 16-bit word: its upper bits choose a cell,
    its lower bits choose between the cell's own value and another. Where the lower bits alone do
    not decide (they equal the cell's bound), a uniform number does, so the probabilities are as
    fine as float64.
    """

    rates: np.ndarray
    """(levels,) e/frame, from 0 up."""
    shape: np.ndarray
    """(pieces,) which of the `n_shapes` lists of positions the frames of a piece have."""
    zeroth: np.ndarray
    """(pieces,) a frame at position 0."""
    first: np.ndarray
    """(pieces,) a frame at position 1; one at 0 where there is no other position."""
    sums: np.ndarray
    """(pieces,) row of the sum of positions of 0 electrons, those of 1, 2, .. follow; -1: none."""
    n_shapes: int
    """The row of a count is level * n_shapes + shape."""
    first_frame: int
    """Frames before this one have no weight."""
    candidates: int
    """Row of the count of all weighted frames between level 0 and level 1; the others follow."""
    rows: np.ndarray
    """(rows, 3) first cell, bits below the cell's number, lowest value."""
    cells: np.ndarray
    """(cells,) bound of the lower bits + 2^16 * the cell whose value is the other one."""
    ties: np.ndarray
    """(cells,) probability of the cell's own value where the lower bits equal the bound."""


@lru_cache(maxsize=8)
def _tables(pattern: tuple[tuple[int, ...], ...], start: int) -> _Tables:
    """Alias tables for a read pattern whose first used resultant is `start`."""
    first_frame = pattern[start][0] + 1
    n_frames = pattern[-1][-1] + 1 - first_frame
    pieces = _pieces(pattern[start:])
    shapes = sorted({positions for _, positions in pieces})
    most = max(len(shape) for shape in shapes)
    rates = (np.arange(int(_STEPS * np.sqrt(_TOP_COUNT / most)) + 1) / _STEPS) ** 2
    rows = [_poisson(rate * len(shape)) for rate in rates for shape in shapes]
    candidates = len(rows)
    rows += [_poisson(step * n_frames) for step in np.diff(rates)]
    sums = {}
    for shape in shapes:
        if any(shape):
            sums[shape] = len(rows)
            lowest, p = _poisson(rates[-1] * len(shape))
            rows += _sums(np.bincount(shape) / len(shape), lowest + len(p))
    return _Tables(
        rates,
        np.array([shapes.index(positions) for _, positions in pieces]),
        np.array([frame for frame, _ in pieces]),
        np.array([frame + (p.index(1) if any(p) else 0) for frame, p in pieces]),
        np.array([sums.get(positions, -1) for _, positions in pieces]),
        len(shapes),
        first_frame,
        candidates,
        *_alias_rows(rows),
    )


def _pieces(pattern: tuple[tuple[int, ...], ...]) -> list[tuple[int, tuple[int, ...]]]:
    """Runs of at most `_PIECE` frames whose weights fall linearly with their position.

    The frames of the gap before a resultant weigh as much as its first read. Each run is (a frame
    at position 0, the positions of all its frames).
    """
    pieces = []
    before = pattern[0][0]  # frames up to the first read of the first used resultant: no weight
    for reads in pattern:
        frames = range(before + 1, reads[-1] + 1)
        for i in range(0, len(frames), _PIECE):
            position = [max(frame - reads[0], 0) for frame in frames[i : i + _PIECE]]
            pieces.append((frames[i], tuple(p - position[0] for p in position)))
        before = reads[-1]
    return pieces


def _poisson(mean: float) -> tuple[int, np.ndarray]:
    """Lowest value and relative probabilities of a Poisson distribution, without its tails."""
    mode = int(mean)
    below, above = [1.0], [1.0]
    while len(below) <= mode and below[-1] > _TAIL:
        below.append(below[-1] * (mode + 1 - len(below)) / mean)
    while above[-1] > _TAIL:
        above.append(above[-1] * mean / (mode + len(above)))
    return mode + 1 - len(below), np.array(below[::-1] + above[1:])


def _sums(one: np.ndarray, n: int) -> list[tuple[int, np.ndarray]]:
    """Distributions of the sum of 0, 1, .. n - 1 independent positions distributed as `one`."""
    rows = [(0, np.ones(1))]
    while len(rows) < n:
        lowest, p = rows[-1]
        p = _convolve(p, one)
        keep = np.flatnonzero(p > _TAIL)
        rows.append((lowest + int(keep[0]), p[keep[0] : keep[-1] + 1]))
    return rows


@kernel
def _convolve(a, b):
    """``numpy.convolve``, whose last bit depends on the machine."""
    out = np.zeros(len(a) + len(b) - 1)
    for i in range(len(a)):
        for j in range(len(b)):
            out[i + j] += a[i] * b[j]
    return out


def _alias_rows(rows: list[tuple[int, np.ndarray]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`rows`, `cells` and `ties` of `_Tables` for lowest values and relative probabilities."""
    bits = np.array([max((len(p) - 1).bit_length(), 1) for _, p in rows])
    start = np.concatenate([[0], np.cumsum(2**bits)])
    cells, ties = np.empty(start[-1], np.uint32), np.empty(start[-1])
    for (_, p), b, i in zip(rows, bits, start[:-1], strict=True):
        share = np.zeros(2**b)
        share[: len(p)] = p
        _alias(share, 16 - b, cells[i : i + 2**b], ties[i : i + 2**b])
    lowest = [value for value, _ in rows]
    return np.stack([start[:-1], 16 - bits, lowest], axis=1).astype(np.int32), cells, ties


@kernel
def _alias(share, shift, cells, ties):
    """Cells of one distribution with relative probabilities `share`, which is overwritten."""
    n = len(share)
    total = 0.0
    for i in range(n):
        total += share[i]
    other = np.arange(n)
    small, large = np.empty(n, np.int64), np.empty(n, np.int64)
    n_small = n_large = 0
    for i in range(n):
        share[i] *= n / total
        if share[i] < 1:
            small[n_small] = i
            n_small += 1
        else:
            large[n_large] = i
            n_large += 1
    while n_small and n_large:
        n_small -= 1
        i, j = small[n_small], large[n_large - 1]
        other[i] = j
        share[j] -= 1 - share[i]
        if share[j] < 1:
            n_large -= 1
            small[n_small] = j
            n_small += 1
    # Cells that remain on either stack have 1 up to rounding and keep their own value.
    for i in range(n):
        scaled = min(share[i], 1.0) * 2.0**shift
        bound = np.floor(scaled)
        cells[i] = np.uint32(bound) + (np.uint32(other[i]) << np.uint32(16))
        ties[i] = scaled - bound


@kernel
def _rounds(charge, place, rates):
    """How many rounds of table draws a block takes: see `_draw`."""
    n = 0
    for y in range(place.y0, place.y1):
        for x in range(place.x0, place.x1):
            rate = charge[y, x]
            if rate <= rates[-1] * _MOST_ROUNDS:
                while rate >= rates[1]:
                    n += 1
                    rate -= rates[-1]
    return n


@kernel
def _pick(word, row, rows, cells):
    """Draw from a row: (value, whether the word does not decide, cell). No branches, for speed."""
    row = np.uint64(row)
    shift = np.uint64(rows[row, 1])
    cell = np.uint64(word) >> shift
    low = np.uint64(word) - (cell << shift)
    i = np.uint64(rows[row, 0]) + cell
    bound, other = np.uint64(cells[i] & 0xFFFF), np.uint64(cells[i] >> 16)
    value = cell ^ ((cell ^ other) * np.uint64(low >= bound))
    return rows[row, 2] + np.int64(value), low == bound, np.int64(i)


@kernel
def _break_tie(rng, row, i, rows, cells, ties):
    """Draw the value of a row where the word alone did not decide."""
    own = rng.random() < ties[i]
    return rows[row, 2] + (i - rows[row, 0] if own else np.int64(cells[i] >> 16))


@kernel
def _draw(rng, words, used, place, charge, gain, ends, by_frame, top, drop, tables, noise):
    """Noise of a block, which is at `place`, into `noise`; see the module. Words, of which `used`
    have been, for every draw that has a table. Returns how many have been used then."""
    rates, shape, sums = tables.rates, tables.shape, tables.sums
    rows, cells, ties = tables.rows, tables.cells, tables.ties
    n_levels, n_pieces = len(rates), len(shape)
    first_frame, last_frame = tables.first_frame, by_frame.shape[1]
    n_frames = last_frame - first_frame
    mean_weight = by_frame.sum(axis=1)
    for y in range(place.y0, place.y1):
        for x in range(place.x0, place.x1):
            rest, e = charge[y, x], ends[y, x]
            if rest > rates[-1] * _MOST_ROUNDS:
                total = 0.0
                for s in range(first_frame, last_frame):
                    total += by_frame[e, s] * (rng.poisson(rest) - rest)
                noise[y, x] = total / gain[y, x]
                continue
            total, moved = -mean_weight[e] * rest, 0.0
            level = 0
            while rest >= rates[1]:
                level = min(int(np.sqrt(rest) * _STEPS), n_levels - 1)
                if rates[level] > rest:  # the root was rounded up
                    level -= 1
                for p in range(n_pieces):
                    row = level * tables.n_shapes + shape[p]
                    count, tie, i = _pick(words[used], row, rows, cells)
                    used += 1
                    if tie:
                        count = _break_tie(rng, row, i, rows, cells, ties)
                    total += top[e, p] * count
                    if sums[p] >= 0:
                        row = sums[p] + count
                        position, tie, i = _pick(words[used], row, rows, cells)
                        used += 1
                        if tie:
                            position = _break_tie(rng, row, i, rows, cells, ties)
                        moved += drop[e, p] * position
                rest -= rates[level]
                if level < n_levels - 1:
                    break
            # The rest is now less than the step from `level` (from 0 after full rounds) to the
            # next: of the step's electrons, each is kept with probability rest / step.
            if level == n_levels - 1:
                level = 0
            row = tables.candidates + level
            count, tie, i = _pick(words[used], row, rows, cells)
            used += 1
            if tie:
                count = _break_tie(rng, row, i, rows, cells, ties)
            step = rates[level + 1] - rates[level]
            for _ in range(count):
                u = rng.random() * n_frames  # integer part: which frame; the rest: whether kept
                s = int(u)
                if (u - s) * step < rest:
                    total += by_frame[e, first_frame + s]
            noise[y, x] = (total - moved) / gain[y, x]
    return used
