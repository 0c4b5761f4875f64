"""A small simulator of honest input: one L1 exposure, every reference file, a WCS and the truth.

The forward model runs in the order of the physics, the reverse of the calibration::

    light x response x area -> Poisson charge, read by read (+ dark current, cosmic rays)
    -> full well -> mean over the reads of a resultant -> IPC -> gain (e to DN_lin) -> reset level
    -> inverse linearity (DN_lin to DN_raw) -> bias -> read noise, 1/f noise -> rounding, clipping

It is made for tests, the demo and benchmarks, not for science: stars are Moffat profiles, cosmic
rays straight tracks, and the charge (not the raw signal) is averaged over the reads of a
resultant, which differs only in second order of the curvature of the linearity.

Arrays are ``[resultant, y, x]``, positions (y, x) those of the full frame of side `N`; the active
array has side ``n = N - 8``. Every draw comes from a random stream of its own, seeded by (seed,
name, index): adding one thing does not shift the others, and the number of threads changes nothing.
"""

from __future__ import annotations

import logging
import os
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asdf
import numpy as np
import yaml
from scipy import fft

from .detector import BORDER, CHANNEL, OMEGA_IDEAL, check_side
from .dq import GROUP, MASK_GROWTH, PIXEL
from .errors import InputError
from .exposure import index_dtype
from .io.kinds import REFTYPES

log = logging.getLogger(__name__)

_EDGES = (0, 1, 2, 4, 10, 26, 32, 34, 35)
READ_PATTERN = [list(range(a, b)) for a, b in zip(_EDGES[:-1], _EDGES[1:], strict=True)]
"""Eight resultants of 35 frames."""

CONDITIONS: dict[str, str] = {
    "ad_floor": "raw value 0 in every resultant, in the middle one, or from it on",
    "off_range": "unsaturated signal above Smax or below Smin of the linearity (stars there)",
    "no_sat_check": "saturation threshold NaN, or NO_SAT_CHECK in the saturation file",
    "flat": "flat file outside [0.1, 10]: low, high, zero, negative",
    "gain": "gain file at or below 0.1 e/DN",
    "hot": "dark current of 20, 200, 2000 e/s (these saturate), HOT in mask and dark dq",
    "dead": "no response to light, DEAD in the mask",
    "masked": "each flag of the mask-growth table in turn in the mask",
    "dark_dq": "WARM, UNRELIABLE_DARK in the dark file",
    "linearity_dq": "NO_LIN_CORR, REFERENCE_PIXEL, NONLINEAR in the linearity file",
    "dropout": "DROPOUT in the middle resultant of the L1 file's own resultantdq",
    "nan_reference": "NaN in single pixels of each reference array in turn (not in 'all')",
    "saturation": "for each resultant stars that first saturate there, stars that fill up amid its"
    " reads, and saturating stars on the edge and in the corner of the active array",
    "guide_window": "a guide window in the middle of the detector, across tile borders",
    "guide_window_edge": "a guide window in the corner of the detector (not in 'all')",
}
"""What can be switched on by name, and what it puts where."""
ALL = [c for c in CONDITIONS if c not in ("guide_window_edge", "nan_reference")]
"""The conditions of ``conditions="all"``: those that go together in one exposure."""

NOISE = {
    "read": 6.5,  # rms over the pixels, of one read
    "reset": 12.0,
    "U_PINK": 0.5,  # 1/f of each channel
    "C_PINK": 0.8,  # 1/f common to the channels
    "M_PINK": 1.0,  # part of the common 1/f that the reference output sees (no unit)
    "RU_PINK": 0.3,  # 1/f of the reference output alone
    "amp33": 5.0,  # white noise of the reference output
}
"""Noise levels, DN. The 1/f noise is not in the calibrated `err`: set it to 0 for chi-squares."""

GAIN = 1.8  # e/DN, nominal: true rates are those of a pixel of this gain
RESET_LAG = 0.1  # frames between reset and first read, in which very bright stars fill up
WELL = 1.12  # full well over threshold, so that a full pixel that loses charge by IPC shows it
ORDER = 4  # of the linearity
BAND = 32  # rows that are drawn from one random stream and worked on at once, to stay in cache
DARK_DECAY = {"amplitude": 6.0, "time_constant": 25.0}  # DN_raw, s
WFI18 = ((60.0, 0.35), (-6.0, 1.2))  # DN_raw, s: sum of a exp(-t/ta) in the first resultant
PACKED = {"zlib", "bzp2", "lz4"}
UNITS = {"gain": "electron / DN", "flat": "", "ipc4d": "", "dark_slope": "DN / s"}  # else DN

_Given = int | Sequence[Sequence[float]] | np.ndarray | None  # how many, or a table
_FLAGS: dict[tuple[str, str], list[tuple[str, ...]]] = {  # (file, condition): by place, in turn
    ("mask", "hot"): [("HOT",)],
    ("dark", "hot"): [("HOT", "UNRELIABLE_DARK")],
    ("mask", "dead"): [("DEAD",)],
    ("mask", "masked"): [(flag,) for flag in MASK_GROWTH],
    ("dark", "dark_dq"): [("WARM",), ("UNRELIABLE_DARK",)],
    ("linearitylegendre", "linearity_dq"): [("NO_LIN_CORR",), ("REFERENCE_PIXEL",), ("NONLINEAR",)],
    ("saturation", "no_sat_check"): [(), ("NO_SAT_CHECK",)],
}
_NAN_ARRAYS = [
    *[("linearitylegendre", name) for name in ("data", "Smin", "Smax", "Sref")],
    *[(key, "data") for key in ("gain", "dark", "flat", "ipc4d", "biascorr", "read", "saturation")],
    ("dark", "dark_slope"),
]


@dataclass(frozen=True)
class Simulation:
    """Paths of one simulated exposure; `caldir` by reference key, `config` is ready to run."""

    directory: Path
    l1: Path
    caldir: dict[str, Path]
    fitswcs: Path
    config: Path
    truth: Path
    gwcs: Path | None = None


