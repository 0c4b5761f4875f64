"""The simulated detector: pixels, gain, linearity, inter-pixel capacitance."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ..core.detector import BORDER, CHANNEL_WIDTH
from ..core.dq import MASK_GROWTH
from ..errors import InputError
from .settings import ALL, CONDITIONS, GAIN, NAN_ARRAYS, ORDER, Run
from .wcs import relative_area

log = logging.getLogger(__name__)


def condition_names(conditions: str | Iterable[str]) -> set[str]:
    """The conditions that a user's word or words mean."""
    if isinstance(conditions, str):
        conditions = {"all": ALL, "plain": ()}.get(conditions, (conditions,))
    names = set(conditions)
    if unknown := names - set(CONDITIONS):
        raise InputError(f"unknown conditions {sorted(unknown)}; known: {', '.join(CONDITIONS)}")
    return names


def choose_places(run: Run, conditions: Iterable[str]) -> None:
    """Give each condition pixels of its own, on a 16-pixel grid that keeps them apart."""
    grid = np.arange(BORDER + 12, run.side - BORDER - 8, 16)
    sites = np.stack(np.meshgrid(grid, grid, indexing="ij"), -1).reshape(-1, 2)
    sites = sites + run.rng("jitter").integers(-2, 3, sites.shape)
    sites = sites[np.abs(sites[:, 1] - run.side // 2) > 24]  # the guide window flags its columns
    sites = run.rng("places").permutation(sites)
    each = max(8, (run.side // 256) ** 2)
    counts = {c: each for c in CONDITIONS if not c.startswith("guide")}
    counts["masked"] = max(each, len(MASK_GROWTH))
    counts["nan_reference"] = max(each, len(NAN_ARRAYS))
    counts["saturation"] = 2 * len(run.pattern) * max(1, run.side // 512)
    used = 0
    for name, count in counts.items():  # each has its share, used or not, so that none moves
        if name in conditions:
            run.places[name] = sites[used : used + count]
            if used + count > len(sites):
                log.warning("side %d has no room for all the places of %s", run.side, name)
        used += count


# --- the detector -------------------------------------------------------------------------------


@dataclass
class Pixels(ABC):
    """The detector as it is (reference files may say otherwise): active arrays, float32."""

    gain: np.ndarray  # e/DN
    response: np.ndarray  # photo-electrons per expected one
    area: np.ndarray  # over the ideal
    kernel: np.ndarray  # (3, 3, n, n) fraction of charge that goes to (y+dy, x+dx)
    dark: np.ndarray  # e/s, before IPC
    hot: np.ndarray  # e/s, what hot pixels have more
    sref: np.ndarray  # DN_raw of an empty well
    threshold: np.ndarray  # DN_raw at which saturation begins

    peak: ClassVar[float] = 0.96
    """What IPC leaves of the peak of a star."""

    @abstractmethod
    def to_linear(self, raw: np.ndarray, rows: slice = slice(None)) -> np.ndarray:
        """DN_raw without bias to DN_lin, for some rows."""

    @abstractmethod
    def to_raw(self, signal: np.ndarray, rows: slice) -> np.ndarray:
        """DN_lin to DN_raw without bias, the inverse of `to_linear`."""


@dataclass
class LegendrePixels(Pixels):
    """The detector of the survey's reference files: its linearity is a Legendre series."""

    coef: np.ndarray  # (ORDER + 1, n, n) Legendre coefficients, DN_lin
    smin: np.ndarray  # DN_raw, range of the series
    smax: np.ndarray

    def to_linear(self, raw: np.ndarray, rows: slice = slice(None)) -> np.ndarray:
        """DN_raw without bias to DN_lin, for some rows."""
        smin, smax = self.smin[rows], self.smax[rows]
        return _curve(2 * (raw - smin) / (smax - smin) - 1, _powers(self.coef[:, rows]))[0]

    def to_raw(self, signal: np.ndarray, rows: slice) -> np.ndarray:
        """DN_lin to DN_raw without bias: Newton steps from a line."""
        smin, half = self.smin[rows], 0.5 * (self.smax[rows] - self.smin[rows])
        powers = _powers(self.coef[:, rows])
        z = (signal + self.sref[rows] - smin) / half - 1
        for _ in range(4):
            value, slope = _curve(z, powers)
            value -= signal
            value /= slope
            z -= value
        return smin + half * (z + 1)


def make_detector(run: Run) -> LegendrePixels:
    """The detector of the survey's reference files."""
    sref = run.plane("sref", 6000, 250)
    smin, smax = sref - 1500, run.plane("smax", 62000, 200)
    for i, (y, x) in enumerate(run.at("off_range") - BORDER):
        if i % 2 == 0:
            smax[y, x] = sref[y, x] + 400
        else:
            smin[y, x] = sref[y, x] + 500
    coef = np.empty((ORDER + 1, run.n, run.n), np.float32)
    coef[0], coef[1], coef[3], coef[4] = 0, 1, 0.012, -0.004
    coef[2] = run.plane("curvature", 0.05, 0.004)
    value, slope = _curve(2 * (sref - smin) / (smax - smin) - 1, _powers(coef))
    coef[0] = -value  # so that DN_lin is 0 at Sref ..
    coef *= 0.5 * (smax - smin) / slope  # .. and DN_lin per DN_raw is 1 there
    return LegendrePixels(
        **common_pixels(run), kernel=ipc_kernel(run), sref=sref, coef=coef, smin=smin, smax=smax
    )


def common_pixels(run: Run) -> dict[str, np.ndarray]:
    """What does not depend on how the reference files describe the detector, by field."""
    n, column = run.n, np.arange(run.n, dtype=np.float32)
    gain = run.plane("gain", GAIN, 0.02 * GAIN)
    gain *= 1 + 0.01 * np.sin((column + BORDER) // CHANNEL_WIDTH)
    u = 2 * column / n - 1
    response = run.plane("response", 1, 0.01) * (1 - 0.03 * (u[:, None] ** 2 + u**2))
    dark = 0.006 * np.exp(run.plane("dark", 0, 0.5))
    hot = np.zeros_like(dark)
    run.put(hot, "hot", [20.0, 200.0, 2000.0])
    return {
        "gain": gain, "response": response, "area": relative_area(run.side), "dark": dark,
        "hot": hot, "threshold": run.plane("threshold", 55000, 300),
    }  # fmt: skip


def ipc_kernel(run: Run) -> np.ndarray:
    """About 1.5 % to each near neighbour, 0.2 % to each diagonal one; nothing leaves the array."""
    kernel = np.empty((3, 3, run.n, run.n), np.float32)
    kernel[1, ::2] = run.plane("ipc x", 0.0150, 0.0008)
    kernel[::2, 1] = run.plane("ipc y", 0.0150, 0.0008)[None]
    kernel[::2, ::2] = run.plane("ipc xy", 0.0020, 0.0001)
    kernel[0, :, 0] = kernel[2, :, -1] = kernel[:, 0, :, 0] = kernel[:, 2, :, -1] = 0
    kernel[1, 1] = 1
    for dy, dx in np.ndindex(3, 3):
        if (dy, dx) != (1, 1):
            kernel[1, 1] -= kernel[dy, dx]
    return kernel


def share_charge(kernel: np.ndarray, charge: np.ndarray, rows: slice) -> np.ndarray:
    """Charge of `rows` after IPC: each pixel gives K[1+dy, 1+dx] of its own to (y+dy, x+dx)."""
    n = charge.shape[0]
    out = np.zeros((rows.stop - rows.start, n), np.float32)
    for dy in (-1, 0, 1):
        y0, y1 = max(rows.start, dy), min(rows.stop, n + dy)  # rows that receive from y - dy
        for dx in (-1, 0, 1):
            x0, x1 = max(dx, 0), n + min(dx, 0)
            source = slice(y0 - dy, y1 - dy), slice(x0 - dx, x1 - dx)
            give = kernel[1 + dy, 1 + dx][source] * charge[source]
            out[y0 - rows.start : y1 - rows.start, x0:x1] += give
    return out


def share_between_pixels(run: Run, kernel: np.ndarray, charge: np.ndarray) -> np.ndarray:
    out = np.empty_like(charge)

    def work(_i: int, rows: slice) -> None:
        out[rows] = share_charge(kernel, charge, rows)

    run.bands(work, run.n)
    return out


_TO_POWERS = np.array(
    [np.polynomial.Legendre.basis(k).convert(kind=np.polynomial.Polynomial).coef.tolist()
     + [0.0] * (ORDER - k) for k in range(ORDER + 1)], np.float32,
)  # fmt: skip
"""Row L: the coefficients of the Legendre polynomial P_L by powers of z."""


def _powers(coef: np.ndarray) -> np.ndarray:
    return np.einsum("lp,lyx->pyx", _TO_POWERS, coef)


def _curve(z: np.ndarray, powers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A polynomial and its derivative at z, continued linearly beyond [-1, 1]."""
    inside = np.clip(z, -1, 1)
    value, slope = powers[-1].copy(), np.zeros_like(inside)
    for c in powers[-2::-1]:
        slope *= inside
        slope += value
        value *= inside
        value += c
    value += (z - inside) * slope
    return value, slope
