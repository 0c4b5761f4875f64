"""Noise layers in a report: pictures, distributions and power spectra, measured and expected."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
from scipy import fft

from ..config.model import readable_paths
from ..config.noise_commands.registry import COMMANDS
from ..config.noise_labels import Layer, parse_all
from ..core.detector import BORDER, CHANNEL_WIDTH, Window
from ..errors import InputError
from ..io.layout import Layout, read_layout
from ..noise.difference_weights import difference_coefficients
from ..products.noise_commands.drawing import QuietPixels, SumChange
from ..products.noise_commands.registry import DRAWINGS
from ..steps.likelihood_tables import difference_tables
from ..steps.ramp_weights import make_fit
from .blocks import block_mean, percent
from .digits import same_digits
from .image_scan import L2, ImageScan, bands
from .replay import Replay

SHOWN = 6
"""Number of layers that get pictures; the table has the statistics of all."""
BINS = np.linspace(-6, 6, 121)
"""Edges of the bins of the distribution, in standard deviations of the layer."""
MIXED = 40
"""Number of quantiles of the variance from which an expected distribution is made."""


@dataclass(frozen=True)
class NoiseFile:
    """A noise file that belongs to an image."""

    layout: Layout
    layers: list[Layer]

    @property
    def statistics(self) -> list[dict[str, Any]]:
        """Label, median, sigma, .. of each layer."""
        return self.layout.value("statistics", default=[])

    @property
    def seconds(self) -> float | None:
        """Wall time for making the layers, s; older files do not have it."""
        return self.layout.value("seconds")


@dataclass
class Seen:
    """What one pass over a layer has found.

    Attributes
    ----------
    layer : Layer
    scale : float
        Standard deviation by which `BINS` are scaled, DN/s.
    cells : ndarray (y, x)
        Means of k x k pixels, DN/s.
    counts : ndarray
        Number of quiet pixels in each bin.
    power : ndarray (65,)
        Sum of periodograms.
    weight : int
        Number of pixels in `power`.
    unusable : int
        Number of pixels that are not finite; they are left out of all else.
    """

    layer: Layer
    scale: float
    cells: np.ndarray
    counts: np.ndarray
    power: np.ndarray
    weight: int = 0
    unusable: int = 0

    def spectrum(self) -> tuple[np.ndarray, np.ndarray]:
        """Frequencies (cycles/pixel) and one-sided power ((DN/s)^2 / (cycle/pixel))."""
        return FREQUENCIES[1:], 2 * self.power[1:] / max(self.weight, 1)


FREQUENCIES = np.arange(CHANNEL_WIDTH // 2 + 1) / CHANNEL_WIDTH


def find_noise(l2: L2) -> Path | None:
    """The noise file that the configuration of an image names; None if it names none."""
    config, place, base = l2.info.get("config", {}), l2.layout.path, folder_of(l2)
    found = readable_paths(dict(config), base).get("NOISE.OUT")
    if found is not None and not os.path.exists(found):
        found = Path(place).with_name(found.name)
    return found


def folder_of(l2: L2) -> Path:
    """The folder to which paths in the configuration of an image are relative.

    It is not stored in the image, but its path and OUT tell.
    """
    place, out = str(l2.layout.path), str(l2.info.get("config", {}).get("OUT", ""))
    known = out and not os.path.isabs(out) and place.endswith(out)
    return Path(place[: -len(out)]) if known else Path(place).parent


def open_noise(path: Path, l2: L2) -> NoiseFile:
    """Describe a noise file.

    Raises
    ------
    InputError
        If it cannot be read, or was made from another exposure or by other steps.
    """
    layout = read_layout(path)
    array = layout.array("noise")
    labels = [line["label"] for line in layout.value("statistics", default=[])]
    if array is None or len(labels) != array.shape[0]:
        raise InputError(f"{path}: not a noise file, it has no noise with its statistics")
    if array.shape[1:] != (l2.side, l2.side):
        raise InputError(f"{path}: layers have shape {array.shape[1:]}, the image has {l2.side}")
    here, there = (
        known.value(*key, default={})
        for known, key in (
            (layout, ("provenance",)),
            (l2.layout, ("processinfo", "provenance")),
        )
    )
    same = {
        "another exposure": [
            m.get("files", {}).get("IN", {}).get("content") for m in (here, there)
        ],
        "other steps or options": [m.get("recipe", {}).get("steps") for m in (here, there)],
    }
    for what, (ours, its) in same.items():
        if ours != its:
            raise InputError(f"{path}: was made from {what}")
    return NoiseFile(layout, [layer for layer, _ in parse_all(labels)])


def look(noise: NoiseFile, l2: L2, seen: ImageScan) -> list[Seen]:
    """Read every pixel of the first layers once, together with the image."""
    array = noise.layout.array("noise")
    assert array is not None
    n = l2.side // seen.k
    chosen = [
        Seen(
            layer,
            _scale(line.get("sigma")),
            np.empty((n, n), np.float32),
            np.zeros(len(BINS) - 1, np.int64),
            np.zeros(CHANNEL_WIDTH // 2 + 1),
        )
        for layer, line in zip(noise.layers[:SHOWN], noise.statistics, strict=False)
    ]
    inner = slice(
        CHANNEL_WIDTH - BORDER, l2.side - (CHANNEL_WIDTH - BORDER)
    )  # channels without border
    for band in bands(l2, seen.edges):
        quiet = band.quiet
        rows = Window(band.y0, band.y1, 0, l2.side)
        for j, one in enumerate(chosen):
            values = array.read(rows, planes=slice(j, j + 1))[0].astype(np.float32, copy=False)
            finite = np.isfinite(values)
            one.unusable += int(np.count_nonzero(~finite))
            one.cells[band.y0 // seen.k : band.y1 // seen.k] = block_mean(values, ~finite, seen.k)
            one.counts += np.histogram(values[quiet & finite], BINS * one.scale)[0]
            use = (quiet & finite)[:, inner].reshape(-1, CHANNEL_WIDTH)
            segments = np.where(use, values[:, inner].reshape(-1, CHANNEL_WIDTH), np.float32(0))
            one.power += (np.abs(fft.rfft(segments, axis=1)) ** 2).sum(axis=0, dtype=float)
            one.weight += int(np.count_nonzero(use))
    return chosen


def _scale(sigma: Any) -> float:
    """Standard deviation from the statistics of a layer, 1 if it cannot be used."""
    usable = isinstance(sigma, int | float) and isfinite(sigma) and sigma > 0
    return float(sigma) if usable else 1.0


@dataclass(frozen=True)
class Expected:
    """Expected distribution and spectrum of a layer.

    Attributes
    ----------
    sigma : float
        Standard deviation of a typical quiet pixel, DN/s.
    density : ndarray or None
        At the middles of the bins, 1/(DN/s).
    spectra : dict of str to ndarray
        Name of a curve -> power at `FREQUENCIES` from the second one on.
    """

    sigma: float
    density: np.ndarray | None
    spectra: dict[str, np.ndarray]


def expect(one: Seen, l2: L2, seen: ImageScan, replay: Replay | None) -> Expected | None:
    """Distribution and spectrum of a layer from the image it belongs to.

    Each command of the layer declares its own (`roman_dask_l2.products.noise_commands`); variances
    add up. Dark current and flat are not in that of the light, because the layers do not know them.
    None if the image does not tell.
    """
    white = np.zeros_like(seen.light)
    coloured: list[np.ndarray | float] = []  # variances of noise that is not white
    spectrum_of: list[Callable[[float], np.ndarray | None]] = []
    quiet = _quiet_pixels(one.layer, l2, seen, replay)
    for command, argument in one.layer.commands:
        drawing = DRAWINGS[command.letter]
        if isinstance(drawing, SumChange):
            continue
        noise = drawing.expect(argument, quiet)
        if noise is None:
            return None
        if noise.spectrum is None:
            white = white + noise.variance
        else:
            coloured.append(noise.variance)
            spectrum_of.append(noise.spectrum)
    known = np.isfinite(white)
    for variance in coloured:
        known &= np.isfinite(variance)
    white = white[known]
    flat = 2 * float(np.mean(white)) if white.size else 0.0
    ones = np.ones(len(FREQUENCIES) - 1)
    variances = [np.broadcast_to(variance, known.shape)[known] for variance in coloured]
    total = sum(variances, white)
    if not (total > 0).any():
        return None
    spectra = {"expected": flat * ones}
    if coloured:
        means = [float(np.mean(variance)) for variance in variances]
        simple = {"expected, white": sum((2 * mean for mean in means), flat) * ones}
        curves = [of(mean) for of, mean in zip(spectrum_of, means, strict=True)]
        known_curves = [curve for curve in curves if curve is not None]
        whole = len(known_curves) == len(curves)
        spectra = ({"expected": sum(known_curves, flat * ones)} if whole else {}) | simple
    mixed = np.quantile(total, (np.arange(MIXED) + 0.5) / MIXED)
    return Expected(float(np.sqrt(np.median(total))), _mixture(mixed, one.scale), spectra)


def _quiet_pixels(layer: Layer, l2: L2, seen: ImageScan, replay: Replay | None) -> QuietPixels:
    """What the image tells about its quiet pixels; of the light only if the layer needs it."""
    light = _light_variance(l2, seen, replay) if layer.needs_light else None
    all_light, background = light if light is not None else (None, None)

    def read_spectrum(variance: float) -> np.ndarray | None:
        return None if replay is None else _read_spectrum(variance, l2, seen, replay)

    return QuietPixels(seen.read_variance, all_light, background, read_spectrum)


def expectations() -> str:
    """What is expected of the noise of each command, as the middle of a sentence."""
    return ", ".join(f"for {command.report}" for command in COMMANDS.values() if command.report)


def formulas(looked: Sequence[Seen]) -> list[tuple[str, str]]:
    """Formulas (HTML) of expected spectra, with their symbols, for the commands of some layers."""
    letters = {letter for one in looked for letter, _ in one.layer.arguments}
    return [
        command.report_formula
        for letter, command in COMMANDS.items()
        if letter in letters and command.report_formula
    ]


def _light_variance(
    l2: L2, seen: ImageScan, replay: Replay | None
) -> tuple[np.ndarray, np.ndarray] | None:
    """Variances from all light and from the background in quiet pixels, (DN/s)^2."""
    gain = None if replay is None else replay.at("gain.data", seen.places)
    if gain is None:
        gain = np.full_like(seen.light, l2.info.get("medgain") or np.nan)
    gain = np.where(np.isfinite(gain), gain.clip(1e-4, 1e4), 1.0)
    weights = l2.numbers("weights")
    if not seen.light.size:
        return None
    factor: Any
    if weights.size:
        factor = make_fit(l2.exposure, weights, l2.exposure.n_resultants).poisson
    elif (own := _own_weights(l2, seen)) is not None:
        tables = difference_tables(l2.exposure.read_pattern, l2.exposure.frame_time)
        w = own / tables.per_time[:, np.newaxis]
        factor = tables.light @ w**2 + 2 * tables.light_next[:-1] @ (w[:-1] * w[1:])
    else:
        return None
    factor = factor / gain
    return factor * seen.light.clip(0), factor * max(float(np.median(seen.light)), 0.0)


def _own_weights(l2: L2, seen: ImageScan) -> np.ndarray | None:
    """Coefficients of the differences of resultants in the rates of quiet pixels after the
    likelihood fit, (R - 1, n), 1/s; None after another fit, or if the file does not have them."""
    ratio, unused = (l2.array("processinfo", n) for n in ("noise_ratio", "unused_differences"))
    if ratio is None or not seen.places.size:
        return None
    first = bool(l2.info.get("exclude_first", True))
    exposure = replace(l2.exposure, exclude_first=first)
    rows = np.split(seen.places[1], np.unique(seen.places[0], return_index=True)[1][1:])
    found = []
    for y, x in zip(np.unique(seen.places[0]).tolist(), rows, strict=True):
        row = Window(y, y + 1, 0, l2.side)
        left_out = None if unused is None else np.ascontiguousarray(unused.read(row)[..., x])
        of_row = np.ascontiguousarray(ratio.read(row)[:, x])
        found.append(difference_coefficients(left_out, of_row, exposure)[:, 0])
    return np.concatenate(found, axis=1)


def _mixture(variance: np.ndarray, scale: float) -> np.ndarray:
    """Density of normal draws with these variances at the middles of the bins."""
    x = (BINS[1:] + BINS[:-1]) / 2 * scale
    sigma = np.sqrt(variance[variance > 0])
    heights = np.exp(-0.5 * (x[:, None] / sigma) ** 2) / (np.sqrt(2 * np.pi) * sigma)
    return heights.mean(axis=1)


def _read_spectrum(variance: float, l2: L2, seen: ImageScan, replay: Replay) -> np.ndarray | None:
    """Spectrum along rows of read noise with this variance in the errors of the image.

    ``s^2 B(f) [2 + 2 q / sigma^2 + (U^2 + C^2) / sigma^2 p(f)]``: white noise of standard
    deviation s per pixel, and in their proportion to the read noise sigma the 1/f noises U and C
    and the variance q = (1/6 DN^2) sum K^2 / sum (K^2 / N) of rounding each resultant to integers
    twice; once, if there is no 1/f noise, which is what files that do not tell its amplitudes
    mean to a layer. All go through the correction of inter-pixel capacitance, whose mean square
    gain over the frequencies along columns is B. s^2 is `variance` times the square of the share
    that a pixel keeps. C counts as 0 where `takes_out_common` says so.
    """
    sigma = replay.median("read.data")
    own, common = (replay.scalar(f"read.anc.{name}") or 0.0 for name in ("U_PINK", "C_PINK"))
    if not sigma:
        return None
    times = 2 if own or common else 1
    if takes_out_common(replay):
        common = 0.0
    gain, share = np.ones(len(FREQUENCIES) - 1), 1.0
    ipc = next((b for b in replay.steps if b.name == "ipc"), None)
    if ipc is not None:
        kernel = np.array(
            [[replay.median("ipc4d.data", i, j) for j in range(3)] for i in range(3)], float
        )
        order = int(getattr(ipc.params, "order", 1))
        gain, share = ipc_gain(kernel, order), float(kernel[1, 1])
    pink = pink_spectrum(replay.exposure.side)
    k = l2.numbers("weights").astype(float)
    if not k.size and (of_differences := _own_weights(l2, seen)) is not None:
        c = np.median(of_differences, axis=1)
        k = np.diff(-c, prepend=0.0, append=0.0)
    rounding = (k**2).sum() / (k**2 / l2.exposure.n_reads).sum() * times / 12 if k.size else 0.0
    noise = 2 * (sigma**2 + rounding) + (own**2 + common**2) * pink
    return variance * share**2 / sigma**2 * gain * noise


def takes_out_common(replay: Replay) -> bool:
    """Whether the recipe predicts the 1/f noise that is common to all channels at every frequency,
    from the reference output, and takes it out; offsets of rows leave what varies within them."""
    return any(bound.name == "refpix_irrc" for bound in replay.steps)


def ipc_gain(kernel: np.ndarray, order: int) -> np.ndarray:
    """Mean square gain along x, at `FREQUENCIES` from the second one on, of the correction.

    With the transfer function k of the kernel the correction multiplies by
    ``sum_{i=0}^{order} (1 - k)^i``.
    """
    x = 2 * np.pi * FREQUENCIES[1:, None]
    y = 2 * np.pi * (np.arange(64) + 0.5) / 64
    transfer = sum(
        kernel[1 + dy, 1 + dx] * np.exp(-1j * (x * dx + y * dy))
        for dy in (-1, 0, 1)
        for dx in (-1, 0, 1)
    )
    return np.mean(np.abs(sum((1 - transfer) ** i for i in range(order + 1))) ** 2, axis=1)


def pink_spectrum(side: int) -> np.ndarray:
    """Expected one-sided periodogram of 128 pixels of 1/f noise, from frequency 1/128 on.

    The noise is that of `roman_dask_l2.noise.read_noise`: modes k = 1 .. L/2 with variance 1/k of
    a period of L = 256 `side` pixels. Their autocovariance c gives the periodogram
    ``(2 / 128) sum_l (128 - |l|) c(l) cos(2 pi m l / 128)``, leakage included.
    """
    period = 2 * CHANNEL_WIDTH * side
    power = np.zeros(period // 2 + 1)
    power[1:] = 1 / np.arange(1, period // 2 + 1)
    covariance = fft.irfft(power)[:CHANNEL_WIDTH] * period / 2
    lag = np.arange(CHANNEL_WIDTH)
    weight = (CHANNEL_WIDTH - lag) * covariance * np.where(lag == 0, 1, 2)
    angle = 2 * np.pi * FREQUENCIES[1:, None] * lag
    return 2 / CHANNEL_WIDTH * (np.cos(angle) * weight).sum(axis=1)


def summary(
    noise: NoiseFile, expected: Sequence[Expected | None]
) -> tuple[list[str], list[list[str]]]:
    """Names and rows of the table of all layers."""
    names = ["layer", "median (DN/s)", "sigma (DN/s)", "white noise (DN/s)"]
    names += ["clipped", "no draw"]
    lines = noise.statistics
    whites = [one.sigma if one else None for one in expected] + [None] * len(lines)
    columns = [
        [str(line["label"]) for line in lines],
        [_shown(line.get("median"), ".1e") for line in lines],
        same_digits([_number(line.get("sigma")) for line in lines], 4),
        same_digits(whites[: len(lines)], 4),
        [
            percent(line["clipped"]) if layer.clips else "-"
            for layer, line in zip(noise.layers, lines, strict=True)
        ],
        # One column: with more of them the table is wider than a phone.
        [
            f"{line['inadmissible']} ({_shown(line.get('inadmissible_unmasked'), 'd')})"
            if line["inadmissible"]
            else "0"
            for line in lines
        ],
    ]
    return names, [list(row) for row in zip(*columns, strict=True)]


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) else None


def _shown(value: Any, form: str) -> str:
    return format(value, form) if isinstance(value, int | float) else "-"