@dataclass
class _Run:
    """What all parts of one simulation share."""

    side: int
    pattern: list[list[int]]
    frame_time: float
    seed: int
    noise: dict[str, float]
    threads: int
    places: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def n(self) -> int:
        return self.side - 2 * BORDER

    def rng(self, name: str, *index: int) -> np.random.Generator:
        """The random stream of this name and index."""
        seed = np.random.SeedSequence(self.seed, spawn_key=(zlib.crc32(name.encode()), *index))
        return np.random.Generator(np.random.SFC64(seed))

    def plane(self, name: str, mean: float, sigma: float, side: int | None = None) -> np.ndarray:
        """A (side, side) float32 pattern of normal values; the active array if not told."""
        out = self.rng(name).standard_normal((side or self.n,) * 2, dtype=np.float32)
        out *= np.float32(sigma)
        out += np.float32(mean)
        return out

    def at(self, condition: str) -> np.ndarray:
        """(k, 2) places of a condition; none if it is off."""
        return self.places.get(condition, np.empty((0, 2), np.int64))

    def put(self, array: np.ndarray, condition: str, values: Sequence[Any]) -> None:
        """Set the pixels of a condition in an active or full array, taking `values` in turn."""
        shift = BORDER if array.shape[-1] == self.n else 0
        for i, (y, x) in enumerate(self.at(condition) - shift):
            array[..., y, x] = values[i % len(values)]

    def bands(self, work: Callable[[int, slice], None], stop: int, step: int = BAND) -> None:
        """Call ``work(i, i-th slice of 0..stop)`` for all i, in threads."""
        parts = [slice(a, min(a + step, stop)) for a in range(0, stop, step)]
        with ThreadPoolExecutor(self.threads) as pool:
            list(pool.map(work, range(len(parts)), parts))


# --- geometry -----------------------------------------------------------------------------------


def wcs_cards(side: int) -> dict[str, Any]:
    """TAN-SIP header cards of the active array, CRPIX counting from 0."""
    n, scale, angle = side - 2 * BORDER, 0.11 / 3600, np.deg2rad(30.0)
    sin, cos, bend = scale * float(np.sin(angle)), scale * float(np.cos(angle)), 1e-3 / side
    return {
        "WCSAXES": 2, "CTYPE1": "RA---TAN-SIP", "CTYPE2": "DEC--TAN-SIP",
        "CRPIX1": 0.5 * (n - 1) + 3, "CRPIX2": 0.5 * (n - 1) - 5,
        "CRVAL1": 35.25, "CRVAL2": -28.5, "CUNIT1": "deg", "CUNIT2": "deg",
        "CD1_1": -cos, "CD1_2": sin, "CD2_1": sin, "CD2_2": cos,
        "LONPOLE": 180.0, "RADESYS": "ICRS", "A_ORDER": 2, "B_ORDER": 2,
        "A_2_0": bend, "A_1_1": -0.4 * bend, "A_0_2": 0.2 * bend,
        "B_2_0": -0.3 * bend, "B_1_1": 0.7 * bend, "B_0_2": 1.1 * bend,
    }  # fmt: skip


def relative_area(side: int) -> np.ndarray:
    """Solid angle of the active pixels over (0.11 arcsec)^2: the WCS's Jacobian, (n, n) float32."""
    c = wcs_cards(side)
    u = np.arange(side - 2 * BORDER) - c["CRPIX1"]

    def row(y: int) -> np.ndarray:
        v = y - c["CRPIX2"]
        f = u + c["A_2_0"] * u * u + c["A_1_1"] * u * v + c["A_0_2"] * v * v
        g = v + c["B_2_0"] * u * u + c["B_1_1"] * u * v + c["B_0_2"] * v * v
        fu, fv = 1 + 2 * c["A_2_0"] * u + c["A_1_1"] * v, c["A_1_1"] * u + 2 * c["A_0_2"] * v
        gu, gv = 2 * c["B_2_0"] * u + c["B_1_1"] * v, 1 + c["B_1_1"] * u + 2 * c["B_0_2"] * v
        x, y = (np.deg2rad(c[f"CD{i}_1"] * f + c[f"CD{i}_2"] * g) for i in (1, 2))
        # a tangent plane stretches areas by 1/cos^3 of the distance from its centre
        return (fu * gv - fv * gu) * (1 + x * x + y * y) ** -1.5

    cd = np.deg2rad(1) ** 2 * abs(c["CD1_1"] * c["CD2_2"] - c["CD1_2"] * c["CD2_1"])
    area = np.array([row(y).astype(np.float32) for y in range(u.size)])
    return area * np.float32(cd / OMEGA_IDEAL)


def _gwcs(side: int) -> Any:
    """The same WCS as a gwcs of the active array."""
    import gwcs
    from astropy import coordinates, units
    from astropy.modeling import models as m
    from gwcs import coordinate_frames as cf

    c = wcs_cards(side)
    a, b = ({f"c{i}_{j}": c[f"{ax}_{i}_{j}"] for i, j in ((2, 0), (1, 1), (0, 2))} for ax in "AB")
    transform = (
        m.Shift(-c["CRPIX1"]) & m.Shift(-c["CRPIX2"])
        | m.Mapping((0, 1, 0, 1))
        | m.Polynomial2D(2, c1_0=1.0, **a) & m.Polynomial2D(2, c0_1=1.0, **b)
        | m.AffineTransformation2D([[c["CD1_1"], c["CD1_2"]], [c["CD2_1"], c["CD2_2"]]])
        | m.Pix2Sky_TAN()
        | m.RotateNative2Celestial(c["CRVAL1"], c["CRVAL2"], c["LONPOLE"])
    )
    pixels = cf.Frame2D(name="detector", axes_order=(0, 1), unit=(units.pix, units.pix))
    icrs, degrees = coordinates.ICRS(), (units.deg, units.deg)
    sky = cf.CelestialFrame(name="world", reference_frame=icrs, unit=degrees)
    wcs = gwcs.WCS([(pixels, transform), (sky, None)])
    wcs.bounding_box = ((-0.5, side - 2 * BORDER - 0.5),) * 2
    return wcs


