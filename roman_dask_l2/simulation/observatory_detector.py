"""The simulated detector as the observatory's reference files describe it.

Its raw signal is a polynomial of the linear one, seen by a converter with an integral
non-linearity; charge stays in its pixel, and there is no bias beside the pedestal.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.polynomial import Polynomial, chebyshev

from ..core.detector import BORDER, CHANNEL_WIDTH
from .detector import Pixels, common_pixels, ipc_kernel, share_charge
from .readout import Electronics
from .settings import Run

SCALE = 60_000.0
"""DN by which the curvature is measured."""
CUBIC = 0.012
"""Third-order term of the raw signal at `SCALE`, as a fraction."""
CURVATURE = 0.026, 0.074
"""Range of the second-order term, which is what pixels differ in."""
ORDER = 7
"""Of the polynomial that makes raw signals linear."""
RANGE = 68_000.0
"""Raw signal (DN) up to which that polynomial is the inverse of the other."""
VALUES = 65_536
"""Readings of the converter."""
RIPPLES = ((2.5, 16_384.0), (0.8, 3_700.0))
"""Amplitude and period (DN) of the integral non-linearity."""


@dataclass
class PolynomialPixels(Pixels):
    """Pixels whose raw signal is a polynomial of the linear one, `inverse` of shape (4, n, n)."""

    inverse: np.ndarray  # coefficients, ascending, DN_raw
    curvature: np.ndarray  # second-order term at `SCALE`, as a fraction

    peak = 1.0

    def to_linear(self, raw: np.ndarray, rows: slice = slice(None)) -> np.ndarray:
        """DN_raw to DN_lin above an empty well, for some rows."""
        signal = np.array(raw, np.float64)
        c = self.inverse[:, rows].astype(np.float64)
        for _ in range(6):
            slope = c[1] + signal * (2 * c[2] + signal * 3 * c[3])
            signal -= (_horner(c, signal) - raw) / slope
        return (signal - self.sref[rows]).astype(np.float32)

    def to_raw(self, signal: np.ndarray, rows: slice) -> np.ndarray:
        """DN_lin above an empty well to DN_raw."""
        raw: np.ndarray = _horner(self.inverse[:, rows], signal + self.sref[rows])
        return raw


def _horner(c: np.ndarray, z: np.ndarray) -> np.ndarray:
    value = c[-1] * z
    for term in c[-2:0:-1]:
        value += term
        value *= z
    value += c[0]
    return value


def make_polynomial_detector(run: Run, ipc: bool = False) -> PolynomialPixels:
    """The detector of the observatory's reference files, which know no inter-pixel capacitance."""
    curvature = np.clip(run.plane("curvature", 0.05, 0.004), *CURVATURE)
    inverse = np.zeros((4, run.n, run.n), np.float32)
    inverse[1] = 1
    inverse[2] = -curvature / np.float32(SCALE)
    inverse[3] = CUBIC / SCALE**2
    stays = np.zeros((3, 3, 1, 1), np.float32)
    stays[1, 1] = 1
    kernel = ipc_kernel(run) if ipc else np.broadcast_to(stays, (3, 3, run.n, run.n))
    return PolynomialPixels(
        **common_pixels(run), sref=run.plane("sref", 6000, 250), inverse=inverse,
        kernel=kernel, curvature=curvature,
    )  # fmt: skip


def linear_coefficients(curvature: np.ndarray) -> np.ndarray:
    """Coefficients of the polynomial from raw to linear signal, (ORDER + 1, n, n) float32.

    Pixels differ in their curvature alone, so the fit is made for a few curvatures and its
    coefficients are taken between them.
    """
    low, high = CURVATURE
    nodes, z = chebyshev.chebpts1(9), np.linspace(0, RANGE, 400)
    fitted = np.empty((nodes.size, ORDER + 1))
    for row, node in zip(fitted, nodes, strict=True):
        c = 0.5 * (low + high) + 0.5 * (high - low) * node
        raw = z - c * z**2 / SCALE + CUBIC * z**3 / SCALE**2
        row[:] = Polynomial.fit(raw, z, ORDER).convert().coef
    of_curvature = chebyshev.chebfit(nodes, fitted / fitted[4], nodes.size - 1)
    u = (curvature.astype(np.float64) - 0.5 * (low + high)) / (0.5 * (high - low))
    return np.array(
        [(chebyshev.chebval(u, of_curvature[:, k]) * fitted[4, k]).astype(np.float32)
         for k in range(ORDER + 1)],
    )  # fmt: skip


def make_nonlinearity(run: Run) -> np.ndarray:
    """What is to be added to a reading, by channel and reading, (channels, 65536) float64 DN."""
    reading = np.arange(VALUES, dtype=np.float64)
    table = np.zeros((run.side // CHANNEL_WIDTH, VALUES))
    phases = run.rng("inl").uniform(0, 2 * np.pi, (len(table), len(RIPPLES)))
    for row, phase in zip(table, phases, strict=True):
        for (amplitude, period), start in zip(RIPPLES, phase, strict=True):
            row += amplitude * np.sin(2 * np.pi * reading / period + start)
    return table


class ReadByRead(Electronics):
    """A chain that turns each read into a raw number before reads are averaged.

    Parameters
    ----------
    run : Run
    pixels : PolynomialPixels
    t0 : float
        See `Electronics`.
    """

    def __init__(self, run: Run, pixels: PolynomialPixels, t0: float):
        super().__init__(run, pixels, False, t0)
        self.ipc = bool((pixels.kernel[1, 1] != 1).any())
        self.nonlinearity = make_nonlinearity(run)
        # The reading m of a signal s solves m + I(m) = s: what it falls short of s, by s.
        reading, short = np.arange(VALUES, dtype=np.float64), self.nonlinearity
        for _ in range(4):
            short = np.array(
                [np.interp(reading - lack, reading, row)
                 for lack, row in zip(short, self.nonlinearity, strict=True)]
            )  # fmt: skip
        self.short = short

    def convert(self, charge: np.ndarray, rows: slice) -> np.ndarray:
        """The readings of some active rows, DN_raw without noise; `charge` (n, n) is in e."""
        inside = slice(rows.start + BORDER, rows.stop + BORDER), slice(BORDER, -BORDER)
        shared = share_charge(self.pixels.kernel, charge, rows) if self.ipc else charge[rows]
        signal = shared / self.pixels.gain[rows] + self.kept[inside] - self.start[rows]
        raw = self.pixels.to_raw(signal, rows)
        for channel, short in enumerate(self.short):
            first = max(channel * CHANNEL_WIDTH - BORDER, 0)
            part = raw[:, first : (channel + 1) * CHANNEL_WIDTH - BORDER]
            at = np.clip(part, 0, VALUES - 1.01)
            below = at.astype(np.int32)
            lower = short[below]
            part -= lower + (at - below) * (short[below + 1] - lower)
        return raw

    def active(
        self, j: int, rows: slice, mean: np.ndarray, bias: np.ndarray, dark: np.ndarray,
        raw: np.ndarray,
    ) -> None:  # fmt: skip
        """The readings, with the drift of the pedestal, which the reference pixels see as well."""
        to = slice(rows.start + BORDER, rows.stop + BORDER), slice(BORDER, -BORDER)
        raw[to] = mean[rows] + (bias[rows] + self.drift(j))
