"""From charge to raw resultants: wells, electronics, read noise."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy import fft

from ..core.detector import BORDER, CHANNEL_WIDTH
from .detector import Pixels, share_between_pixels, share_charge
from .settings import BAND, RESET_LAG, Run


def read_times(side: int, detector: str, frame_time: float) -> np.ndarray:
    """Time (s) after the start of a frame at which each active pixel is read, (n, n) float32.

    A channel takes 142 clocks a row for its 128 columns; after every 256 rows the guide window is
    read, which takes 1.5 times its even share of the clocks that the frame has left. Odd channels
    run backwards; the science frame is flipped in x for detectors 3, 6, .., in y for the others.
    """
    period, row_clocks = 4.915263e-6, CHANNEL_WIDTH + 14
    row, column = np.arange(side), np.arange(side)
    last = CHANNEL_WIDTH - 1 + (side - 1) * row_clocks
    guide = 1.5 * (frame_time / period - last) / -(-side // 256)
    y = row * row_clocks + (row // 256) * guide
    x = column % CHANNEL_WIDTH
    x = np.where((column // CHANNEL_WIDTH) % 2 == 1, CHANNEL_WIDTH - 1 - x, x)
    t = (y[:, None] + x) * frame_time / (y[-1] + CHANNEL_WIDTH - 1 + guide)
    t = t[:, ::-1] if int(detector[-2:]) % 3 == 0 else t[::-1]
    return t[BORDER:-BORDER, BORDER:-BORDER].astype(np.float32)


# --- from light to numbers ----------------------------------------------------------------------


class Wells:
    """The charge in every pixel, read after read.

    The light comes in layers (n, n), e per frame, each with streams of its own, so that a star
    more does not change the photons of the sky.
    """

    def __init__(self, run: Run, layers: list[np.ndarray], full: np.ndarray, hits: np.ndarray):
        self.run, self.layers, self.full, self.hits = run, layers, full, hits
        self.charge, self.frame = np.zeros_like(full), -RESET_LAG
        self.streams = [
            [run.rng("photons", k, i) for k in range(len(layers))] for i in range(-(-run.n // BAND))
        ]

    def resultant(
        self, j: int, convert: Callable[[np.ndarray, slice], np.ndarray] | None = None
    ) -> np.ndarray:
        """Mean charge (n, n) over the reads of resultant j; call for j = 0, 1, .. in turn.

        With ``convert(charge, rows)`` the mean of what that makes of some rows of the charge of
        each read.
        """
        mean, reads = np.zeros_like(self.charge), self.run.pattern[j]
        for read in reads:
            self._expose(read)

            def work(_i: int, rows: slice) -> None:
                mean[rows] += self.charge[rows] if convert is None else convert(self.charge, rows)

            self.run.bands(work, self.run.n)
        mean /= len(reads)
        return mean

    def _expose(self, read: int) -> None:
        """Fill the wells until this read."""
        row, frame = self.hits[:, 0] - BORDER, self.hits[:, 2]
        new = (frame > self.frame) & (frame <= read)

        def work(i: int, rows: slice) -> None:
            charge = self.charge[rows]
            for light, stream in zip(self.layers, self.streams[i], strict=True):
                charge += stream.poisson(light[rows] * np.float32(read - self.frame))
            y, x, _, electrons = self.hits[(row >= rows.start) & (row < rows.stop) & new].T
            np.add.at(charge, (y - BORDER - rows.start, x - BORDER), electrons)
            np.minimum(charge, self.full[rows], out=charge)

        self.run.bands(work, self.run.n)
        self.frame = read


def pink_noise(rng: np.random.Generator, side: int) -> np.ndarray:
    """A block (N, 128) of 1/f noise in readout order, variance 1 per unit ln f, mean 0."""
    length = 2 * CHANNEL_WIDTH * side
    spectrum = rng.standard_normal((length // 2, 2), dtype=np.float32).view(np.complex64)[:, 0]
    spectrum *= 0.5 * length / np.sqrt(np.arange(1, length // 2 + 1, dtype=np.float32))
    spectrum[-1] *= 2  # the highest frequency stands once in the transform, the others twice
    block = fft.irfft(np.concatenate([[0], spectrum]).astype(np.complex64), length)[: length // 2]
    return (block - block.mean()).reshape(side, CHANNEL_WIDTH)


class Electronics:
    """From charge to raw numbers, resultant after resultant, and the mean dark ramp beside it."""

    def __init__(self, run: Run, pixels: Pixels, biascorr: bool, t0: float):
        self.run, self.pixels = run, pixels
        self.dark_slope = (
            share_between_pixels(run, pixels.kernel, pixels.dark + pixels.hot) / pixels.gain
        )
        # reset so low that ordinary dark current alone brings the signal to 0 at t0
        start = t0 + RESET_LAG * run.frame_time
        self.start = (
            np.float32(start) * share_between_pixels(run, pixels.kernel, pixels.dark) / pixels.gain
        )
        self.read = run.plane("read", 1, 0.05, run.side)
        self.read *= run.noise["read"] / np.sqrt(np.mean(self.read**2))
        self.reset = np.float32(run.noise["reset"]) * run.plane("reset", 1, 0.05, run.side)
        self.kept = self.reset * run.plane("reset draw", 0, 1, run.side)  # in all resultants
        self.pedestal = run.plane("pedestal", 5900, 30, run.side)
        self.amp33_med = run.plane("amp33 med", 5500, 20, run.side)[:, :CHANNEL_WIDTH].copy()
        self.amp33_std = (
            run.plane("amp33 std", 1, 0.1, run.side)[:, :CHANNEL_WIDTH] * run.noise["amp33"]
        )
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

    def drift(self, j: int) -> np.float32:
        """What the pedestal of resultant j has more than that of late ones, DN."""
        return np.float32(3 * np.exp(-j))

    def active(
        self, j: int, rows: slice, charge: np.ndarray, bias: np.ndarray, dark: np.ndarray,
        raw: np.ndarray,
    ) -> None:  # fmt: skip
        """Fill some active rows of `dark` and `raw`, without read noise and 1/f noise."""
        pixels, reads = self.pixels, self.run.pattern[j]
        dark_time = np.float32((np.mean(reads) + RESET_LAG) * self.run.frame_time)
        to = slice(rows.start + BORDER, rows.stop + BORDER), slice(BORDER, -BORDER)
        level = np.minimum(self.dark_slope[rows] * dark_time, 60000) - self.start[rows]
        dark[to] = pixels.to_raw(level, rows) + bias[rows]
        level = share_charge(pixels.kernel, charge, rows) / pixels.gain[rows]
        level += self.kept[to] - self.start[rows]
        raw[to] = pixels.to_raw(level, rows) + bias[rows]

    def resultant(self, j: int, charge: np.ndarray, dark: np.ndarray) -> tuple[np.ndarray, ...]:
        """Raw plane (N, N) and reference output (N, 128) as uint16; fills the `dark` plane."""
        run, reads, bias = self.run, self.run.pattern[j], self.bias(j)
        scale = np.float32(1 / np.sqrt(len(reads)))
        dark[:] = self.pedestal + self.drift(j)  # of it the reference pixels stay
        raw = dark + self.kept
        for a, tau, shift, where in self.decays:
            for f in reads if j in range(len(run.pattern))[where] else ():
                late = self.times + np.float32((f + shift) * run.frame_time)
                bias += np.float32(a / len(reads)) * np.exp(-late / np.float32(tau))
        common = pink_noise(run.rng("pink common", j), run.side)

        def signal(_i: int, rows: slice) -> None:
            self.active(j, rows, charge, bias, dark, raw)

        def white(i: int, rows: slice) -> None:
            draw = run.rng("read noise", j, i).standard_normal(raw[rows].shape, dtype=np.float32)
            raw[rows] += draw * self.read[rows] * scale

        def pink(i: int, columns: slice) -> None:
            own = run.noise["U_PINK"] * pink_noise(run.rng("pink channel", j, i), run.side)
            own += run.noise["C_PINK"] * common
            raw[:, columns] += scale * (own[:, ::-1] if i % 2 else own)

        run.bands(signal, run.n)
        run.bands(white, run.side)
        run.bands(pink, run.side, CHANNEL_WIDTH)
        amp33 = run.noise["RU_PINK"] * pink_noise(run.rng("pink amp33", j), run.side)
        amp33 += run.noise["M_PINK"] * run.noise["C_PINK"] * common
        amp33 += self.amp33_std * run.rng("amp33", j).standard_normal(amp33.shape)
        amp33 = self.amp33_med + scale * amp33
        return tuple(np.clip(np.rint(a), 0, 65535).astype(np.uint16) for a in (raw, amp33))


# --- files --------------------------------------------------------------------------------------


def add_border(active: np.ndarray, value: float) -> np.ndarray:
    """An active array (.., n, n) in a border of reference pixels of one value."""
    width = [(0, 0)] * (active.ndim - 2) + [(BORDER, BORDER)] * 2
    return np.pad(active, width, constant_values=value)


def make_planes(cube: np.ndarray, first: int, extra: bool) -> np.ndarray:
    """The planes of a reference cube: those of the exposure, and one in front if `extra`."""
    if extra and not first:
        return np.concatenate([cube[:1] - 50, cube])  # of a read that nobody sent
    return cube if extra else cube[first:]