def read_times(side: int, detector: str, frame_time: float) -> np.ndarray:
    """Time (s) after the start of a frame at which each active pixel is read, (n, n) float32.

    A channel takes 142 clocks a row for its 128 columns; after every 256 rows the guide window is
    read, which takes 1.5 times its even share of the clocks that the frame has left. Odd channels
    run backwards; the science frame is flipped in x for detectors 3, 6, .., in y for the others.
    """
    period, row_clocks = 4.915263e-6, CHANNEL + 14
    row, column = np.arange(side), np.arange(side)
    last = CHANNEL - 1 + (side - 1) * row_clocks
    guide = 1.5 * (frame_time / period - last) / -(-side // 256)
    y = row * row_clocks + (row // 256) * guide
    x = column % CHANNEL
    x = np.where((column // CHANNEL) % 2 == 1, CHANNEL - 1 - x, x)
    t = (y[:, None] + x) * frame_time / (y[-1] + CHANNEL - 1 + guide)
    t = t[:, ::-1] if int(detector[-2:]) % 3 == 0 else t[::-1]
    return t[BORDER:-BORDER, BORDER:-BORDER].astype(np.float32)


def _names(conditions: str | Iterable[str]) -> set[str]:
    """The conditions that a user's word or words mean."""
    if isinstance(conditions, str):
        conditions = {"all": ALL, "plain": ()}.get(conditions, (conditions,))
    names = set(conditions)
    if unknown := names - set(CONDITIONS):
        raise InputError(f"unknown conditions {sorted(unknown)}; known: {', '.join(CONDITIONS)}")
    return names


def _choose_places(run: _Run, conditions: Iterable[str]) -> None:
    """Give each condition pixels of its own, on a 16-pixel grid that keeps them apart."""
    grid = np.arange(BORDER + 12, run.side - BORDER - 8, 16)
    sites = np.stack(np.meshgrid(grid, grid, indexing="ij"), -1).reshape(-1, 2)
    sites = sites + run.rng("jitter").integers(-2, 3, sites.shape)
    sites = sites[np.abs(sites[:, 1] - run.side // 2) > 24]  # the guide window flags its columns
    sites = run.rng("places").permutation(sites)
    each = max(8, (run.side // 256) ** 2)
    counts = {c: each for c in CONDITIONS if not c.startswith("guide")}
    counts["masked"] = max(each, len(MASK_GROWTH))
    counts["nan_reference"] = max(each, len(_NAN_ARRAYS))
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
class _Pixels:
    """The detector as it is (reference files may say otherwise): active arrays, float32."""

    gain: np.ndarray  # e/DN
    response: np.ndarray  # photo-electrons per expected one
    area: np.ndarray  # over the ideal
    kernel: np.ndarray  # (3, 3, n, n) fraction of charge that goes to (y+dy, x+dx)
    dark: np.ndarray  # e/s, before IPC
    hot: np.ndarray  # e/s, what hot pixels have more
    coef: np.ndarray  # (ORDER + 1, n, n) Legendre coefficients, DN_lin
    smin: np.ndarray  # DN_raw, as the next three
    smax: np.ndarray
    sref: np.ndarray
    threshold: np.ndarray


def _detector(run: _Run) -> _Pixels:
    n, column = run.n, np.arange(run.n, dtype=np.float32)
    sref = run.plane("sref", 6000, 250)
    smin, smax = sref - 1500, run.plane("smax", 62000, 200)
    for i, (y, x) in enumerate(run.at("off_range") - BORDER):
        if i % 2 == 0:
            smax[y, x] = sref[y, x] + 400
        else:
            smin[y, x] = sref[y, x] + 500
    coef = np.empty((ORDER + 1, n, n), np.float32)
    coef[0], coef[1], coef[3], coef[4] = 0, 1, 0.012, -0.004
    coef[2] = run.plane("curvature", 0.05, 0.004)
    value, slope = _curve(2 * (sref - smin) / (smax - smin) - 1, _powers(coef))
    coef[0] = -value  # so that DN_lin is 0 at Sref ..
    coef *= 0.5 * (smax - smin) / slope  # .. and DN_lin per DN_raw is 1 there
    gain = run.plane("gain", GAIN, 0.02 * GAIN)
    gain *= 1 + 0.01 * np.sin((column + BORDER) // CHANNEL)
    u = 2 * column / n - 1
    response = run.plane("response", 1, 0.01) * (1 - 0.03 * (u[:, None] ** 2 + u**2))
    dark = 0.006 * np.exp(run.plane("dark", 0, 0.5))
    threshold = run.plane("threshold", 55000, 300)
    area, kernel = relative_area(run.side), _ipc_kernel(run)
    hot = np.zeros_like(dark)
    run.put(hot, "hot", [20.0, 200.0, 2000.0])
    return _Pixels(gain, response, area, kernel, dark, hot, coef, smin, smax, sref, threshold)


def _ipc_kernel(run: _Run) -> np.ndarray:
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


def _shared(run: _Run, kernel: np.ndarray, charge: np.ndarray) -> np.ndarray:
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


def _linear(pixels: _Pixels, raw: np.ndarray, rows: slice = slice(None)) -> np.ndarray:
    """DN_raw without bias to DN_lin, for some rows."""
    smin, smax = pixels.smin[rows], pixels.smax[rows]
    return _curve(2 * (raw - smin) / (smax - smin) - 1, _powers(pixels.coef[:, rows]))[0]


def _raw(pixels: _Pixels, signal: np.ndarray, rows: slice) -> np.ndarray:
    """DN_lin to DN_raw without bias, the inverse of `_linear`: Newton steps from a line."""
    smin, half = pixels.smin[rows], 0.5 * (pixels.smax[rows] - pixels.smin[rows])
    powers = _powers(pixels.coef[:, rows])
    z = (signal + pixels.sref[rows] - smin) / half - 1
    for _ in range(4):
        value, slope = _curve(z, powers)
        value -= signal
        value /= slope
        z -= value
    return smin + half * (z + 1)


# --- the scene ----------------------------------------------------------------------------------


def _add_star(image: np.ndarray, y: float, x: float, peak: float) -> None:
    """Add a Moffat profile at (y, x) of the full frame to an active image, as far as 1e-4 e/s."""
    y, x, n, radius = y - BORDER, x - BORDER, image.shape[0], int(1.3 * (peak * 1e4) ** (1 / 6))
    ys = np.arange(max(round(y) - radius, 0), min(round(y) + radius + 1, n))
    xs = np.arange(max(round(x) - radius, 0), min(round(x) + radius + 1, n))
    r2 = (ys[:, None] - y) ** 2 + (xs - x) ** 2
    image[ys[0] : ys[-1] + 1, xs[0] : xs[-1] + 1] += peak * (1 + r2 / 1.3**2) ** -3.0


def _scene(run: _Run, pixels: _Pixels, stars: _Given) -> tuple[np.ndarray, list[dict[str, int]]]:
    """Starlight on a perfect pixel, (n, n) float32 in e/s; the stars that were made to saturate."""
    exposure = (run.pattern[-1][-1] + RESET_LAG) * run.frame_time
    light = np.zeros_like(pixels.gain)
    given = (run.side // 64) ** 2 if stars is None else stars
    if isinstance(given, int):  # from faint to 40 % of a full well
        rng = run.rng("stars")
        where = rng.uniform(BORDER, run.side - BORDER - 1, (given, 2))
        given = np.column_stack([where, 20_000 / exposure * 10 ** rng.uniform(-3, 0, given)])
    for y, x, peak in given:
        _add_star(light, y, x, GAIN * peak)
    for y, x in run.at("off_range")[:-2]:  # the last two stay dark
        _add_star(light, y, x, GAIN * 6000 / exposure)
    if "saturation" not in run.places:
        return light, []
    limit = pixels.gain * _linear(pixels, pixels.threshold) / pixels.response
    reads, r, table = run.pattern, len(run.pattern), []
    spots = [(y, x, i) for i, (y, x) in enumerate(run.places["saturation"].tolist())]
    spots += [(BORDER, run.side // 3, r // 2), (run.side - 5, run.side - 5, r // 3)]
    for y, x, i in spots:
        j, amid = i % r, (i // r) % 2 == 1 and len(reads[i % r]) > 1
        before = reads[j - 1][-1] if j else -RESET_LAG
        full_at = np.mean(reads[j]) if amid else 0.5 * (before + reads[j][0])
        rate = limit[y - BORDER, x - BORDER] / ((full_at + RESET_LAG) * run.frame_time)
        _add_star(light, y, x, rate / 0.96)  # 0.96: what IPC leaves of the peak
        table.append({"y": y, "x": x, "resultant": j, "amid": int(amid)})
    return light, table


def _cosmic_rays(run: _Run, given: _Given) -> np.ndarray:
    """Table (k, 4) int64: y, x, the frame whose read first shows it, electrons."""
    last, rng, hits = run.pattern[-1][-1], run.rng("cosmic rays"), []
    if given is None:  # 5 per second and cm^2, pixels of 10 micrometres
        given = int(rng.poisson(5e-6 * run.n**2 * last * run.frame_time))
    if not isinstance(given, int):
        return np.array(given, np.int64).reshape(-1, 4)
    for _ in range(given):
        (y, x), angle = rng.uniform(BORDER, run.side - BORDER - 1, 2), rng.uniform(0, 2 * np.pi)
        frame, charge = rng.integers(1, last + 1), 10 ** rng.uniform(2.0, 4.3)
        for step in range(min(rng.geometric(0.4), 12)):
            at = round(y + step * np.sin(angle)), round(x + step * np.cos(angle))
            if BORDER <= min(at) and max(at) < run.side - BORDER:
                hits.append((*at, frame, round(charge * rng.uniform(0.7, 1.3))))
    return np.array(hits, np.int64).reshape(-1, 4)


# --- from light to numbers ----------------------------------------------------------------------


class _Wells:
    """The charge in every pixel, read after read.

    The light comes in layers (n, n), e per frame, each with streams of its own, so that a star
    more does not change the photons of the sky.
    """

    def __init__(self, run: _Run, layers: list[np.ndarray], full: np.ndarray, hits: np.ndarray):
        self.run, self.layers, self.full, self.hits = run, layers, full, hits
        self.charge, self.frame = np.zeros_like(full), -RESET_LAG
        self.streams = [
            [run.rng("photons", k, i) for k in range(len(layers))] for i in range(-(-run.n // BAND))
        ]

    def resultant(self, j: int) -> np.ndarray:
        """Mean charge (n, n) over the reads of resultant j; call for j = 0, 1, .. in turn."""
        mean, reads, start = np.zeros_like(self.charge), self.run.pattern[j], self.frame
        row, frame = self.hits[:, 0] - BORDER, self.hits[:, 2]

        def work(i: int, rows: slice) -> None:
            charge, before = self.charge[rows], start
            here = (row >= rows.start) & (row < rows.stop)
            for read in reads:
                for light, stream in zip(self.layers, self.streams[i], strict=True):
                    charge += stream.poisson(light[rows] * np.float32(read - before))
                y, x, _, electrons = self.hits[here & (frame > before) & (frame <= read)].T
                np.add.at(charge, (y - BORDER - rows.start, x - BORDER), electrons)
                np.minimum(charge, self.full[rows], out=charge)
                mean[rows] += charge
                before = read
            mean[rows] /= len(reads)

        self.run.bands(work, self.run.n)
        self.frame = reads[-1]
        return mean


def pink_noise(rng: np.random.Generator, side: int) -> np.ndarray:
    """A block (N, 128) of 1/f noise in readout order, variance 1 per unit ln f, mean 0."""
    length = 2 * CHANNEL * side
    spectrum = rng.standard_normal((length // 2, 2), dtype=np.float32).view(np.complex64)[:, 0]
    spectrum *= 0.5 * length / np.sqrt(np.arange(1, length // 2 + 1, dtype=np.float32))
    spectrum[-1] *= 2  # the highest frequency stands once in the transform, the others twice
    block = fft.irfft(np.concatenate([[0], spectrum]).astype(np.complex64), length)[: length // 2]
    return (block - block.mean()).reshape(side, CHANNEL)


class _Electronics:
    """From charge to raw numbers, resultant after resultant, and the mean dark ramp beside it."""

    def __init__(self, run: _Run, pixels: _Pixels, biascorr: bool, t0: float):
        self.run, self.pixels = run, pixels
        self.dark_slope = _shared(run, pixels.kernel, pixels.dark + pixels.hot) / pixels.gain
        # reset so low that ordinary dark current alone brings the signal to 0 at t0
        start = t0 + RESET_LAG * run.frame_time
        self.start = np.float32(start) * _shared(run, pixels.kernel, pixels.dark) / pixels.gain
        self.read = run.plane("read", 1, 0.05, run.side)
        self.read *= run.noise["read"] / np.sqrt(np.mean(self.read**2))
        self.reset = np.float32(run.noise["reset"]) * run.plane("reset", 1, 0.05, run.side)
        self.kept = self.reset * run.plane("reset draw", 0, 1, run.side)  # in all resultants
        self.pedestal = run.plane("pedestal", 5900, 30, run.side)
        self.amp33_med = run.plane("amp33 med", 5500, 20, run.side)[:, :CHANNEL].copy()
        self.amp33_std = run.plane("amp33 std", 1, 0.1, run.side)[:, :CHANNEL] * run.noise["amp33"]
        self.bias_pattern = run.plane("bias", 0, 1) if biascorr else None
        self.decays: list[tuple[float, float, float, slice]] = []
        self.times = np.zeros(())

    def add_decay(self, times: np.ndarray, a: float, tau: float, shift: float, where: slice):
        """Add a exp(-t/tau) to these resultants; t is the read time, `shift` frames later."""
        self.times = times
        self.decays.append((a, tau, shift, where))

    def bias(self, j: int) -> np.ndarray:
        """Bias correction of resultant j, (n, n) DN_raw: large in the first one."""
        if self.bias_pattern is None:
            return np.zeros_like(self.dark_slope)
        return np.float32(8 if j == 0 else 1) * self.bias_pattern + np.float32(30 * np.exp(-j))

    def resultant(self, j: int, charge: np.ndarray, dark: np.ndarray) -> tuple[np.ndarray, ...]:
        """Raw plane (N, N) and reference output (N, 128) as uint16; fills the `dark` plane."""
        run, pixels, reads, bias = self.run, self.pixels, self.run.pattern[j], self.bias(j)
        scale = np.float32(1 / np.sqrt(len(reads)))
        dark[:] = self.pedestal + np.float32(3 * np.exp(-j))  # of it the reference pixels stay
        raw = dark + self.kept
        for a, tau, shift, where in self.decays:
            for f in reads if j in range(len(run.pattern))[where] else ():
                late = self.times + np.float32((f + shift) * run.frame_time)
                bias += np.float32(a / len(reads)) * np.exp(-late / np.float32(tau))
        dark_time = np.float32((np.mean(reads) + RESET_LAG) * run.frame_time)
        common = pink_noise(run.rng("pink common", j), run.side)

        def signal(_i: int, rows: slice) -> None:
            to = slice(rows.start + BORDER, rows.stop + BORDER), slice(BORDER, -BORDER)
            level = np.minimum(self.dark_slope[rows] * dark_time, 60000) - self.start[rows]
            dark[to] = _raw(pixels, level, rows) + bias[rows]
            level = share_charge(pixels.kernel, charge, rows) / pixels.gain[rows]
            level += self.kept[to] - self.start[rows]
            raw[to] = _raw(pixels, level, rows) + bias[rows]

        def white(i: int, rows: slice) -> None:
            draw = run.rng("read noise", j, i).standard_normal(raw[rows].shape, dtype=np.float32)
            raw[rows] += draw * self.read[rows] * scale

        def pink(i: int, columns: slice) -> None:
            own = run.noise["U_PINK"] * pink_noise(run.rng("pink channel", j, i), run.side)
            own += run.noise["C_PINK"] * common
            raw[:, columns] += scale * (own[:, ::-1] if i % 2 else own)

        run.bands(signal, run.n)
        run.bands(white, run.side)
        run.bands(pink, run.side, CHANNEL)
        amp33 = run.noise["RU_PINK"] * pink_noise(run.rng("pink amp33", j), run.side)
        amp33 += run.noise["M_PINK"] * run.noise["C_PINK"] * common
        amp33 += self.amp33_std * run.rng("amp33", j).standard_normal(amp33.shape)
        amp33 = self.amp33_med + scale * amp33
        return tuple(np.clip(np.rint(a), 0, 65535).astype(np.uint16) for a in (raw, amp33))


# --- files --------------------------------------------------------------------------------------


def _frame(active: np.ndarray, value: float) -> np.ndarray:
    """An active array (.., n, n) in a border of reference pixels of one value."""
    width = [(0, 0)] * (active.ndim - 2) + [(BORDER, BORDER)] * 2
    return np.pad(active, width, constant_values=value)


def _planes(cube: np.ndarray, first: int, extra: bool) -> np.ndarray:
    """The planes of a reference cube: those of the exposure, and one in front if `extra`."""
    if extra and not first:
        return np.concatenate([cube[:1] - 50, cube])  # of a read that nobody sent
    return cube if extra else cube[first:]


def _references(run: _Run, pixels: _Pixels, parts: _Electronics, amp33: bool) -> Iterator[Any]:
    """(key, tree) of the reference files, one after another."""

    def dq(key: str) -> np.ndarray:
        inner = PIXEL["REFERENCE_PIXEL"] if key in ("mask", "linearitylegendre") else 0
        flags = _frame(np.zeros((run.n, run.n), np.uint32), inner)
        for (file, condition), values in _FLAGS.items():
            if file == key:
                run.put(flags, condition, [sum(PIXEL[flag] for flag in v) for v in values])
        return flags

    yield "dark", {"dark_slope": _frame(parts.dark_slope, 0), "dq": dq("dark")}
    threshold = _frame(pixels.threshold, 55000)
    run.put(threshold, "no_sat_check", [np.nan, 55000.0])
    yield "saturation", {"data": threshold, "dq": dq("saturation")}
    # counts in DN of a uniform light: response and area as they are, IPC, gain
    flat = pixels.response * pixels.area * np.float32(GAIN)
    run.put(flat, "dead", [0.0])
    flat = _frame(_shared(run, pixels.kernel, flat) / pixels.gain, 1)
    run.put(flat, "flat", [0.05, 12.0, 0.0, -1.0])
    yield "flat", {"data": flat}
    yield "ipc4d", {"data": pixels.kernel}
    yield "mask", {"dq": dq("mask")}
    gain = _frame(pixels.gain, GAIN)
    run.put(gain, "gain", [0.1, 0.05, 1e-3, -0.5])
    yield "gain", {"data": gain}
    tree: dict[str, Any] = {"data": _frame(pixels.coef, 0), "Sref": _frame(pixels.sref, 0)}
    tree |= {"Smin": _frame(pixels.smin, 0), "Smax": _frame(pixels.smax, 65535)}
    yield "linearitylegendre", tree | {"dq": dq("linearitylegendre")}
    pink = {k: float(v) for k, v in run.noise.items() if k.endswith("PINK")}
    tree = {"data": parts.read, "resetnoise": parts.reset}
    tree["anc"] = {k: pink[k] for k in ("U_PINK", "C_PINK")}
    if amp33:
        tree["amp33"] = {"valid": True, "med": parts.amp33_med, "std": parts.amp33_std}
        tree["amp33"] |= {k: pink[k] for k in ("M_PINK", "RU_PINK")}
    yield "read", tree


def _formatted(name: str, key: str, value: Any, how: set[str]) -> Any:
    """A value of a reference tree with its float arrays as the words of `how` say."""
    if isinstance(value, dict):
        return {k: _formatted(k, key, v, how) for k, v in value.items()}
    if not isinstance(value, np.ndarray) or value.dtype.kind != "f":
        return value
    value = value.astype(np.float64 if "float64" in how else np.float32, copy=False)
    if "big-endian" in how:
        value = value.astype(value.dtype.newbyteorder(">"))
    if "quantity" in how:
        from astropy import units

        return units.Quantity(value, UNITS.get(name, UNITS.get(key, "DN")), copy=False)
    return value


def _write_reference(
    path: Path, tree: dict[str, Any], how: str, detector: str, optical_element: str
) -> None:
    """Write one reference file, a plain tree under ``roman``."""
    key, words = path.stem, set(how.split("+"))
    tree = _formatted("", key, tree, words)
    tree["meta"] = {"reftype": REFTYPES[key][0], "telescope": "ROMAN"}
    tree["meta"]["instrument"] = {"name": "WFI", "detector": detector}
    if key == "flat":
        tree["meta"]["instrument"]["optical_element"] = optical_element
    compression = next(iter(words & PACKED), None)
    asdf.AsdfFile({"roman": tree}).write_to(path, all_array_compression=compression)


def rewrite_array(path: str | os.PathLike, key: str, change: Any) -> None:
    """Replace one entry of a small ASDF file in place; for tests with bad input.

    Parameters
    ----------
    path : path
    key : str
        Where it is under ``roman``, dots between levels: "data", "amp33.med".
    change : callable, array or None
        The new array, or a function that makes it of the old one; None removes the entry.
    """
    *parents, last = key.split(".")
    with asdf.open(path, memmap=False, lazy_load=False) as file:
        node = file["roman"]
        for name in parents:
            node = node[name]
        if change is None:
            del node[last]
        else:
            node[last] = change(np.array(node[last])) if callable(change) else change
        file.write_to(f"{os.fspath(path)}.new")
    os.replace(f"{os.fspath(path)}.new", path)


def _l1_model(
    run: _Run, path: Path, data: np.ndarray, amp33: np.ndarray, offset: int | None
) -> Any:
    """The exposure as a `ScienceRawModel`, the first resultant taken out if there is an offset."""
    from astropy.time import Time
    from roman_datamodels import datamodels

    model = datamodels.ScienceRawModel.create_fake_data()
    meta, pattern = model["meta"], run.pattern
    if offset is not None:
        model["reference_read"], model["reference_amp33"] = data[0].copy(), amp33[0].copy()
        meta["instrument"]["data_encoding_offset"] = int(offset)
        pattern = pattern[1:]
        for cube in (data, amp33):
            for plane in cube[1:]:
                plane[:] = np.clip(plane.astype(np.int32) - cube[0] + offset, 0, 65535)
        data, amp33 = data[1:], amp33[1:]
    model["data"], model["amp33"] = data, amp33
    seconds = (pattern[-1][-1] - pattern[0][0]) * run.frame_time
    start, end = (Time(1811808000.0 + t, format="unix", scale="utc") for t in (0, seconds))
    for time_ in (start, end):
        time_.format = "isot"
    exposure = {"read_pattern": pattern, "nresultants": len(pattern), "frame_time": run.frame_time}
    exposure |= {"exposure_time": seconds, "effective_exposure_time": seconds}
    meta["exposure"].update(exposure | {"start_time": start, "end_time": end})
    meta["filename"] = path.name
    cards = wcs_cards(run.side)
    ra, dec = cards["CRVAL1"], cards["CRVAL2"]
    meta["pointing"].update({"ra_v1": ra, "dec_v1": dec, "target_ra": ra, "target_dec": dec})
    meta["wcsinfo"].update({"ra_ref": ra, "dec_ref": dec, "roll_ref": 30.0, "v3yangle": -60.0})
    return model


def _configuration(run: _Run, keys: Iterable[str], wcs: str) -> dict[str, Any]:
    """What a configuration file for this exposure says."""
    config: dict[str, Any] = {"IN": "l1.asdf", "OUT": "l2.asdf"}
    config |= {"fits": {"FITSWCS": "wcs.txt"}, "gwcs": {"GWCS": "gwcs.asdf"}, "l1": {}}[wcs]
    config["CALDIR"] = {key: f"cal/{key}.asdf" for key in keys}
    noise = run.noise["read"] or 1.0
    config["RAMP_OPT_PARS"] = {"slope": 0.4, "gain": GAIN, "sigma_read": noise}
    config["JUMP_DETECT_PARS"] = dict(SthreshA=5.5, SthreshB=4.5, IthreshA=1.0, IthreshB=1000.0)
    return config | {"SKYORDER": 2, "FITSOUT": True, "SLICEOUT": True}


def simulate(
    directory: str | os.PathLike,
    *,
    side: int = 1024,
    read_pattern: Sequence[Sequence[int]] = READ_PATTERN,
    frame_time: float = 3.04,
    seed: int = 1,
    detector: str = "WFI01",
    optical_element: str = "F158",
    conditions: str | Iterable[str] = "all",
    sky: float | np.ndarray = 0.4,
    stars: _Given = None,
    cosmic_rays: _Given = None,
    noise: Mapping[str, float] | None = None,
    guide_window: Sequence[int] | None = None,
    reference_read: int | None = None,
    extra_plane: bool | None = None,
    amp33: bool = True,
    biascorr: bool = True,
    dark_decay: bool = False,
    wfi18_transient: bool = False,
    array_format: Mapping[str, str] | None = None,
    wcs: str = "fits",
    config: Mapping[str, Any] | None = None,
    threads: int = 2,
) -> Simulation:
    """Simulate one exposure with its reference files, configuration and truth.

    Parameters
    ----------
    directory : path
        Where to write; made if need be. Files of an earlier simulation are replaced.
    side : int
        Detector side N, a multiple of 128 from 256 up.
    read_pattern : sequence of sequences of int
        Frames averaged in each resultant, ascending.
    frame_time : float
        Seconds.
    seed : int
        All draws follow from it.
    detector, optical_element : str
        "WFI01" to "WFI18", and the filter.
    conditions : "all", "plain" (none), a name or names
        What to put in, see `CONDITIONS`.
    sky : float or (N-8, N-8) ndarray
        Background of a nominal pixel of ideal area, DN_lin/s.
    stars : int, sequence of (y, x, peak) or None
        How many random stars, none of them near saturation; or where (full frame) and how bright
        (peak, DN_lin/s). None: one for each 64 x 64 pixels. The saturating ones are a condition.
    cosmic_rays : int, sequence of (y, x, frame, electrons) or None
        How many tracks; or where, which frame's read first shows it, and charge. None: 5 per
        second and cm^2.
    noise : mapping, optional
        Changes to `NOISE`.
    guide_window : (xstart, xstop, ystart, ystop), optional
        Instead of the windows of the conditions.
    reference_read : int, optional
        Take the first resultant out as reference read and subtract it from the others, with this
        ``data_encoding_offset``.
    extra_plane : bool, optional
        Whether `dark.data` and `biascorr.data` have one plane more than the exposure, in front.
        Default: only where the reference read was taken out.
    amp33, biascorr : bool
        Whether the read file describes the reference output; whether there is a bias correction.
    dark_decay, wfi18_transient : bool
        Add these signals, and the reference file of the first.
    array_format : mapping of str to str, optional
        For reference keys, words joined by "+" of float64, big-endian, quantity, zlib, bzp2, lz4.
    wcs : "fits", "gwcs" or "l1"
        Whether the configuration names the FITS header (which is always written), an ASDF file
        with a gwcs, or nothing, the gwcs being in the L1 file.
    config : mapping, optional
        Keys added to the configuration; None as a value removes the key.
    threads : int
        The result does not depend on it.

    Returns
    -------
    Simulation

    Raises
    ------
    InputError
        For options that cannot be.

    Notes
    -----
    The truth file holds under ``truth``: `rate` (N-8, N-8) float32, the light on a pixel of
    nominal gain and response in DN_lin/s, with sky and without dark current, which is what the
    calibrated rate before sky subtraction is in the mean wherever the reference files are right;
    `cosmic_rays` (arrays `y`, `x`, `frame`, `electrons`, the last before IPC and full well);
    `saturated_at` (N, N) int8 (int16 with more than 127 resultants), the first resultant whose raw
    value reaches the threshold of the saturation file, -1 for none; `saturating_stars`, a list of
    `y`, `x`, `resultant`, `amid` (filled up amid the reads of the resultant, which may then stay
    below threshold);
    `conditions`, name to (k, 2) places; `guide_window`; `options`.
    """
    began, directory = time.monotonic(), Path(directory)
    check_side(side, "simulate")
    if set("#?%") & set(str(directory.absolute())):  # asdf would write elsewhere
        raise InputError(f"{directory}: expected a directory without #, ? and % in its name")
    names = _names(conditions)
    pattern = [[int(f) for f in reads] for reads in read_pattern]
    frames = [f for reads in pattern for f in reads]
    if not all(pattern) or frames != sorted(set(frames)) or len(pattern) < 3:
        raise InputError(f"read pattern {pattern}: expected 3 or more resultants, frames ascending")
    if wcs not in ("fits", "gwcs", "l1"):
        raise InputError(f"wcs {wcs!r}: expected 'fits', 'gwcs' or 'l1'")
    if wfi18_transient and detector != "WFI18":
        raise InputError(f"wfi18_transient: only WFI18 has it, not {detector}")
    if guide_window is None and "guide_window" in names:
        guide_window = [side // 2 - 8, side // 2 + 8] * 2
    elif guide_window is None and "guide_window_edge" in names:
        guide_window = [0, 16, side - 16, side]
    formats = dict(array_format or {})
    words = {word for how in formats.values() for word in how.split("+")}
    if unknown := words - PACKED - {"float64", "big-endian", "quantity"}:
        raise InputError(f"array_format: unknown {sorted(unknown)}")

    run = _Run(side, pattern, frame_time, seed, NOISE | dict(noise or {}), threads)
    _choose_places(run, names)
    pixels = _detector(run)
    light, saturating = _scene(run, pixels, stars)
    layers = [light * pixels.response + pixels.hot]
    rate = pixels.area * np.asarray(sky, np.float32)
    layers.append(np.float32(GAIN) * rate * pixels.response + pixels.dark)
    rate += light / np.float32(GAIN)
    for layer in layers:
        layer *= np.float32(frame_time)
    full = np.float32(WELL) * pixels.gain * _linear(pixels, pixels.threshold)
    run.put(full, "dead", [0.0])  # a dead pixel holds nothing
    wells = _Wells(run, layers, full, _cosmic_rays(run, cosmic_rays))
    electronics = _Electronics(run, pixels, biascorr, t0=frame_time)
    if dark_decay:
        a, tau = DARK_DECAY.values()
        electronics.add_decay(read_times(side, detector, frame_time), a, tau, -1.5, slice(None))
    for a, tau in WFI18 if wfi18_transient else ():
        electronics.add_decay(read_times(side, detector, frame_time), a, tau, 0, slice(1))

    planes, middle = len(pattern), len(pattern) // 2
    dark = np.empty((planes, side, side), np.float32)
    data = np.empty((planes, side, side), np.uint16)
    data33 = np.empty((planes, side, CHANNEL), np.uint16)
    for j in range(planes):
        data[j], data33[j] = electronics.resultant(j, wells.resultant(j), dark[j])
    for i, (y, x) in enumerate(run.at("ad_floor")):
        data[(slice(None), slice(middle, middle + 1), slice(middle, None))[i % 3], y, x] = 0
    hits = wells.hits
    del wells, layers, full, light

    (directory / "cal").mkdir(parents=True, exist_ok=True)
    caldir: dict[str, Path] = {}
    first = 0 if reference_read is None else 1
    extra_plane = bool(first) if extra_plane is None else extra_plane
    saturated_at = np.full((side, side), -1, index_dtype(planes - first))

    def write(key: str, tree: dict[str, Any]) -> None:
        for (file, name), (y, x) in zip(_NAN_ARRAYS, run.at("nan_reference"), strict=False):
            if file == key:
                tree[name] = tree[name].copy()
                shift = BORDER if tree[name].shape[-1] == run.n else 0
                tree[name][..., y - shift, x - shift] = np.nan
        caldir[key] = directory / "cal" / f"{key}.asdf"
        _write_reference(caldir[key], tree, formats.get(key, ""), detector, optical_element)

    for key, tree in _references(run, pixels, electronics, amp33):
        if key == "saturation":
            for j in reversed(range(first, planes)):  # NaN is never reached
                saturated_at[data[j] >= tree["data"]] = j - first
        if key == "dark":
            tree["data"] = _planes(dark, first, extra_plane)
            del dark
        write(key, tree)
    if biascorr:
        cube = np.stack([electronics.bias(j) for j in range(planes)])
        write("biascorr", {"data": _planes(cube, first, extra_plane), "t0": frame_time})
    if dark_decay:
        write("dark_decay", {"decay_table": {detector: dict(DARK_DECAY)}})
    if unknown := set(formats) - set(caldir):
        raise InputError(f"array_format: no reference file {sorted(unknown)}")
    del pixels, electronics

    result = Simulation(
        directory, directory / "l1.asdf", caldir, directory / "wcs.txt",
        directory / "config.yaml", directory / "truth.asdf",
        directory / "gwcs.asdf" if wcs == "gwcs" else None,
    )  # fmt: skip
    model = _l1_model(run, result.l1, data, data33, reference_read)
    model["meta"]["instrument"].update({"detector": detector, "optical_element": optical_element})
    model["meta"]["wcsinfo"]["aperture_name"] = f"{detector}_FULL"
    if guide_window is not None:
        for name, value in zip(("xstart", "xstop", "ystart", "ystop"), guide_window, strict=True):
            model["meta"]["guide_star"][f"window_{name}"] = int(value)
    if "dropout" in names:
        model["resultantdq"] = np.zeros((planes - first, side, side), np.uint8)
        run.put(model["resultantdq"][middle - first], "dropout", [GROUP["DROPOUT"]])
    if wcs == "l1":
        model["meta"]["wcs"] = _gwcs(side)
    model.save(result.l1)

    from astropy.io import fits

    # cards of 80 characters without line breaks, which is what readers of such files expect
    result.fitswcs.write_text(fits.Header(wcs_cards(side)).tostring())
    if result.gwcs:
        asdf.AsdfFile({"wcs": _gwcs(side)}).write_to(result.gwcs)
    settings = _configuration(run, caldir, wcs) | dict(config or {})
    settings = {key: value for key, value in settings.items() if value is not None}
    result.config.write_text(yaml.safe_dump(settings, sort_keys=False))
    truth = {"rate": rate, "saturated_at": saturated_at, "saturating_stars": saturating}
    truth["cosmic_rays"] = dict(zip(("y", "x", "frame", "electrons"), hits.T.copy(), strict=True))
    truth["conditions"] = run.places
    truth["guide_window"] = None if guide_window is None else [int(v) for v in guide_window]
    truth["options"] = {"side": side, "seed": seed, "read_pattern": pattern, "noise": run.noise}
    asdf.AsdfFile({"truth": truth}).write_to(result.truth)
    log.info("simulated %d x %d x %d in %s, %.1f s", planes - first, side, side, directory,
             time.monotonic() - began)  # fmt: skip
    return result
